"""Fetching one content from a source into its incoming file: ranges in parallel, every piece proved as it arrives.

What an earlier attempt left is proved again and kept. A cut connection goes on at the byte where it was cut. A piece that
is wrong is asked for again, whole and a bounded number of times; then the error names it.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from signer.progress import Advance, nothing
from stager.errors import ContentCorrupt
from stager.filling import Incoming
from stager.pieces import Guide, parts
from stager.sources import Resuming, Source

CORRUPT_TRIES = 3
"""How often a wrong piece is asked for again. Chance does not hit the same piece thrice."""


@dataclass(frozen=True)
class Pace:
    """How a source is used: requests in parallel, bytes per request, and how to wait."""

    connections: int = 4
    part_bytes: int = 8 << 20
    sleep: Callable[[float], None] = time.sleep


@dataclass
class Fetched:
    """Bytes: what came over the network, wasted ones included; what an earlier attempt had left."""

    received: int = 0
    resumed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def came(self, count: int) -> None:
        """Count received bytes; from any thread."""
        with self._lock:
            self.received += count


class Fetching:
    """One fetch: a guide, a source, the file to fill.

    Args:
        grow: called with the bytes that will be allocated beyond those of the guide's data extents, before they are.
        advance: called, from one thread at a time, with bytes of the content that are settled: zero, kept or fetched.
    """

    def __init__(
        self,
        source: Source,
        guide: Guide,
        incoming: Incoming,
        *,
        pace: Pace,
        grow: Callable[[int], None],
        advance: Advance = nothing,
    ) -> None:
        self._source, self._guide, self._incoming, self._pace = Resuming(source, pace.sleep), guide, incoming, pace
        self._grow, self._advance = grow, advance
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._wrong: list[int] = []
        self.fetched = Fetched()

    def run(self) -> Fetched:
        """Fill the file; returns the counts.

        Raises:
            ContentCorrupt: a piece stays wrong.
            SourceUnavailable, SourceLacks: the source fails; what has come is kept in the file.
            OSError: the disk fails.
        """
        guide = self._guide
        missing = self._missing()
        if guide.data_map is not None or guide.layer is not None:
            self._incoming.allocate(guide.data_extents)
        ranges = list(parts(missing, max(1, self._pace.part_bytes // guide.piece)))
        if len(ranges) <= 1:
            for first, last in ranges:
                self._part(first, last)
        else:
            with ThreadPoolExecutor(self._pace.connections, thread_name_prefix="fetch") as pool:
                jobs = [pool.submit(self._part, first, last) for first, last in ranges]
                done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
                if any(job.exception() for job in done):
                    self._stop.set()
                    pool.shutdown(wait=True, cancel_futures=True)
            for job in jobs:
                if not job.cancelled():
                    job.result()
        for piece in sorted(self._wrong):
            self._again(piece)
        return self.fetched

    def _missing(self) -> list[int]:
        """The pieces to fetch: all with data, but for those that an earlier attempt left and that prove themselves."""
        guide, incoming = self._guide, self._incoming
        missing = []
        settled = guide.address.size
        for piece in guide.needed:
            start, end = guide.bounds(piece)
            if (
                guide.layer is not None
                and incoming.stored(start, end)
                and guide.judge(piece, start, incoming.read(start, end)) is not None
            ):
                self.fetched.resumed += end - start
                continue
            missing.append(piece)
            settled -= end - start
        self._advance(settled)
        return missing

    def _part(self, first: int, last: int) -> None:
        """Fetch a run of neighbouring pieces in one request."""
        guide = self._guide
        begin, end = guide.span(first)[0], guide.span(last)[1]
        piece = first
        buffer = bytearray()
        for chunk in self._source.read(guide.address, begin, end):
            if self._stop.is_set():
                return
            self.fetched.came(len(chunk))
            buffer += chunk
            while piece <= last:
                low, high = max(begin, guide.bounds(piece)[0]), min(end, guide.bounds(piece)[1])
                if len(buffer) < high - low:
                    break
                content = bytes(memoryview(buffer)[: high - low])
                del buffer[: high - low]
                self._arrived(piece, low, content)
                piece += 1

    def _arrived(self, piece: int, offset: int, content: bytes) -> None:
        runs = self._guide.judge(piece, offset, content)
        if runs is None:
            with self._lock:
                self._wrong.append(piece)
            return
        for place, data in runs:
            self._incoming.write(data, place)
        start, end = self._guide.bounds(piece)
        with self._lock:
            self._advance(end - start)

    def _again(self, piece: int) -> None:
        """A wrong piece, whole: it may be the map that was wrong about where in it the data is."""
        guide = self._guide
        start, end = guide.bounds(piece)
        low, high = guide.span(piece)
        for _ in range(CORRUPT_TRIES):
            content = b"".join(self._source.read(guide.address, start, end))
            self.fetched.came(len(content))
            runs = guide.judge(piece, start, content)
            if runs is not None:
                if end - start > high - low:
                    self._grow(end - start - (high - low))
                for place, data in runs:
                    self._incoming.write(data, place)
                self._advance(end - start)
                return
        raise ContentCorrupt(
            f"piece {piece} (bytes {start}-{end}) of {guide.address} came wrong {CORRUPT_TRIES + 1} times; the source is "
            "broken or hostile: tell its operator, or stage from another"
        )
