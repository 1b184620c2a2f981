"""Stand-ins for AWS in processes of their own, and accounts there."""

import json
import os
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployer.ec2.aws.access import AwsAccess
from deployer.ec2.aws.client import AwsClient
from signer.runtime.retry import RetryPolicy

ROOT = Path(__file__).resolve().parents[3]
REGION = "eu-west-1"
SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
QUICK = RetryPolicy(attempts=12, base=0.01, max_pause=0.2)
"""For tests: the same number of attempts, and short pauses."""


@contextmanager
def served(module: str, *arguments: str) -> Iterator[int]:
    """A server of ours as a process; yields its port. It ends with its standard input."""
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.communicate(timeout=60)


@dataclass(frozen=True)
class AwsWorld:
    """moto's server with the fault proxy before it.

    Attributes:
        url: of the proxy: the endpoint of all services.
        moto: URL of moto itself, without faults and without what the proxy mends.
        credentials: a shared credentials file (AWS_SHARED_CREDENTIALS_FILE); each profile is an account of its own.
        made: see `aws`.
    """

    url: str
    moto: str
    credentials: Path
    made: dict[tuple[Any, ...], AwsClient] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """For processes that call AWS: nothing of this machine's own configuration is seen."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return kept | self.variables()

    def variables(self) -> dict[str, str]:
        """What AWS's own library is told."""
        return {
            "AWS_SHARED_CREDENTIALS_FILE": str(self.credentials),
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def profile(self) -> str:
        """A new account, empty; its profile."""
        name = f"account-{uuid.uuid4().hex[:12]}"
        number = str(uuid.uuid4().int)[:12]
        role = f"arn:aws:iam::{number}:role/site"
        keys = self.aws().call("sts", "assume_role", RoleArn=role, RoleSessionName="tests")["Credentials"]
        with self.credentials.open("a") as file:
            file.write(
                f"[{name}]\naws_access_key_id = {keys['AccessKeyId']}\naws_secret_access_key = {keys['SecretAccessKey']}\n"
                f"aws_session_token = {keys['SessionToken']}\n"
            )
        return name

    def access(self, profile: str = "default", **more: Any) -> AwsAccess:
        """An account, to be called through the proxy (`url`)."""
        return AwsAccess(region=REGION, profile=profile, **more)

    def aws(self, profile: str = "default", **more: Any) -> AwsClient:
        """The same, to be called; short pauses. One for all who ask alike: clients take a while to be made."""
        key = (profile, *sorted(more.items()))
        return self.made.setdefault(key, AwsClient(self.access(profile), endpoint=self.url, patience=QUICK, **more))

    def faults(self, **faults: Any) -> None:
        """Set what goes wrong from now on: the fields of `tests.support.aws.fault_proxy.Faults`; nothing if none is given."""
        self._control("faults", faults)

    def asked(self) -> int:
        """How many requests have been answered."""
        return int(self._control("asked", {}))

    def log(self, since: int = 0) -> list[dict[str, Any]]:
        """What was asked and answered, since the proxy was started, or since so many requests."""
        found: list[dict[str, Any]] = self._control("log", {"since": since})
        return found

    def cancel(self, snapshot_id: str) -> None:
        """As AWS does when nobody goes on with a snapshot."""
        self._control("cancel", {"snapshot": snapshot_id})

    def corrupt(self, snapshot_id: str, block: int) -> None:
        """From now on a block of a snapshot is another one, as if it had been written so."""
        self._control("corrupt", {"snapshot": snapshot_id, "block": block})

    def _control(self, what: str, body: Mapping[str, Any]) -> Any:
        request = urllib.request.Request(f"{self.url}/-/{what}", json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())


@contextmanager
def aws_world(directory: Path) -> Iterator[AwsWorld]:
    """Both processes; the credentials file in a directory of the caller's. Set `variables()` in the environment."""
    credentials = directory / "credentials"
    credentials.write_text(f"[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = {SECRET}\n")
    with ExitStack() as stack:
        moto = stack.enter_context(served("tests.support.aws.moto_server"))
        proxy = stack.enter_context(served("tests.support.aws.fault_proxy", str(moto)))
        yield AwsWorld(f"http://127.0.0.1:{proxy}", f"http://127.0.0.1:{moto}", credentials)
