"""One HTTP connection pool to one catalog: limits, retries, and errors back from the wire. The only door to httpx."""

import ipaddress
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import httpx

from catalog.errors import CatalogError, Malformed, Misused, Unavailable
from catalog.schema.images import MAX_RESPONSE, ResponseModel
from catalog.schema.problems import MAX_PROBLEM, read_problem
from signer.documents import parse
from signer.errors import DocumentError
from signer.runtime.retry import RetryPolicy

CONNECTIONS = 16
"""Connections to one catalog, at most: several ranges at once, each way."""

TIMEOUT = httpx.Timeout(30.0, connect=5.0, pool=None)
"""Seconds of silence. What may take longer says so with its request."""

RETRIES = RetryPolicy(attempts=7, base=0.2, most=6.4, floor=0.5)
"""Of a request that was cut: 6 to 12 seconds in all, long enough for a catalog to be started again."""

BaseTransport = httpx.BaseTransport
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_CREDENTIAL = re.compile(r"[A-Za-z0-9._-]{1,200}")
A = TypeVar("A", bound=ResponseModel)


class Connection:
    """Requests to one catalog, from several threads."""

    def __init__(
        self,
        url: str,
        transport: BaseTransport | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        credential: str = "",
    ) -> None:
        """Connect lazily; Misused if the URL is none.

        Args:
            url: such as http://127.0.0.1:7070.
            transport: what carries the requests instead of the network.
            sleep: what waits between tries.
            credential: of this node's site, shown with every request; without one we are a stranger.
        """
        self.url = url.rstrip("/")
        self._sleep = sleep
        self._met = threading.Event()
        try:
            parsed = httpx.URL(self.url)
        except (httpx.InvalidURL, ValueError) as exc:
            raise Misused(f"{url!r} is no URL; give it as http://HOST:PORT") from exc
        if parsed.scheme not in {"http", "https"} or not _HOST.fullmatch(parsed.host):
            raise Misused(f"{url!r} is no URL of a catalog; give it as http://HOST:PORT")
        self._http = httpx.Client(
            transport=transport,
            timeout=TIMEOUT,
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            headers={"Accept-Encoding": "identity", "User-Agent": "partita"} | _shown(credential),
            trust_env=not _is_loopback(parsed.host),  # a proxy for the world outside cannot reach this machine
        )

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def pause(self, seconds: float) -> None:
        """Wait before asking again."""
        self._sleep(seconds)

    def get(self, path: str, limit: int) -> bytes:
        """The body of a GET, of at most `limit` bytes."""
        return self.attempt("GET", path, limit)

    def ask(
        self,
        model: type[A],
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        patience: float = 0.0,
    ) -> A:
        """An answer as a document of its type; arguments and errors as in :meth:`attempt`."""
        data = self.attempt(
            method, path, MAX_RESPONSE, content=content, headers=headers, params=params, patience=patience
        )
        try:
            return parse(model, data, f"answer of {self.url}{path}", limit=MAX_RESPONSE)
        except DocumentError as exc:
            raise Malformed(f"{exc}; is this a catalog?") from exc

    def attempt(
        self,
        method: str,
        path: str,
        limit: int,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        patience: float = 0.0,
    ) -> bytes:
        """Ask until there is an answer: every request of this API may be asked again with the same result.

        Args:
            method, path, content, headers, params: the request.
            limit: bytes that the answer may have.
            patience: seconds that the catalog may be silent beyond the usual.

        Raises:
            Unavailable: it gave no answer however often it was asked.
            CatalogError, DocumentError: what the catalog raised, as the same exception.
        """
        for delay in RETRIES.pauses():
            try:
                with self.stream(
                    method, path, content=content, headers=headers, params=params, patience=patience
                ) as answer:
                    return _read(answer, limit)
            except Unavailable as exc:
                # Silence was waited for already. And where nobody ever listened, nobody is being started again.
                if delay is None or isinstance(exc.__cause__, httpx.TimeoutException) or not self._met.is_set():
                    raise
                self._sleep(delay)
        raise AssertionError

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        patience: float = 0.0,
    ) -> Iterator[httpx.Response]:
        """The answer while it arrives, asked for once; errors as in :meth:`attempt`."""
        timeout = httpx.Timeout((TIMEOUT.read or 0.0) + patience, connect=TIMEOUT.connect, pool=None)
        try:
            with self._http.stream(
                method, self.url + path, content=content, headers=headers, params=params, timeout=timeout
            ) as answer:
                self._met.set()
                if not answer.is_success:
                    raise _error(answer)
                yield answer
        except httpx.TimeoutException as exc:
            raise Unavailable(
                f"{self.url}: gave no answer in time; see whether the catalog runs, and try again"
            ) from exc
        except httpx.TransportError as exc:
            if not isinstance(exc, httpx.ConnectError):
                self._met.set()
            raise Unavailable(
                f"{self.url}: cannot be reached ({exc or type(exc).__name__}); see whether the catalog runs there"
            ) from exc

    @contextmanager
    def plain(self, path: str) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The status of a GET and its body while it arrives, whatever kind of server answers; asked for once.

        Raises:
            Unavailable: it cannot be reached, gives no answer in time, or cuts it.
        """
        try:
            with self._http.stream("GET", self.url + path) as answer:
                self._met.set()
                yield answer.status_code, answer.iter_raw()
        except httpx.TimeoutException as exc:
            raise Unavailable(f"{self.url}: gave no answer in time") from exc
        except (httpx.TransportError, httpx.InvalidURL) as exc:
            raise Unavailable(f"{self.url}: cannot be reached ({exc or type(exc).__name__})") from exc


def _shown(credential: str) -> dict[str, str]:
    if not credential:
        return {}
    if not _CREDENTIAL.fullmatch(credential):
        raise Misused("a site's credential is one line, SITE.SECRET; take it from `partita catalog site register`")
    return {"Authorization": f"Bearer {credential}"}


def _error(answer: httpx.Response) -> Exception:
    """The exception that an answer stands for."""
    try:
        known = read_problem(_read(answer, MAX_PROBLEM), CatalogError, DocumentError)
    except Malformed:
        known = None
    if known is not None:
        return known
    said = f"{answer.url}: answered {answer.status_code} without saying why"
    if answer.status_code >= 500 or answer.status_code == 429:
        return Unavailable(f"{said}; try again later")
    return CatalogError(f"{said}; is this a catalog?")


def _read(answer: httpx.Response, limit: int) -> bytes:
    data = bytearray()
    for piece in answer.iter_raw():
        data += piece
        if len(data) > limit:
            raise Malformed(f"{answer.url}: sent more than the {limit} bytes that this answer may have")
    return bytes(data)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
