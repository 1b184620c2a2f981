"""The only client of AWS: its credentials, its calls, and one retry layer. boto3's own retries are switched off.

Each call has explicit timeouts, is repeated with growing pauses while that may help, and raises one of our errors when it
fails. Credentials come from a profile or an assumed role and stay in this module, out of all messages and logs.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partialmethod
from typing import Any, Final

import boto3
import botocore.config
import botocore.credentials
import botocore.exceptions
import botocore.loaders
import botocore.parsers
import botocore.session

from deployer.ec2.aws.access import AwsAccess
from deployer.ec2.errors import AwsDenied, AwsFailed, AwsMissing, AwsThrottled, AwsUnreachable
from signer.runtime.retry import RetryPolicy

CONNECT_TIMEOUT = 5.0
"""Seconds. AWS accepts a connection in milliseconds; a slower one is retried."""

READ_TIMEOUT = 30.0
"""Seconds between two bytes of an answer. The longest calls (RunInstances) answer within some seconds."""

CONNECTIONS = 64
"""Connections kept open to each service: one for each worker, else workers would wait for each other."""

ROLE_SECONDS = 3600
"""The session length of an assumed role: one that every role allows. The role is assumed again in time."""

MAX_REASON = 500
"""Characters of AWS's own text in a message."""

RETRIES = RetryPolicy(attempts=12, base=0.2, max_pause=20.0)
"""Of one request. With 5 % of all requests failing, one in 10^15 fails twelve times, after a minute and a half at most, half
of it on average: long enough for the "not found" answers about a snapshot that was just started."""

PAGE_LIMIT = 10_000
"""Pages of one list: more than a million members are taken for a list that does not end."""

_THROTTLED: Final = frozenset(
    {
        "BandwidthLimitExceeded",
        "ConcurrentLimitExceededException",
        "EC2ThrottledException",
        "PriorRequestNotComplete",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_DENIED: Final = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "MissingAuthenticationToken",
        "OptInRequired",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnauthorizedOperation",
        "UnrecognizedClientException",
    }
)
_UNSIGNED: Final = frozenset({"AuthFailure", "IncompleteSignature", "SignatureDoesNotMatch"})
"""AWS's messages about a bad signature repeat the signed request, token included."""
_TRANSIENT: Final = frozenset(
    {"InternalError", "InternalFailure", "InternalServerException", "ServiceUnavailable", "Unavailable"}
)
_BROKEN: Final = (
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.IncompleteReadError,
    botocore.parsers.ResponseParserError,
)
_NOBODY: Final = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.CredentialRetrievalError,
    botocore.exceptions.ProfileNotFound,
    botocore.exceptions.TokenRetrievalError,
)

_LOADER: Final = botocore.loaders.create_loader()
"""The loader of the services' descriptions, megabytes of JSON: read once for all accounts."""

# At DEBUG these log signed requests with credentials and user-data: never, whatever the root logger's level.
for _name in ("boto3", "botocore", "urllib3"):
    logging.getLogger(_name).setLevel(logging.INFO)


def _ignore_throttling() -> None:
    """The default `throttled` of calls that do not adapt to throttling."""


