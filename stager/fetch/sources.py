"""Sources of contents. A source is never trusted: its bytes are verified by the address, piece by piece.

Every source reads ranges; one that also has the data map and the piece layer saves work on both sides. Features such as
resumption and rate limits are wrappers around sources, so that they can be combined.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
        """Read the bytes from `start` up to `end`, in chunks of any size, unverified; both lie on leaves or at the end.

        Raises:
            SourceUnavailable: now, or in the middle; the bytes so far may be used.
            SourceLacks: the source does not have the content.
        """
        ...


@runtime_checkable
class GuidedSource(ContentSource, Protocol):
    """A source that also has the unsigned accelerators of contents; None for a missing one."""

    def layer(self, address: Address) -> bytes | None:
        """Read the piece layer."""
        ...

    def data_map(self, address: Address) -> bytes | None:
        """Read the data map: one bit per leaf, most significant first, set where there is data."""
        ...


@runtime_checkable
class MultiRangeSource(ContentSource, Protocol):
    """A source that sends several ranges in one response."""

    def read_many(self, address: Address, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
        """Read at most MAX_RANGES ranges, in order and with gaps between them, one after the other; as `read`."""
        ...


@runtime_checkable
class HintSource(ContentSource, Protocol):
    """A source that has the hints of contents; None for missing ones."""

    def hints(self, address: Address) -> bytes | None:
        """Read the hints: 8 bytes for each 4 KiB (docs/formats.md), unverified."""
        ...


def read_ranges(source: ContentSource, address: Address, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
    """Read ranges, in one request if the source can; errors as `ContentSource.read`."""
    if len(ranges) > 1 and isinstance(source, MultiRangeSource):
        yield from source.read_many(address, ranges)
        return
    for start, end in ranges:
        yield from source.read(address, start, end)


def remaining_ranges(ranges: Sequence[ByteRange], count: int) -> list[ByteRange]:
    """Return the remainder of ranges after their first `count` bytes."""
    left: list[ByteRange] = []
    for start, end in ranges:
        skipped = min(count, end - start)
        count -= skipped
        if start + skipped < end:
            left.append((start + skipped, end))
    return left


RETRIES = RetryPolicy(attempts=6, base=0.1, most=1.6, floor=0.5)
"""Of a transfer that breaks again and again with less than GAIN bytes in between."""

GAIN = 64 << 10
"""Bytes that justify a new attempt: the smallest piece."""


class ResumingSource:
    """A source that resumes another one at the byte where it broke, and sends exactly the requested bytes."""

    def __init__(self, source: ContentSource, sleep: Callable[[float], None]) -> None:
        self._source, self._sleep = source, sleep

    def read(self, address: Address, start: int, end: int) -> Iterator[bytes]:
        """As `ContentSource.read`; SourceUnavailable after CUT_TRIES breaks."""
        yield from self.read_many(address, [(start, end)])

    def read_many(self, address: Address, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
        """As `MultiRangeSource.read_many`; SourceUnavailable after CUT_TRIES breaks."""
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
                reason = f"{_describe(ranges)} of {address} ended at byte {position} of {size}"
            except SourceUnavailable as exc:
                reason = str(exc)
            if position == size:
                return
            cuts = 1 if position - mark >= GAIN else cuts + 1
            mark = position
            if not RETRIES.again(cuts):
                raise SourceUnavailable(f"{reason}; partial data of {address} kept: stage again to resume")
            self._sleep(RETRIES.pause(cuts))


class ThrottledSource:
    """A source with a rate limit; see `FetchLimits.throttle`."""

    def __init__(self, source: ContentSource, throttle: Callable[[int], None]) -> None:
        self._source, self._throttle = source, throttle

    def read(self, address: Address, start: int, end: int) -> Iterator[bytes]:
        """As `ContentSource.read`."""
        return self.read_many(address, [(start, end)])

    def read_many(self, address: Address, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
        """As `MultiRangeSource.read_many`."""
        for chunk in read_ranges(self._source, address, ranges):
            self._throttle(len(chunk))
            yield chunk


def _describe(ranges: Sequence[ByteRange]) -> str:
    start, end = ranges[0][0], ranges[-1][1]
    return f"the range {start}-{end}" if len(ranges) == 1 else f"{len(ranges)} ranges within {start}-{end}"


SINGLE = 64 << 10
"""Bytes of the smallest piece: a content up to this size is verified by its root alone, and is not worth the round trip
for a map."""


def load_piece_map(source: ContentSource, address: Address) -> PieceMap:
    """Load a content's accelerators from a source, as far as they are proved or harmless when wrong.

    Raises:
        SourceUnavailable: from the source; a missing accelerator is not an error.
    """
    if not isinstance(source, GuidedSource) or address.size <= SINGLE:
        return PieceMap.of(address)
    layer = data_map = None
    with suppress(SourceLacks):
        layer = source.layer(address) if PieceMap.of(address).layer is None else None
    with suppress(SourceLacks):
        data_map = source.data_map(address)
    return PieceMap.of(address, layer, data_map)


class HttpSource:
    """A catalog, over HTTP ranges."""

    def __init__(self, client: "TrustedCatalog") -> None:
        self._client = client
        self._multi_range = True

    def read(self, address: Address, start: int, end: int) -> Iterator[bytes]:
        """As `ContentSource.read`."""
        with _translated(address):
            yield from self._client.content_range(address, start, end)

    def read_many(self, address: Address, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
        """As `MultiRangeSource.read_many`. Another server may not support several ranges: then each is requested alone."""
        came = 0
        if self._multi_range:
            try:
                with _translated(address):
                    for chunk in self._client.content_ranges(address, ranges):
                        came += len(chunk)
                        yield chunk
            except SourceUnavailable as exc:
                if not isinstance(exc.__cause__, Malformed | RangeRefused):
                    raise
                self._multi_range = False
            else:
                return
        for start, end in remaining_ranges(ranges, came):
            yield from self.read(address, start, end)

    def hints(self, address: Address) -> bytes | None:
        """As `HintSource.hints`."""
        with _translated(address):
            return self._client.hints(address)

    def layer(self, address: Address) -> bytes | None:
        """As `GuidedSource.layer`."""
        with _translated(address):
            return self._client.layer(address)

    def data_map(self, address: Address) -> bytes | None:
        """As `GuidedSource.data_map`."""
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
