"""Fetching one content from a source into its incoming file: ranges in parallel, every piece proved as it arrives.

Asked for are the blocks that are neither zero nor here already. A cut connection goes on at the byte where it was cut. A
piece that is wrong is asked for again, whole and a bounded number of times; then the error names it.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from catalog.content.multipart_ranges import MAX_RANGES
from signer.runtime.progress import Advance, ignore_progress
from stager.cache.partial_file import PartialFile
from stager.content.block_matching import missing_runs
from stager.content.piece_map import PieceMap
from stager.errors import ContentCorrupt
from stager.fetch.local_reuse import ReuseResult
from stager.fetch.sources import ByteRange, ContentSource, ResumingSource

CORRUPT_TRIES = 3
"""How often a wrong piece is asked for again. Chance does not hit the same piece thrice."""


def unlimited(_count: int) -> None:
    """No limit of a rate."""


@dataclass(frozen=True)
class FetchLimits:
    """How a source is used: requests in parallel, bytes per request, how to wait, and what holds up bytes that come too
    fast (called with their number)."""

    connections: int = 4
    part_bytes: int = 8 << 20
    sleep: Callable[[float], None] = time.sleep
    throttle: Callable[[int], None] = unlimited


@dataclass
class FetchStats:
    """Bytes that came over the network, wasted ones included."""

    received: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def came(self, count: int) -> None:
        """Count received bytes; from any thread."""
        with self._lock:
            self.received += count


@dataclass(frozen=True)
class _Piece:
    """A piece to bring and what of it must be fetched; `mixed` when the rest of it is in the file, unproved."""

    number: int
    ranges: list[ByteRange]
    mixed: bool

    @property
    def length(self) -> int:
        return sum(end - start for start, end in self.ranges)


def missing_pieces(guide: PieceMap, incoming: PartialFile) -> list[int]:
    """The pieces with data that are not in the file: what an earlier attempt left counts when it proves itself."""
    if guide.layer is None:
        return list(guide.needed)
    missing = []
    for piece in guide.needed:
        start, end = guide.bounds(piece)
        if not incoming.stored(start, end) or guide.judge(piece, start, incoming.read(start, end)) is None:
            missing.append(piece)
    return missing


class HttpFetch:
    """One fetch: a guide, a source, the file to fill.

    Args:
        pieces: those to bring, in order.
        reused: what of them has been copied from elsewhere.
        grow: called with the bytes that will be allocated beyond those of the guide's data extents, before they are.
        advance: called, from one thread at a time, with bytes of the content that are settled.
    """

    def __init__(
        self,
        source: ContentSource,
        guide: PieceMap,
        incoming: PartialFile,
        pieces: Sequence[int],
        *,
        pace: FetchLimits,
        grow: Callable[[int], None],
        advance: Advance = ignore_progress,
        reused: ReuseResult | None = None,
    ) -> None:
        self._source, self._guide, self._incoming, self._pace = (
            ResumingSource(source, pace.sleep),
            guide,
            incoming,
            pace,
        )
        self._grow, self._advance, self._reused = grow, advance, reused
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._wrong: list[int] = []
        self._pieces = [self._plan(piece) for piece in pieces]
        self.fetched = FetchStats()

    def run(self) -> FetchStats:
        """Fill the file; returns the counts.

        Raises:
            ContentCorrupt: a piece stays wrong.
            SourceUnavailable, SourceLacks: the source fails; what has come is kept in the file.
            OSError: the disk fails.
        """
        for piece in self._pieces:
            if not piece.ranges:
                self._arrived(piece, b"")
        jobs = list(_requests((piece for piece in self._pieces if piece.ranges), self._pace.part_bytes))
        if len(jobs) <= 1:
            for job in jobs:
                self._request(job)
        else:
            with ThreadPoolExecutor(self._pace.connections, thread_name_prefix="fetch") as pool:
                running = [pool.submit(self._request, job) for job in jobs]
                done, _ = wait(running, return_when=FIRST_EXCEPTION)
                if any(one.exception() for one in done):
                    self._stop.set()
                    pool.shutdown(wait=True, cancel_futures=True)
            for one in running:
                if not one.cancelled():
                    one.result()
        for number in sorted(self._wrong):
            self._again(number)
        return self.fetched

    def _plan(self, piece: int) -> _Piece:
        """What of a piece to fetch: leaves with data, less what is here."""
        ranges, reused = self._guide.ranges(piece), self._reused
        if reused is None:
            return _Piece(piece, ranges, mixed=False)
        short = [run for start, end in ranges for run in missing_runs(start, end, reused.has)]
        return _Piece(piece, short, mixed=short != ranges)

    def _request(self, pieces: list[_Piece]) -> None:
        """Fetch what is missing of some pieces in one request."""
        ranges = join_ranges(run for piece in pieces for run in piece.ranges)
        waiting = iter(pieces)
        piece: _Piece | None = next(waiting)
        buffer = bytearray()
        for chunk in self._source.read_many(self._guide.address, ranges):
            if self._stop.is_set():
                return
            self.fetched.came(len(chunk))
            self._pace.throttle(len(chunk))
            buffer += chunk
            while piece is not None and len(buffer) >= piece.length:
                content = bytes(memoryview(buffer)[: piece.length])
                del buffer[: piece.length]
                self._arrived(piece, content)
                piece = next(waiting, None)

    def _arrived(self, piece: _Piece, content: bytes) -> None:
        """What was fetched of a piece is here: prove all of it, and write what is new."""
        start, end = self._guide.bounds(piece.number)
        if piece.mixed:
            whole = bytearray(self._incoming.read(start, end))
        else:
            start, end = piece.ranges[0][0], piece.ranges[-1][1]
            whole = bytearray() if len(piece.ranges) == 1 else bytearray(end - start)
        if len(piece.ranges) == 1 and not piece.mixed:
            runs = self._guide.judge(piece.number, start, content)
        else:
            at = 0
            for low, high in piece.ranges:
                whole[low - start : high - start] = content[at : at + high - low]
                at += high - low
            runs = self._guide.judge(piece.number, start, bytes(whole))
        if runs is None:
            with self._lock:
                self._wrong.append(piece.number)
            return
        if piece.mixed:
            runs = [(low, bytes(whole[low - start : high - start])) for low, high in piece.ranges]
        for place, data in runs:
            self._incoming.write(data, place)
        low, high = self._guide.bounds(piece.number)
        with self._lock:
            self._advance(high - low)

    def _again(self, piece: int) -> None:
        """A wrong piece, whole: it may be a map or a hint that was wrong about what need not be fetched."""
        guide = self._guide
        start, end = guide.bounds(piece)
        for _ in range(CORRUPT_TRIES):
            content = b"".join(self._source.read(guide.address, start, end))
            self.fetched.came(len(content))
            self._pace.throttle(len(content))
            runs = guide.judge(piece, start, content)
            if runs is not None:
                asked = sum(high - low for low, high in guide.ranges(piece))
                if end - start > asked:
                    self._grow(end - start - asked)
                if self._incoming.stored(start, end):
                    runs = [(start, content)]  # zeros are written too: other bytes may be where they belong
                for place, data in runs:
                    self._incoming.write(data, place)
                self._advance(end - start)
                return
        raise ContentCorrupt(
            f"piece {piece} (bytes {start}-{end}) of {guide.address} came wrong {CORRUPT_TRIES + 1} times; the source is "
            "broken or hostile: tell its operator, or stage from another"
        )


def join_ranges(runs: Iterable[ByteRange]) -> list[ByteRange]:
    """Ranges in order, with those that touch put together."""
    found: list[ByteRange] = []
    for start, end in runs:
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def _requests(pieces: Iterable[_Piece], most: int) -> Iterator[list[_Piece]]:
    """The pieces of each request: at most so many bytes, and so many ranges, as one may ask for."""
    group: list[_Piece] = []
    size = ranges = 0
    for piece in pieces:
        if group and (size + piece.length > most or ranges + len(piece.ranges) > MAX_RANGES):
            yield group
            group, size, ranges = [], 0, 0
        group.append(piece)
        size += piece.length
        ranges += len(piece.ranges)
    if group:
        yield group
