"""A catalog and its mirrors: the order in which they are asked, and the error to raise when none of them answers.

Answers are not verified here: contents are verified by their addresses, and `trusted` verifies the rest.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from catalog.client.client import CatalogClient
from catalog.errors import CatalogError, NotFound, Stale, Unavailable, Unverified
from catalog.image.address import Address
from catalog.web.connection import BaseTransport

REST = 30.0
"""Seconds for which a source that did not answer is asked last."""

log = logging.getLogger("partita.freshness")

A = TypeVar("A")


class FailoverClient:
    """Clients of a catalog and of mirrors of it. Safe to use from several threads.

    Args:
        urls: of the catalog, then of mirrors, in the order of preference.
        clock: a monotonic clock, in seconds.
        transport: carries requests instead of the network.
        credential: sent to the catalog (the first URL) only.
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

    @property
    def first(self) -> CatalogClient:
        """The catalog itself."""
        return self._clients[0]

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            client.close()

    def record_answer(self, client: CatalogClient) -> None:
        """Note that a source answered: it is no longer asked last."""
        self._failed.pop(client.url, None)

    def content_range(self, address: Address, start: int, end: int) -> Iterator[bytes]:
        """As CatalogClient's; where one source stops, the next continues."""
        return self.content_ranges(address, [(start, end)])

    def content_ranges(self, address: Address, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """As CatalogClient's; where one source stops, the next continues."""
        received = 0
        problem: CatalogError | None = None
        for client in self.ordered(contents=True):
            left = _remaining(ranges, received)
            try:
                for chunk in client.content_ranges(address, left):
                    received += len(chunk)
                    yield chunk
            except CatalogError as exc:
                problem = self.record_failure(client, exc, problem)
            if not _remaining(ranges, received):
                return
        raise problem or Unavailable(f"{address}: the bytes asked for ended early, after {received} bytes")

    def first_answer(self, ask: Callable[[CatalogClient], A]) -> A:
        """The answer of the first source that gives one; the gravest error if all fail."""
        problem: CatalogError | None = None
        for client in self.ordered(contents=True):
            try:
                return ask(client)
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


def _remaining(ranges: Sequence[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """What is left of ranges (start, end) after their first `count` bytes."""
    left = []
    for start, end in ranges:
        skipped = min(count, end - start)
        count -= skipped
        if start + skipped < end:
            left.append((start + skipped, end))
    return left


def _gravity(error: CatalogError) -> int:
    """How grave a failure is: not verified, then expired, then not found, then any other."""
    if isinstance(error, Stale):
        return 2
    if isinstance(error, Unverified):
        return 3
    return 1 if isinstance(error, NotFound) else 0
