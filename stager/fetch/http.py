"""Fetches one content from a source into its partial file: ranges in parallel, every piece verified as it arrives.

Only blocks that are neither zero nor here already are requested. A connection that breaks is resumed at that byte. A wrong
piece is requested again, whole and a bounded number of times; then the error names it.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass

from catalog.content.multipart_ranges import MAX_RANGES
from catalog.image.ranges import ByteRange, join_ranges
from signer.runtime.progress import Advance, ignore_progress
from stager.cache.partial_file import PartialFile
from stager.content.block_matching import missing_runs
from stager.content.piece_map import PieceMap
from stager.errors import ContentCorrupt
from stager.fetch.local_reuse import ReuseResult
from stager.fetch.sources import ContentSource, ResumingSource

CORRUPT_TRIES = 3
"""How often a wrong piece is requested again. Random errors do not hit the same piece three times."""


def unlimited(_count: int) -> None:
    """The throttle that never waits."""


@dataclass(frozen=True)
class FetchLimits:
    """How a source is used: parallel requests, bytes per request, how to wait, and a throttle (called with the number of
    bytes received, it waits if they came too fast)."""

    connections: int = 4
    part_bytes: int = 8 << 20
    sleep: Callable[[float], None] = time.sleep
    throttle: Callable[[int], None] = unlimited


@dataclass(frozen=True)
class _Piece:
    """A piece to fetch and the ranges of it that are missing; `mixed` if the rest is in the file, unverified."""

    number: int
    ranges: list[ByteRange]
    mixed: bool

    @property
    def length(self) -> int:
        return sum(end - start for start, end in self.ranges)


def missing_pieces(piece_map: PieceMap, incoming: PartialFile) -> list[int]:
    """Return the pieces with data that are not in the file; pieces of an earlier attempt count if they verify."""
    if piece_map.layer is None:
        return list(piece_map.needed)
    missing = []
    for piece in piece_map.needed:
        start, end = piece_map.bounds(piece)
        if not incoming.stored(start, end) or piece_map.verify_piece(piece, start, incoming.read(start, end)) is None:
            missing.append(piece)
    return missing


class HttpFetch:
    """One fetch: a piece map, a source, the file to fill.

    Args:
        pieces: those to fetch, in order.
        reused: the blocks of them that have been copied from other contents.
        grow: called with the bytes that will be allocated beyond those of the map's data extents, before they are.
        advance: called, from one thread at a time, with the number of settled bytes.

    Attributes:
        received: bytes received over the network, wasted ones included.
    """

    def __init__(
        self,
        source: ContentSource,
        piece_map: PieceMap,
        incoming: PartialFile,
        pieces: Sequence[int],
        *,
        limits: FetchLimits,
        grow: Callable[[int], None],
        advance: Advance = ignore_progress,
        reused: ReuseResult | None = None,
    ) -> None:
        self._source, self._piece_map = ResumingSource(source, limits.sleep), piece_map
        self._incoming, self._limits = incoming, limits
        self._grow, self._advance, self._reused = grow, advance, reused
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._wrong: list[int] = []
        self._pieces = [self._plan(piece) for piece in pieces]
        self.received = 0

    def run(self) -> None:
        """Fill the file.

        Raises:
            ContentCorrupt: a piece stays wrong.
            SourceUnavailable, SourceLacks: the source fails; the received bytes are kept in the file.
            OSError: the disk fails.
        """
        for piece in self._pieces:
            if not piece.ranges:
                self._arrived(piece, b"")
        jobs = list(_requests((piece for piece in self._pieces if piece.ranges), self._limits.part_bytes))
        if len(jobs) <= 1:
            for job in jobs:
                self._request(job)
        else:
            with ThreadPoolExecutor(self._limits.connections, thread_name_prefix="fetch") as pool:
                running = [pool.submit(self._request, job) for job in jobs]
                done, _ = wait(running, return_when=FIRST_EXCEPTION)
                if any(one.exception() for one in done):
                    self._stop.set()
                    pool.shutdown(wait=True, cancel_futures=True)
            for one in running:
                if not one.cancelled():
                    one.result()
        for number in sorted(self._wrong):
            self._refetch(number)

    def _plan(self, piece: int) -> _Piece:
        """Plan what to fetch of a piece: leaves with data, except blocks that were reused."""
        ranges, reused = self._piece_map.ranges(piece), self._reused
        if reused is None:
            return _Piece(piece, ranges, mixed=False)
        short = [run for start, end in ranges for run in missing_runs(start, end, reused.has)]
        return _Piece(piece, short, mixed=short != ranges)

    def _request(self, pieces: list[_Piece]) -> None:
        """Fetch the missing ranges of some pieces in one request."""
        ranges = join_ranges(run for piece in pieces for run in piece.ranges)
        waiting = iter(pieces)
        piece: _Piece | None = next(waiting)
        buffer = bytearray()
        for chunk in self._source.read(self._piece_map.address, ranges):
            if self._stop.is_set():
                return
            self._count(len(chunk))
            buffer += chunk
            while piece is not None and len(buffer) >= piece.length:
                content = bytes(memoryview(buffer)[: piece.length])
                del buffer[: piece.length]
                self._arrived(piece, content)
                piece = next(waiting, None)

    def _count(self, received: int) -> None:
        with self._lock:
            self.received += received
        self._limits.throttle(received)

    def _arrived(self, piece: _Piece, content: bytes) -> None:
        """Verify a piece of which the missing ranges have arrived, and write the new bytes."""
        start, end = self._piece_map.bounds(piece.number)
        if piece.mixed:
            whole = bytearray(self._incoming.read(start, end))
        else:
            start, end = piece.ranges[0][0], piece.ranges[-1][1]
            whole = bytearray() if len(piece.ranges) == 1 else bytearray(end - start)
        if len(piece.ranges) == 1 and not piece.mixed:
            runs = self._piece_map.verify_piece(piece.number, start, content)
        else:
            at = 0
            for low, high in piece.ranges:
                whole[low - start : high - start] = content[at : at + high - low]
                at += high - low
            runs = self._piece_map.verify_piece(piece.number, start, bytes(whole))
        if runs is None:
            with self._lock:
                self._wrong.append(piece.number)
            return
        if piece.mixed:
            runs = [(low, bytes(whole[low - start : high - start])) for low, high in piece.ranges]
        for place, data in runs:
            self._incoming.write(data, place)
        low, high = self._piece_map.bounds(piece.number)
        with self._lock:
            self._advance(high - low)

    def _refetch(self, piece: int) -> None:
        """Fetch a wrong piece again, whole: a wrong data map or hint may have left bytes out."""
        piece_map = self._piece_map
        start, end = piece_map.bounds(piece)
        for _ in range(CORRUPT_TRIES):
            content = b"".join(self._source.read(piece_map.address, [(start, end)]))
            self._count(len(content))
            runs = piece_map.verify_piece(piece, start, content)
            if runs is not None:
                asked = sum(high - low for low, high in piece_map.ranges(piece))
                if end - start > asked:
                    self._grow(end - start - asked)
                if self._incoming.stored(start, end):
                    runs = [(start, content)]  # write zeros too: the file may have other bytes in their place
                for place, data in runs:
                    self._incoming.write(data, place)
                self._advance(end - start)
                return
        raise ContentCorrupt(
            f"piece {piece} (bytes {start}-{end}) of {piece_map.address} failed verification {CORRUPT_TRIES + 1} times; the "
            "source is corrupt or malicious: tell its operator, or stage from another"
        )


def _requests(pieces: Iterable[_Piece], most: int) -> Iterator[list[_Piece]]:
    """Group pieces into requests of at most `most` bytes and MAX_RANGES ranges."""
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
