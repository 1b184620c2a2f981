"""Sources of contents. A source is never trusted: its bytes are verified by the address, piece by piece.

Features such as resumption and rate limits are wrappers around sources, so that they can be combined.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from catalog.content.content_store import AcceleratorKind
from catalog.errors import CatalogError, Malformed, NotFound, RangeRefused
from catalog.image.address import Address
from catalog.image.ranges import ByteRange, remaining_ranges
from signer.runtime.retry import RetryPolicy
from stager.content.piece_map import PieceMap
from stager.errors import SourceLacks, SourceUnavailable

if TYPE_CHECKING:
    from catalog.client.client import CatalogClient
    from catalog.client.trusted import TrustedCatalog


class ContentSource(ABC):
    """Reads contents. Called from several threads at once."""

    @abstractmethod
    def read(self, address: Address, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
        """Read at most MAX_RANGES ranges, in order and with gaps between them, one after the other.

        The bytes come in chunks of any size, unverified. Ranges begin and end on leaves or at the content's end.

        Raises:
            SourceUnavailable: now, or in the middle; the bytes so far may be used.
            SourceLacks: the source does not have the content.
        """

    def accelerator(self, address: Address, kind: AcceleratorKind) -> bytes | None:  # noqa: ARG002 - for sources that have some
        """Read an accelerator, which saves work on both sides; None if the source has none."""
        return None


RETRIES = RetryPolicy(attempts=6, base=0.1, max_pause=1.6, floor=0.5)
"""Of a transfer that breaks again and again with less than GAIN bytes in between."""

GAIN = 64 << 10
"""Bytes that justify a new attempt: the smallest piece."""


class ResumingSource(ContentSource):
    """A source that resumes another one at the byte where it broke, and sends exactly the requested bytes."""

    def __init__(self, source: ContentSource, sleep: Callable[[float], None]) -> None:
        self._source, self._sleep = source, sleep

    def read(self, address: Address, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
        """As `ContentSource.read`; SourceUnavailable after the breaks that RETRIES allows."""
        size = sum(end - start for start, end in ranges)
        position = mark = cuts = 0
        while True:
            try:
                for chunk in self._source.read(address, remaining_ranges(ranges, position)):
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
            if not RETRIES.has_next(cuts):
                raise SourceUnavailable(f"{reason}; partial data of {address} kept: stage again to resume")
            self._sleep(RETRIES.pause(cuts))


class ThrottledSource(ContentSource):
    """A source with a rate limit; see `FetchLimits.throttle`."""

    def __init__(self, source: ContentSource, throttle: Callable[[int], None]) -> None:
        self._source, self._throttle = source, throttle

    def read(self, address: Address, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
        """As `ContentSource.read`."""
        for chunk in self._source.read(address, ranges):
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
    if address.size <= SINGLE:
        return PieceMap.of(address)
    layer = data_map = None
    with suppress(SourceLacks):
        layer = source.accelerator(address, "layer") if PieceMap.of(address).layer is None else None
    with suppress(SourceLacks):
        data_map = source.accelerator(address, "map")
    return PieceMap.of(address, layer, data_map)


class HttpSource(ContentSource):
    """A catalog, over HTTP ranges."""

    def __init__(self, client: "CatalogClient | TrustedCatalog") -> None:
        self._client = client
        self._multi_range = True

    def read(self, address: Address, ranges: Sequence[ByteRange]) -> Iterator[bytes]:
        """As `ContentSource.read`. Another server may not support several ranges: then each is requested alone."""
        came = 0
        if self._multi_range and len(ranges) > 1:
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
        with _translated(address):
            for start, end in remaining_ranges(ranges, came):
                yield from self._client.content_range(address, start, end)

    def accelerator(self, address: Address, kind: AcceleratorKind) -> bytes | None:
        """As `ContentSource.accelerator`."""
        with _translated(address):
            return self._client.accelerator(address, kind)


@contextmanager
def _translated(address: Address) -> Iterator[None]:
    try:
        yield
    except NotFound as exc:
        raise SourceLacks(f"the catalog does not have the content {address}: {exc}; ask its publisher") from exc
    except CatalogError as exc:
        raise SourceUnavailable(str(exc)) from exc
