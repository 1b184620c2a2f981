"""A catalog and its mirrors: who is asked first, who next, and what to raise when nobody answers.

What they say is not believed here: contents prove themselves, and the rest is for `trusted` to judge.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from catalog.client.client import CatalogClient
from catalog.errors import CatalogError, NotFound, Stale, Unavailable, Unverified
from catalog.image.address import Address
from catalog.web.connection import BaseTransport

REST = 30.0
"""Seconds for which a source that gave no answer is asked last."""

log = logging.getLogger("partita.freshness")

A = TypeVar("A")


class FailoverClient:
    """Clients of a catalog and of mirrors of it. Safe to use from several threads.

    Args:
        urls: of the catalog, then of mirrors, in the order of preference.
        clock: seconds, for waiting.
        transport: what carries requests instead of the network.
        credential: shown to the catalog (the first URL) alone.
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
        """Give the connections back."""
        for client in self._clients:
            client.close()

    def answered(self, client: CatalogClient) -> None:
        """A source is well."""
        self._failed.pop(client.url, None)

    def content_range(self, address: Address, start: int, end: int) -> Iterator[bytes]:
        """As CatalogClient's; where a source stops, the next goes on."""
        position = start
        problem: CatalogError | None = None
        for client in self.order(contents=True):
            try:
                for piece in client.content_range(address, position, end):
                    position += len(piece)
                    yield piece
            except CatalogError as exc:
                problem = self.note(client, exc, problem)
            if position == end:
                return
        raise problem or Unavailable(f"the range {start}-{end} of {address} was cut at byte {position}")

    def content_ranges(self, address: Address, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """As CatalogClient's; where a source stops, the next goes on."""
        came = 0
        problem: CatalogError | None = None
        for client in self.order(contents=True):
            left = _beyond(ranges, came)
            try:
                for piece in client.content_ranges(address, left):
                    came += len(piece)
                    yield piece
            except CatalogError as exc:
                problem = self.note(client, exc, problem)
            if not _beyond(ranges, came):
                return
        raise problem or Unavailable(f"{len(ranges)} ranges of {address} were cut after {came} bytes")

    def any(self, ask: Callable[[CatalogClient], A]) -> A:
        """What the first that answers says; the gravest error if none does."""
        problem: CatalogError | None = None
        for client in self.order(contents=True):
            try:
                return ask(client)
            except CatalogError as exc:
                problem = self.note(client, exc, problem)
        raise problem or Unavailable("no catalog is configured")

    def order(self, *, contents: bool = False) -> list[CatalogClient]:
        """Who is asked first: for contents the mirrors, else the catalog; who lately gave no answer, last."""
        clients = self._clients[1:] + self._clients[:1] if contents else list(self._clients)
        now = self._clock()
        return sorted(clients, key=lambda client: now - self._failed.get(client.url, -REST * 2) < REST)

    def note(self, client: CatalogClient, found: CatalogError, worst: CatalogError | None) -> CatalogError:
        """Remember that a source failed; returns what to raise if all do: the gravest, and of equals the first."""
        if isinstance(found, Unavailable):
            self._failed[client.url] = self._clock()
        if len(self._clients) > 1:
            log.warning("%s", found)
        return found if worst is None or (_grave(found) > _grave(worst)) else worst


def _beyond(ranges: Sequence[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """What is left of ranges (start, end) after their first `count` bytes."""
    left = []
    for start, end in ranges:
        skipped = min(count, end - start)
        count -= skipped
        if start + skipped < end:
            left.append((start + skipped, end))
    return left


def _grave(error: CatalogError) -> int:
    """Which of several failures tells most: what did not verify, then what has expired, then what is not there."""
    if isinstance(error, Stale):
        return 2
    if isinstance(error, Unverified):
        return 3
    return 1 if isinstance(error, NotFound) else 0
