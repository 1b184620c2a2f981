"""A catalog and its mirrors: the order in which they are asked, and the error to raise when none of them answers.

Answers are not verified here: contents are verified by their addresses, and `trusted` verifies the rest.
"""

import logging
from collections.abc import Callable, Iterator, Sequence

from catalog.client.client import CatalogClient
from catalog.content.content_store import AcceleratorKind
from catalog.errors import CatalogError, NotFound, Stale, Unavailable, Unverified
from catalog.image.address import Address
from catalog.image.ranges import remaining_ranges
from catalog.web.connection import BaseTransport
from signer.runtime.closing import Closable

REST = 30.0
"""Seconds for which a source that did not answer is asked last."""

log = logging.getLogger("partita.freshness")


class FailoverClient(Closable):
    """Clients of a catalog and of mirrors of it. Safe to use from several threads.

    Args:
        urls: of the catalog, then of mirrors, in the order of preference.
        clock: a monotonic clock, in seconds.
        transport: carries requests instead of the network.
        credential: sent to the catalog (the first URL) only.

    Attributes:
        first: the client of the catalog itself.
        url: of the catalog.
    """

    def __init__(
        self, urls: Sequence[str], clock: Callable[[], float], transport: BaseTransport | None, credential: str
    ) -> None:
        self._clients = [
            CatalogClient(url, transport, credential=credential if number == 0 else "")
            for number, url in enumerate(urls)
        ]
        self._clock = clock
        self._failed: dict[str, float] = {}

        self.first = self._clients[0]
        self.url = self.first.url

    def pause(self, seconds: float) -> None:
        """Wait before asking again."""
        self.first.pause(seconds)

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            client.close()

    def content_range(self, address: Address, start: int, end: int) -> Iterator[bytes]:
        """As CatalogClient's; where one source stops, the next continues."""
        return self.content_ranges(address, [(start, end)])

    def content_ranges(self, address: Address, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """As CatalogClient's; where one source stops, the next continues."""
        received = 0
        problem: CatalogError | None = None
        for client in self.ordered(contents=True):
            left = remaining_ranges(ranges, received)
            try:
                for chunk in client.content_ranges(address, left):
                    received += len(chunk)
                    yield chunk
            except CatalogError as exc:
                problem = self.record_failure(client, exc, problem)
            if not remaining_ranges(ranges, received):
                return
        raise problem or Unavailable(f"{address}: the bytes asked for ended early, after {received} bytes")

    def accelerator(self, address: Address, kind: AcceleratorKind) -> bytes:
        """As CatalogClient's, from the first source that answers; the gravest error if all fail."""
        problem: CatalogError | None = None
        for client in self.ordered(contents=True):
            try:
                return client.accelerator(address, kind)
            except CatalogError as exc:
                problem = self.record_failure(client, exc, problem)
        raise problem or Unavailable("no catalog is configured")

    def ordered(self, *, contents: bool = False) -> list[CatalogClient]:
        """The sources in the order to ask them: for contents mirrors first, else the catalog; failed ones last."""
        clients = self._clients[1:] + self._clients[:1] if contents else list(self._clients)
        now = self._clock()
        return sorted(clients, key=lambda client: now - self._failed.get(client.url, -REST * 2) < REST)

    def record_failure(self, client: CatalogClient, found: CatalogError, worst: CatalogError | None) -> CatalogError:
        """Note that a source failed; returns the error to raise if all do: the gravest, and of equals the first."""
        if isinstance(found, Unavailable):
            self._failed[client.url] = self._clock()
        if len(self._clients) > 1:
            log.warning("%s", found)
        return found if worst is None or (_gravity(found) > _gravity(worst)) else worst


def _gravity(error: CatalogError) -> int:
    """How grave a failure is: not verified, then expired, then not found, then any other."""
    if isinstance(error, Stale):
        return 2
    if isinstance(error, Unverified):
        return 3
    return 1 if isinstance(error, NotFound) else 0
