"""Fetches one content through its swarm, with the origin's help: first copies, and rescue when the swarm is stalled.

Three things happen at once. The swarm receives pieces from peers. A few threads ask the tracker which parts no node has
yet, fetch those from the origin over HTTP and share them. And a watchdog checks that correct pieces arrive.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from catalog.content.multipart_ranges import MAX_RANGES
from catalog.image.ranges import join_ranges
from catalog.swarm.origin_scheduler import ORIGIN_PART
from signer.runtime.progress import Advance, ignore_progress
from stager.content.leaf_set import LeafSet
from stager.content.peer_stats import PeerStats
from stager.content.piece_map import PieceMap, piece_runs
from stager.errors import (
    ContentCorrupt,
    SourceLacks,
    SourceUnavailable,
    StagerError,
    TrackerRefuses,
    TrackerUnavailable,
)
from stager.fetch.sources import ContentSource
from stager.swarm.stall_policy import RescueAction, StallHistory, decide_rescue
from stager.swarm.swarm import Swarm
from stager.swarm.torrent_state import SwarmTorrent
from stager.swarm.tracker_client import TrackerClient

PULLERS = 2
"""Requests to the origin at once: one is answered while the next is sent."""

AHEAD = 0.15
"""Seconds of the origin's rate that a node requests at once: long against a round trip, short against a whole staging."""

MAX_REQUEST = 16 << 20
"""Bytes requested at once, at most."""

IDLE = 0.5
"""Seconds until a node that was assigned no part asks again."""

WRONG = 4
"""How often one piece may arrive wrong from the origin; random errors do not hit the same piece so often."""

PATIENCE = 60.0
"""Seconds without a correct piece, from the origin either, after which staging fails; partial data is kept."""

RECOVERED = 4 << 20
"""Bytes from peers that end a rescue over HTTP: the swarm works again, and the origin is relieved."""

TRACKER_PAUSE = 5.0
"""Seconds for which a tracker that did not answer is not asked for parts again."""

LOOK = 0.25
"""Seconds between checks of the watchdog."""


@dataclass
class FetchResult:
    """Where the bytes of one content came from.

    Attributes:
        resumed: bytes present at the start, zeros included.
        from_peers, wasted: payload bytes from peers; the part of them that was received twice or wrong.
        from_origin: payload bytes from the origin.
        poisoners: peers that are known to have sent wrong bytes, as ADDRESS:PORT.
        suspects: peers that sent parts of a wrong piece, including innocent ones.
        rescues: the rescue steps taken, in order.
        feeders: `from_peers` by peer.
        seconds: the duration.
    """

    resumed: int = 0
    from_peers: int = 0
    wasted: int = 0
    from_origin: int = 0
    poisoners: tuple[str, ...] = ()
    suspects: tuple[str, ...] = ()
    rescues: tuple[str, ...] = ()
    feeders: tuple[PeerStats, ...] = ()
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class SwarmFile:
    """The file that a fetch fills.

    Attributes:
        piece_map: of the content, with its proved piece layer.
        path: of the file.
        leaves: those that are in the file. Leaves of an incomplete piece need not be verified: if one is wrong, the whole
            piece is fetched again.
        journal: the file for the exact state meanwhile; removed at the end.
    """

    piece_map: PieceMap
    path: Path
    leaves: LeafSet
    journal: Path | None = None


