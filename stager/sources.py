"""Where content comes from. A source is never believed: what it sends is proved by the address, piece by piece.

A ladder: the lowest rung reads ranges; one that can also say which leaves hold data, and hash the pieces, spares both
sides work. Features are wrappers around sources, so that they stack.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from catalog.address import Address
from catalog.errors import CatalogError, NotFound
from stager.errors import SourceLacks, SourceUnavailable, StagerError
from stager.pieces import Guide


class Source(Protocol):
    """Reads ranges of content. Called from several threads at once."""

    def read(self, address: Address, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` up to `end`, in chunks of any size, unproved; both lie on leaves or at the end.

        Raises:
            SourceUnavailable: now, or in the middle; what came so far may be used.
            SourceLacks: there is no such content here.
        """
        ...


@runtime_checkable
class GuidedSource(Source, Protocol):
    """A source that also has the unsigned accelerators of content; None where it has one not."""

    def layer(self, address: Address) -> bytes | None:
        """The piece layer."""
        ...

    def data_map(self, address: Address) -> bytes | None:
        """One bit per leaf, most significant first, set where there is data."""
        ...


CUT_TRIES = 5
"""How often in a row a range may be cut with less than GAIN bytes between the cuts."""

GAIN = 64 << 10
"""Bytes that make a new attempt worth while: the smallest piece."""

FIRST_PAUSE = 0.05
"""Seconds before the first new attempt after a cut; each further pause is twice as long: 0.05 to 0.8."""


class Resuming:
    """A source that goes on where another was cut, at the very byte, and never gives more or less than was asked for."""

    def __init__(self, source: Source, sleep: Callable[[float], None]) -> None:
        self._source, self._sleep = source, sleep

    def read(self, address: Address, start: int, end: int) -> Iterator[bytes]:
        """See Source; SourceUnavailable when cuts leave no hope."""
        position, mark, cuts = start, start, 0
        while True:
            try:
                for chunk in self._source.read(address, position, end):
                    if len(chunk) > end - position:
                        yield chunk[: end - position]
                        position = end
                        break
                    position += len(chunk)
                    yield chunk
                reason = f"the range {start}-{end} of {address} ended at byte {position}"
            except SourceUnavailable as exc:
                reason = str(exc)
            if position == end:
                return
            cuts = 1 if position - mark >= GAIN else cuts + 1
            mark = position
            if cuts > CUT_TRIES:
                raise SourceUnavailable(
                    f"{reason}; what has come of {address} is kept: stage again to go on from there"
                )
            self._sleep(FIRST_PAUSE * 2 ** (cuts - 1))


def guide_for(source: Source, address: Address) -> Guide:
    """What a source says of content, as far as it proves itself or is harmless when wrong.

    Raises:
        SourceUnavailable, SourceLacks: from the source; a missing accelerator alone is no error.
    """
    if not isinstance(source, GuidedSource):
        return Guide.of(address)
    layer = data_map = None
    if Guide.of(address).layer is None:
        try:
            layer = source.layer(address)
        except SourceLacks:
            layer = None
    try:
        data_map = source.data_map(address)
    except SourceLacks:
        data_map = None
    return Guide.of(address, layer, data_map)


class Blobs(Protocol):
    """What of `catalog.client.CatalogClient` a node needs; errors are catalog.errors."""

    def blob_range(self, address: Address, start: int, end: int) -> Iterator[bytes]:
        """The bytes from start up to end."""
        ...

    def layer(self, address: Address) -> bytes:
        """The piece layer."""
        ...

    def data_map(self, address: Address) -> bytes:
        """The data map."""
        ...


class HttpSource:
    """A catalog, over HTTP ranges."""

    def __init__(self, client: Blobs) -> None:
        self._client = client

    def read(self, address: Address, start: int, end: int) -> Iterator[bytes]:
        """See Source."""
        with _translated(address):
            yield from self._client.blob_range(address, start, end)

    def layer(self, address: Address) -> bytes | None:
        """See GuidedSource."""
        with _translated(address):
            return self._client.layer(address)

    def data_map(self, address: Address) -> bytes | None:
        """See GuidedSource."""
        with _translated(address):
            return self._client.data_map(address)


@contextmanager
def _translated(address: Address) -> Iterator[None]:
    try:
        yield
    except CatalogError as exc:
        raise _error(address, exc) from exc


def _error(address: Address, exc: CatalogError) -> StagerError:
    if isinstance(exc, NotFound):
        return SourceLacks(f"the catalog does not have the content {address}: {exc}; ask its publisher")
    return SourceUnavailable(str(exc))