class AwsClient:
    """One account in one region; for any number of threads."""

    def __init__(
        self,
        access: AwsAccess,
        *,
        endpoint: str = "",
        patience: RetryPolicy | None = None,
        connections: int = CONNECTIONS,
        read_timeout: float = READ_TIMEOUT,
        sleep: Callable[[float], object] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Nothing is requested, and no credential is read, before the first call.

        Args:
            access: the region and the credentials.
            endpoint: URL of a substitute for all services of AWS; empty for AWS.
            patience: how often a request is repeated (default: RETRIES).
            connections: to each service at a time.
            read_timeout: seconds.
            sleep, chance: for the pauses between attempts.
        """
        self.access, self._endpoint = access, endpoint
        self._patience = patience or RETRIES
        self._sleep, self._chance = sleep, chance
        self._config = botocore.config.Config(
            region_name=access.region,
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=read_timeout,
            max_pool_connections=connections,
            retries={"total_max_attempts": 1},
            tcp_keepalive=True,
            user_agent_extra="partita",
        )
        self._lock = threading.Lock()
        self._session: boto3.Session | None = None
        self._clients: dict[str, Any] = {}

    def call(
        self,
        service: str,
        operation: str,
        /,
        *,
        again: frozenset[str] = frozenset(),
        throttled: Callable[[], object] = _ignore_throttling,
        **parameters: Any,
    ) -> dict[str, Any]:
        """Call a service. All calls may be repeated: they are idempotent, or have a client token.

        Args:
            service: boto3's name of it: "ec2".
            operation: boto3's name of it: "run_instances".
            again: AWS's codes that mean "not yet" here, such as "InvalidInstanceID.NotFound"; they are repeated too.
            throttled: called whenever AWS throttles a request.
            parameters: of the operation.

        Returns:
            The answer; a block's data in it is bytes.

        Raises:
            AwsDenied, AwsThrottled, AwsMissing, AwsUnreachable, AwsFailed: as their classes say.
        """
        attempt = 0
        while True:
            attempt += 1
            least = 0.0
            try:
                return self._send(service, operation, parameters)
            except botocore.exceptions.ClientError as exc:
                failed, least, may = self._judged(service, operation, exc, again)
                if isinstance(failed, AwsThrottled):
                    throttled()
                # A text that must not appear in the message must not appear as its cause.
                cause: Exception | None = exc if self._harmless(exc) else None
            except _NOBODY as exc:
                raise AwsDenied(
                    f"{service} {operation}: no usable AWS credentials ({self._clean(str(exc))}); "
                    "name a profile with valid credentials"
                ) from exc
            except botocore.exceptions.SSLError as exc:
                raise AwsUnreachable(
                    f"{service} {operation}: TLS verification failed: {self._clean(str(exc))}"
                ) from exc
            except _BROKEN as exc:
                message = f"{service} {operation}: incomplete answer ({self._clean(str(exc))}); check the network"
                failed, may, cause = AwsUnreachable(message), True, exc
            except botocore.exceptions.BotoCoreError as exc:
                raise AwsFailed(f"{service} {operation}: {self._clean(str(exc))}") from exc
            if not (may and self._patience.has_next(attempt)):
                raise failed from cause
            self._sleep(self._patience.pause(attempt, self._chance(), least))

    def pages(self, service: str, operation: str, member: str, /, **parameters: Any) -> Iterator[dict[str, Any]]:
        """The members of all pages of a list, such as ("ec2", "describe_snapshots", "Snapshots"); errors as in :meth:`call`."""
        token: dict[str, Any] = {}
        for _ in range(PAGE_LIMIT):
            answer = self.call(service, operation, **(parameters | token))
            yield from answer.get(member, ())
            following = answer.get("NextToken")
            if not following:
                return
            token = {"NextToken": following}
        raise AwsFailed(f"{service} {operation}: the list does not end after {PAGE_LIMIT} pages")

    ec2 = partialmethod(call, "ec2")
    ec2_list = partialmethod(pages, "ec2")
    ebs = partialmethod(call, "ebs")
    """The EBS direct APIs."""
    ebs_list = partialmethod(pages, "ebs")

    def _send(self, service: str, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(self._client(service), operation)(**parameters)
        if "BlockData" in answer:  # read here, where a broken connection counts as a failed attempt
            answer["BlockData"] = answer["BlockData"].read()
        return answer

    def _judged(
        self, service: str, operation: str, exc: botocore.exceptions.ClientError, again: frozenset[str]
    ) -> tuple[AwsFailed, float, bool]:
        """Our error for an error of AWS, the seconds that AWS asks us to wait, and whether a retry may help."""
        error = exc.response.get("Error", {})
        fault, reason = str(error.get("Code", "")), str(error.get("Message", ""))
        meta = exc.response.get("ResponseMetadata", {})
        status = int(meta.get("HTTPStatusCode", 0))
        detail = exc.response.get("Reason")  # the EBS direct APIs have one code for all invalid requests
        text = reason if fault not in _UNSIGNED else ""
        message = f"{service} {operation}: {fault or f'status {status}'}: {self._clean(text)}".rstrip(": ")
        if fault in _THROTTLED or status == 429 or (status == 503 and fault not in _TRANSIENT):
            wanted = meta.get("HTTPHeaders", {}).get("retry-after", "")
            return AwsThrottled(message, fault), float(wanted) if wanted.isdigit() else 0.0, True
        if fault in _DENIED:
            return AwsDenied(message, fault), 0.0, fault in again
        if fault.endswith(("NotFound", "NotFoundException")) or status == 404:
            return AwsMissing(message, fault), 0.0, fault in again
        may = fault in again or status >= 500 or fault in _TRANSIENT
        return AwsFailed(message, f"{fault}.{detail}" if detail else fault), 0.0, may

    def _client(self, service: str) -> Any:
        with self._lock:
            if service not in self._clients:
                session = self._session or self._open()
                self._clients[service] = self._made(session, service)
                self._session = session  # only now: it has made a client, so its credentials can be read
            return self._clients[service]

    def _made(self, session: boto3.Session, service: str) -> Any:
        client = session.client(service, config=self._config, endpoint_url=self._endpoint or None)
        client.meta.events.register("before-parse", _refuse_part)
        return client

    def _open(self) -> boto3.Session:
        outer = botocore.session.Session(profile=self.access.profile or None)
        outer.register_component("data_loader", _LOADER)
        session = boto3.Session(botocore_session=outer, region_name=self.access.region)
        if not self.access.role_arn:
            return session
        own = self._made(session, "sts")
        wanted = {"RoleArn": self.access.role_arn, "RoleSessionName": "partita", "DurationSeconds": ROLE_SECONDS}
        if self.access.external_id:
            wanted["ExternalId"] = self.access.external_id

        def assume() -> dict[str, str]:
            fresh = own.assume_role(**wanted)["Credentials"]
            return {
                "access_key": fresh["AccessKeyId"],
                "secret_key": fresh["SecretAccessKey"],
                "token": fresh["SessionToken"],
                "expiry_time": fresh["Expiration"].isoformat(),
            }

        inner = botocore.session.Session()
        inner.register_component("data_loader", _LOADER)
        inner.register_component("credential_provider", botocore.credentials.CredentialResolver([_Assumed(assume)]))
        return boto3.Session(botocore_session=inner, region_name=self.access.region)

    def _clean(self, text: str) -> str:
        """A text as one line of at most MAX_REASON characters, without secrets."""
        for secret in self._secrets():
            text = text.replace(secret, "***")
        return " ".join(text.split())[:MAX_REASON]

    def _harmless(self, exc: botocore.exceptions.ClientError) -> bool:
        """Whether an error may be shown as it is."""
        fault, text = str(exc.response.get("Error", {}).get("Code", "")), str(exc)
        return fault not in _UNSIGNED and not any(secret in text for secret in self._secrets())

    def _secrets(self) -> list[str]:
        found = self._session.get_credentials() if self._session is not None else None
        # Not through properties: they would request fresh credentials while an error about the old ones is handled.
        names = ("secret_key", "token", "_secret_key", "_token")
        return [secret for name in names if found is not None and (secret := vars(found).get(name))]


def _refuse_part(response_dict: Mapping[str, Any], **_: Any) -> None:
    """Refuse a truncated answer: the library would read it as one with fewer members."""
    body, length = response_dict["body"], response_dict["headers"].get("content-length")
    if isinstance(body, bytes) and length is not None and len(body) != int(length):
        raise botocore.parsers.ResponseParserError(f"received {len(body)} of {length} bytes")


class _Assumed(botocore.credentials.CredentialProvider):  # type: ignore[misc]  # the library has no types
    """Credentials from assuming a role, renewed before they expire."""

    METHOD = "partita-assumed-role"

    def __init__(self, assume: Callable[[], dict[str, str]]) -> None:
        super().__init__()
        self._assume = assume

    def load(self) -> Any:
        return botocore.credentials.DeferredRefreshableCredentials(self._assume, self.METHOD)