class SwarmFetch:
    """One fetch.

    Args:
        swarm: the node's part in all swarms; the content stays in it after the fetch.
        tracker: assigns the parts to fetch first; without one (None) only the swarm and the watchdog fetch.
        source: the origin.
        file: the file to fill.
        rng: spreads the rescues of many nodes over the content.
        advance: called with the number of settled bytes.
    """

    def __init__(
        self,
        swarm: Swarm,
        tracker: TrackerClient | None,
        source: ContentSource,
        file: SwarmFile,
        *,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
        advance: Advance = ignore_progress,
        patience: float = PATIENCE,
    ) -> None:
        self._swarm, self._tracker, self._source = swarm, tracker, source
        self._file, self._piece_map = file, file.piece_map
        self._rng, self._clock, self._advance, self._patience = rng, clock, advance, patience
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._http, self._before_http, self._tracker_paused_until = False, 0, 0.0
        self._unreported: list[tuple[int, int]] | None = None
        self._retry: list[tuple[int, int]] = []
        self._pulling: set[int] = set()
        self._wrong: dict[int, int] = {}
        self._rate = 0.0
        self._last_error: StagerError | None = None
        self.result = FetchResult()

    def run(self) -> FetchResult:
        """Fill the file; returns where its bytes came from.

        Raises:
            ContentCorrupt: the origin keeps sending a wrong piece.
            SourceUnavailable, SourceLacks: neither swarm nor origin send correct data; partial data is kept.
            OSError: the disk fails.
        """
        began = self._clock()
        leaves = self._file.leaves
        self.result.resumed = self._piece_map.address.size - leaves.missing
        self._advance(self.result.resumed)
        torrent = self._swarm.join(self._piece_map, self._file.path, leaves, self._file.journal)
        descriptor = os.open(self._file.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            with ThreadPoolExecutor(PULLERS, thread_name_prefix="origin") as pool:
                pullers = [pool.submit(self._pull, torrent, descriptor) for _ in range(PULLERS)]
                try:
                    self._watch(torrent, pullers)
                finally:
                    self._stop.set()
        except BaseException:
            self._swarm.leave(self._piece_map.address)  # from now on the caller may do anything with the file
            raise
        finally:
            os.close(descriptor)
            result = self.result
            result.from_peers, result.wasted, result.feeders = torrent.from_peers, torrent.wasted, torrent.feeders
            result.poisoners, result.suspects = tuple(sorted(torrent.poisoners)), tuple(sorted(torrent.suspects))
            result.seconds = self._clock() - began
        if self._file.journal is not None:
            self._file.journal.unlink(missing_ok=True)
        return self.result

    def _watch(self, torrent: SwarmTorrent, pullers: list[Future[None]]) -> None:
        """Report progress until the content is complete, and take rescue steps when there is none."""
        taken: list[tuple[RescueAction, float]] = []
        missing, progress_at = torrent.leaves.missing, torrent.progress_at
        while not self._swarm.wait(lambda: _done(torrent), LOOK):
            now = self._clock()
            missing, before = torrent.leaves.missing, missing
            self._advance(max(0, before - missing))
            for puller in pullers:
                if puller.done():
                    puller.result()
            if torrent.failure is not None:
                self._http = True
            if torrent.progress_at != progress_at:
                progress_at = torrent.progress_at
                taken = [step for step in taken if step[0] is RescueAction.HTTP]
            if self._http and torrent.failure is None and torrent.from_peers - self._before_http > RECOVERED:
                self._http, taken = False, []
            if now - progress_at > self._patience:
                raise SourceUnavailable(
                    f"no valid data for {torrent.address} in {self._patience:.0f} s; partial data kept: "
                    f"stage again to resume ({self._last_error or 'no peer has the rest'})"
                )
            action = decide_rescue(StallHistory(progress_at, torrent.connected, tuple(taken)), now)
            if action is RescueAction.KEEP or self._http:
                continue
            taken.append((action, now))
            self.result.rescues += (str(action),)
            if action is RescueAction.HTTP:
                self._http, self._before_http = True, torrent.from_peers
            else:
                self._swarm.rejoin(torrent, forget=action is RescueAction.DROP_PEERS)
        self._advance(missing)

    def _pull(self, torrent: SwarmTorrent, descriptor: int) -> None:
        """Fetch the parts that the tracker assigns, or in a rescue missing pieces, from the origin, until complete."""
        while not self._stop.is_set() and not _done(torrent):
            with self._lock:
                ranges, self._retry = self._retry, []
            ranges = ranges or self._assigned(torrent) or (self._choose_missing(torrent) if self._http else [])
            if not ranges:
                self._stop.wait(IDLE if self._unreported is not None else IDLE / 10)
            for start, end in ranges:
                try:
                    self._fetch(torrent, descriptor, start, end)
                except (SourceUnavailable, SourceLacks) as exc:
                    self._last_error = exc
                    with self._lock:
                        self._retry.append((start, end))
                    self._stop.wait(IDLE)

    @property
    def _request_size(self) -> int:
        return int(min(MAX_REQUEST, max(ORIGIN_PART, self._rate * AHEAD)))

    def _assigned(self, torrent: SwarmTorrent) -> list[tuple[int, int]]:
        """Report our new ranges to the tracker, and return the parts that it assigns."""
        if self._tracker is None or self._clock() < self._tracker_paused_until:
            return []
        with self._lock:
            reported = self._unreported if self._unreported is not None else list(torrent.leaves.ranges())
            self._unreported = []
        try:
            assigned = self._tracker.parts(torrent.address, self._swarm.port_for(torrent), reported, self._request_size)
        except (TrackerUnavailable, TrackerRefuses) as exc:
            self._last_error, assigned, self._tracker_paused_until = exc, [], self._clock() + TRACKER_PAUSE
            with self._lock:
                self._unreported = [*reported, *(self._unreported or ())]
        if assigned is None:  # the tracker does not know us (any more): report all ranges again
            self._unreported = None
            return []
        return assigned

    def _choose_missing(self, torrent: SwarmTorrent) -> list[tuple[int, int]]:
        """Choose missing pieces that no thread is fetching, from a random position on."""
        with self._lock:
            missing = [piece for piece in torrent.leaves.missing_pieces() if piece not in self._pulling]
            if not missing:
                return []
            at = self._rng.randrange(len(missing))
            first, last = next(piece_runs(missing[at:], max(1, self._request_size // self._piece_map.piece)))
            return [(self._piece_map.bounds(first)[0], self._piece_map.bounds(last)[1])]

    def _fetch(self, torrent: SwarmTorrent, descriptor: int, start: int, end: int) -> None:
        """Fetch a range of whole pieces, except those that are here; each is verified, written and shared as it arrives."""
        piece_map = self._piece_map
        wanted = [
            piece
            for piece in range(start // piece_map.piece, -(-end // piece_map.piece))
            if not torrent.leaves.has_piece(piece)
        ]
        with self._lock:
            wanted = [piece for piece in wanted if piece not in self._pulling]
            self._pulling.update(wanted)
        began, came = self._clock(), 0
        try:
            for request in _requests([(piece, self._missing_ranges(torrent, piece)) for piece in wanted]):
                waiting = iter(request)
                buffer, now = bytearray(), next(waiting, None)
                ranges = join_ranges(run for _, runs in request for run in runs)
                for chunk in self._source.read(piece_map.address, ranges):
                    if self._stop.is_set():
                        return
                    buffer += chunk
                    came += len(chunk)
                    right = []
                    while now is not None and len(buffer) >= (length := sum(high - low for low, high in now[1])):
                        if self._arrived(torrent, descriptor, *now, bytes(memoryview(buffer)[:length])):
                            right.append(now[0])
                        del buffer[:length]
                        now = next(waiting, None)
                    if right:
                        self._swarm.share_pieces(torrent, right)
                if now is not None:
                    raise SourceUnavailable(
                        f"the range {start}-{end} of {piece_map.address} ended early at piece {now[0]}"
                    )
        finally:
            with self._lock:
                self._pulling.difference_update(wanted)
                self.result.from_origin += came
                if came:
                    self._rate = came / max(1e-3, self._clock() - began)
        with self._lock:
            if self._unreported is not None:
                self._unreported.append((start, end))

    def _missing_ranges(self, torrent: SwarmTorrent, piece: int) -> list[tuple[int, int]]:
        """Return the ranges of a piece to request: the missing leaves, or all of it if it failed verification."""
        return [self._piece_map.bounds(piece)] if piece in self._wrong else torrent.leaves.missing_ranges(piece)

    def _arrived(
        self, torrent: SwarmTorrent, descriptor: int, piece: int, ranges: list[tuple[int, int]], content: bytes
    ) -> bool:
        """Verify a piece and write it, unless the swarm was faster; returns whether it was written."""
        start, end = self._piece_map.bounds(piece)
        whole = ranges == [(start, end)]
        if not whole:
            mixed, at = bytearray(os.pread(descriptor, end - start, start)), 0
            for low, high in ranges:
                mixed[low - start : high - start] = content[at : at + high - low]
                at += high - low
            content = bytes(mixed)
        runs = self._piece_map.verify_piece(piece, start, content)
        if runs is None:
            with self._lock:
                self._wrong[piece] = self._wrong.get(piece, 0) + 1
                times = self._wrong[piece]
            if times >= WRONG:
                raise ContentCorrupt(
                    f"piece {piece} (bytes {start}-{start + len(content)}) of {self._piece_map.address} failed verification "
                    f"{times} times; the origin is corrupt or malicious: tell its operator, or stage from another"
                )
            raise SourceUnavailable(f"piece {piece} of {self._piece_map.address} from the origin failed verification")
        if torrent.leaves.has_piece(piece):
            return False
        for place, data in runs if whole else ((low, content[low - start : high - start]) for low, high in ranges):
            os.pwrite(descriptor, data, place)
        return True


def _requests(pieces: list[tuple[int, list[tuple[int, int]]]]) -> Iterator[list[tuple[int, list[tuple[int, int]]]]]:
    """Group pieces with their ranges into requests of at most MAX_RANGES ranges."""
    group: list[tuple[int, list[tuple[int, int]]]] = []
    count = 0
    for piece, ranges in pieces:
        if not ranges:  # it has arrived meanwhile
            continue
        if count + len(ranges) > MAX_RANGES:
            yield group
            group, count = [], 0
        group.append((piece, ranges))
        count += len(ranges)
    if group:
        yield group


def _done(torrent: SwarmTorrent) -> bool:
    """Whether the content is complete; written by the peer process, or here after that failed."""
    return torrent.complete or (torrent.failure is not None and torrent.leaves.complete)
