"""Where content comes from. A source is never believed: what it sends is proved by the address, piece by piece.

A ladder: the lowest rung reads ranges; one that can also say which leaves hold data, and hash the pieces, spares both
sides work. Features are wrappers around sources, so that they stack.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from catalog.errors import CatalogError, Malformed, NotFound, RangeRefused
from catalog.image.address import Address
from signer.runtime.retry import RetryPolicy
from stager.content.piece_map import PieceMap
from stager.errors import SourceLacks, SourceUnavailable, StagerError

if TYPE_CHECKING:
    from catalog.client.trusted import TrustedCatalog

ByteRange = tuple[int, int]
"""(start, end) in bytes, end exclusive."""


class ContentSource(Protocol):
    """Reads ranges of content. Called from several threads at once."""

    def read(self, address: Address, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` up to `end`, in chunks of any size, unproved; both lie on leaves or at the end.

        Raises:
            SourceUnavailable: now, or in the middle; what came so far may be used.
            SourceLacks: there is no such content here.
        """
        ...


@runtime_checkable
class GuidedSource(ContentSource, Protocol):
    """A source that also has the unsigned accelerators of content; None where it has one not."""

    def layer(self, address: Address) -> bytes | None:
        """The piece layer."""
        ...

    def data_map(self, address: Address) -> bytes | None:
        """One bit per leaf, most significant first, set where there is data."""
        ...


@runtime_checkable
class MultiRangeSource(ContentSource, Protocol):
    """A source that gives several ranges in one answer."""

    def read_many(self, address: Address, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
        """The bytes of at most MAX_RANGES ranges, in order and with gaps between them, one after the other; as `read`."""
        ...


@runtime_checkable
class HintSource(ContentSource, Protocol):
    """A source that has the hints of content; None where it has not."""

    def hints(self, address: Address) -> bytes | None:
        """8 bytes for each 4 KiB (docs/formats.md), unproved."""
        ...


def read_ranges(source: ContentSource, address: Address, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
    """The bytes of ranges, in one request where the source can; errors as `ContentSource.read`."""
    if len(ranges) > 1 and isinstance(source, MultiRangeSource):
        yield from source.read_many(address, ranges)
        return
    for start, end in ranges:
        yield from source.read(address, start, end)


def remaining_ranges(ranges: Sequence[ByteRange], count: int) -> list[ByteRange]:
    """What is left of ranges after their first `count` bytes."""
    left: list[ByteRange] = []
    for start, end in ranges:
        skipped = min(count, end - start)
        count -= skipped
        if start + skipped < end:
            left.append((start + skipped, end))
    return left


RETRIES = RetryPolicy(attempts=6, base=0.1, most=1.6, floor=0.5)
"""Of a range that is cut again and again with less than GAIN bytes between the cuts."""

GAIN = 64 << 10
"""Bytes that make a new attempt worth while: the smallest piece."""


class ResumingSource:
    """A source that goes on where another was cut, at the very byte, and never gives more or less than was asked for."""

    def __init__(self, source: ContentSource, sleep: Callable[[float], None]) -> None:
        self._source, self._sleep = source, sleep

    def read(self, address: Address, start: int, end: int) -> Iterator[bytes]:
        """See Source; SourceUnavailable when cuts leave no hope."""
        yield from self.read_many(address, [(start, end)])

    def read_many(self, address: Address, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
        """See ScatteredSource; SourceUnavailable when cuts leave no hope."""
        size = sum(end - start for start, end in ranges)
        position = mark = cuts = 0
        while True:
            try:
                for chunk in read_ranges(self._source, address, remaining_ranges(ranges, position)):
                    if len(chunk) > size - position:
                        yield chunk[: size - position]
                        position = size
                        break
                    position += len(chunk)
                    yield chunk
                reason = f"{_said(ranges)} of {address} ended at byte {position} of {size}"
            except SourceUnavailable as exc:
                reason = str(exc)
            if position == size:
                return
            cuts = 1 if position - mark >= GAIN else cuts + 1
            mark = position
            if not RETRIES.again(cuts):
                raise SourceUnavailable(
                    f"{reason}; what has come of {address} is kept: stage again to go on from there"
                )
            self._sleep(RETRIES.pause(cuts))


class ThrottledSource:
    """A source that gives no faster than a limit lets it; see `Pace.throttle`."""

    def __init__(self, source: ContentSource, throttle: Callable[[int], None]) -> None:
        self._source, self._throttle = source, throttle

    def read(self, address: Address, start: int, end: int) -> Iterator[bytes]:
        """See Source."""
        return self.read_many(address, [(start, end)])

    def read_many(self, address: Address, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
        """See ScatteredSource."""
        for chunk in read_ranges(self._source, address, ranges):
            self._throttle(len(chunk))
            yield chunk


def _said(ranges: Sequence[ByteRange]) -> str:
    start, end = ranges[0][0], ranges[-1][1]
    return f"the range {start}-{end}" if len(ranges) == 1 else f"{len(ranges)} ranges within {start}-{end}"


SINGLE = 64 << 10
"""Bytes of the smallest piece: what is no longer is proved by its root alone, and asking for its map costs a round trip."""


def load_piece_map(source: ContentSource, address: Address) -> PieceMap:
    """What a source says of content, as far as it proves itself or is harmless when wrong.

    Raises:
        SourceUnavailable, SourceLacks: from the source; a missing accelerator alone is no error.
    """
    if not isinstance(source, GuidedSource) or address.size <= SINGLE:
        return PieceMap.of(address)
    layer = data_map = None
    if PieceMap.of(address).layer is None:
        try:
            layer = source.layer(address)
        except SourceLacks:
            layer = None
    try:
        data_map = source.data_map(address)
    except SourceLacks:
        data_map = None
    return PieceMap.of(address, layer, data_map)


class HttpSource:
    """A catalog, over HTTP ranges."""

    def __init__(self, client: "TrustedCatalog") -> None:
        self._client = client
        self._scattered = True

    def read(self, address: Address, start: int, end: int) -> Iterator[bytes]:
        """See Source."""
        with _translated(address):
            yield from self._client.content_range(address, start, end)

    def read_many(self, address: Address, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
        """See ScatteredSource. What is no catalog of ours may not know several ranges: then they are asked for singly."""
        came = 0
        if self._scattered:
            try:
                with _translated(address):
                    for chunk in self._client.content_ranges(address, ranges):
                        came += len(chunk)
                        yield chunk
            except SourceUnavailable as exc:
                if not isinstance(exc.__cause__, Malformed | RangeRefused):
                    raise
                self._scattered = False
            else:
                return
        for start, end in remaining_ranges(ranges, came):
            yield from self.read(address, start, end)

    def hints(self, address: Address) -> bytes | None:
        """See HintingSource."""
        with _translated(address):
            return self._client.hints(address)

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
