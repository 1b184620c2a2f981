"""An HTTP connection pool to one catalog, with limits, retries, and errors as exceptions. The only door to httpx2."""

import ipaddress
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypedDict, TypeVar, Unpack

import httpx2

from catalog.errors import CatalogError, Malformed, Misused, Unavailable
from catalog.schema.images import MAX_RESPONSE, ResponseModel
from catalog.schema.problems import MAX_PROBLEM, read_problem
from signer.documents import parse
from signer.errors import DocumentError
from signer.runtime.retry import RetryPolicy
from signer.runtime.tls import trust_for

CONNECTIONS = 16
"""Connections to one catalog, at most: several concurrent ranges in each direction."""

TIMEOUT = httpx2.Timeout(30.0, connect=5.0, pool=None)
"""Seconds without data. Requests that may take longer add `patience`."""

RETRIES = RetryPolicy(attempts=7, base=0.2, max_pause=6.4, floor=0.5)
"""Of a request that was cut: 6 to 12 seconds in all, long enough for a catalog to be started again."""

BaseTransport = httpx2.BaseTransport
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_CREDENTIAL = re.compile(r"[A-Za-z0-9._-]{1,200}")
A = TypeVar("A", bound=ResponseModel)


class RequestOptions(TypedDict, total=False):
    """Optional parts of a request: body, headers, query, and seconds that the server may be silent beyond TIMEOUT."""

    content: bytes | None
    headers: Mapping[str, str] | None
    params: Mapping[str, str] | None
    patience: float


class Connection:
    """Requests to one catalog; thread-safe."""

    def __init__(
        self,
        url: str,
        transport: BaseTransport | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        credential: str = "",
    ) -> None:
        """Make a pool, which connects at the first request; Misused if the URL is invalid.

        Args:
            url: such as http://127.0.0.1:7070.
            transport: replaces the network.
            sleep: waits between attempts.
            credential: of this node's site, sent with every request; without one, requests are anonymous.
        """
        self.url = url.rstrip("/")
        self._sleep = sleep
        self._connected = threading.Event()
        try:
            parsed = httpx2.URL(self.url)
        except (httpx2.InvalidURL, ValueError) as exc:
            raise Misused(f"{url!r} is not a valid URL; give it as http://HOST:PORT") from exc
        if parsed.scheme not in {"http", "https"} or not _HOST.fullmatch(parsed.host):
            raise Misused(f"{url!r} is not a valid URL of a catalog; give it as http://HOST:PORT")
        self._http = httpx2.Client(
            transport=transport,
            verify=trust_for(self.url),
            timeout=TIMEOUT,
            limits=httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            headers={"Accept-Encoding": "identity", "User-Agent": "partita"} | _authorization(credential),
            trust_env=not _is_loopback(parsed.host),  # a proxy cannot reach this machine's loopback
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def pause(self, seconds: float) -> None:
        """Wait before another attempt."""
        self._sleep(seconds)

    def ask(self, model: type[A], method: str, path: str, **options: Unpack[RequestOptions]) -> A:
        """The response as a document of its type; arguments and errors as for :meth:`attempt`."""
        data = self.attempt(method, path, MAX_RESPONSE, **options)
        try:
            return parse(model, data, f"response of {self.url}{path}", limit=MAX_RESPONSE)
        except DocumentError as exc:
            raise Malformed(f"{exc}; is this a catalog?") from exc

    def attempt(self, method: str, path: str, limit: int, **options: Unpack[RequestOptions]) -> bytes:
        """Send a request, with retries, and return the response body: all requests of this API are idempotent.

        Args:
            method, path, options: the request.
            limit: bytes of the response, at most.

        Raises:
            Unavailable: no response to any attempt.
            CatalogError, DocumentError: the exception that the catalog raised.
        """
        for delay in RETRIES.pauses():
            try:
                with self.stream(method, path, **options) as response:
                    return _read(response, limit)
            except Unavailable as exc:
                # No retry after a timeout, which waited long enough, nor if the server never was reachable.
                if delay is None or isinstance(exc.__cause__, httpx2.TimeoutException) or not self._connected.is_set():
                    raise
                self._sleep(delay)
        raise AssertionError

    @contextmanager
    def stream(self, method: str, path: str, **options: Unpack[RequestOptions]) -> Iterator[httpx2.Response]:
        """The response while it arrives, in one attempt; errors as for :meth:`attempt`."""
        with self._open(method, path, **options) as response:
            if not response.is_success:
                raise _error(response)
            yield response

    @contextmanager
    def plain(self, path: str) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The status of a GET and its body while it arrives, from any kind of server, in one attempt.

        Raises:
            Unavailable: the server cannot be reached, is silent for too long, or interrupts the response.
        """
        with self._open("GET", path) as response:
            yield response.status_code, response.iter_raw()

    @contextmanager
    def _open(self, method: str, path: str, patience: float = 0.0, **options: Any) -> Iterator[httpx2.Response]:
        timeout = httpx2.Timeout((TIMEOUT.read or 0.0) + patience, connect=TIMEOUT.connect, pool=None)
        try:
            with self._http.stream(method, self.url + path, timeout=timeout, **options) as response:
                self._connected.set()
                yield response
        except httpx2.TimeoutException as exc:
            raise Unavailable(f"{self.url}: no response in time; check that the server runs, and retry") from exc
        except (httpx2.TransportError, httpx2.InvalidURL) as exc:
            if not isinstance(exc, httpx2.ConnectError):
                self._connected.set()
            reason = exc or type(exc).__name__
            raise Unavailable(f"{self.url}: cannot be reached ({reason}); check that the server runs there") from exc


def _authorization(credential: str) -> dict[str, str]:
    if not credential:
        return {}
    if not _CREDENTIAL.fullmatch(credential):
        raise Misused("the credential of a site is one line, SITE.SECRET; `partita catalog site register` prints it")
    return {"Authorization": f"Bearer {credential}"}


def _error(answer: httpx2.Response) -> Exception:
    """The exception that an error response represents."""
    try:
        known = read_problem(_read(answer, MAX_PROBLEM), CatalogError, DocumentError)
    except Malformed:
        known = None
    if known is not None:
        return known
    message = f"{answer.url}: status {answer.status_code} without a reason"
    if answer.status_code >= 500 or answer.status_code == 429:
        return Unavailable(f"{message}; try again later")
    return CatalogError(f"{message}; is this a catalog?")


def _read(answer: httpx2.Response, limit: int) -> bytes:
    data = bytearray()
    for piece in answer.iter_raw():
        data += piece
        if len(data) > limit:
            raise Malformed(f"{answer.url}: the response has more than the {limit} bytes allowed")
    return bytes(data)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
