"""Fetching one content through its swarm, with the origin's help: first copies, and rescue when the swarm is stalled.

Three things happen at once. The swarm brings pieces from peers. A few threads ask the tracker which parts nobody has yet,
fetch those from the origin over HTTP and share them. And a watchdog looks whether right pieces come at all.
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
from stager.fetch.http import join_ranges
from stager.fetch.sources import ContentSource, read_ranges
from stager.swarm.stall_policy import RescueAction, StallHistory, decide_rescue
from stager.swarm.swarm import Swarm
from stager.swarm.torrent_state import SwarmTorrent
from stager.swarm.tracker_client import TrackerClient

PULLERS = 2
"""Requests to the origin at once: one is under way while the next is being asked for."""

AHEAD = 0.15
"""Seconds of the origin's rate that a node asks for at once: long against a round trip, short against a whole staging."""

MOST = 16 << 20
"""Bytes asked for at once, at most."""

IDLE = 0.5
"""Seconds until a node that was given no part asks again."""

WRONG = 4
"""How often one piece may come wrong from the origin; chance does not hit the same piece so often."""

PATIENCE = 60.0
"""Seconds without a right piece, the origin included, after which staging ends with an error; what came is kept."""

RECOVERED = 4 << 20
"""Bytes from peers after which a rescue over HTTP has done its work: the swarm is alive, and the origin is spared."""

DEAF = 5.0
"""Seconds for which a tracker that did not answer is not asked for parts again."""

LOOK = 0.25
"""Seconds between looks of the watchdog."""


@dataclass
class FetchResult:
    """Where the bytes of one content came from.

    Attributes:
        resumed: here when we began, zeros included.
        from_peers, wasted: payload from peers; of it, what came twice or was wrong.
        from_origin: payload from the origin.
        poisoners: peers that were found to send wrong bytes, as ADDRESS:PORT.
        suspects: peers that had a part in a wrong piece, among them innocent ones.
        rescues: the steps that were needed, in order.
        feeders: from whom how much of `from_peers` came.
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
        guide: the content, with its proved piece layer.
        path: where it is.
        leaves: those that are in the file. Leaves of a piece of which others are missing need not be proved: if one is
            wrong, the piece is, and comes again.
        journal: where the exact state is kept meanwhile; removed at the end.
    """

    guide: PieceMap
    path: Path
    leaves: LeafSet
    journal: Path | None = None


class SwarmFetch:
    """One fetch.

    Args:
        swarm: the node's part in all swarms; the content stays in it when the fetch is done.
        tracker: says what to fetch first; None leaves everything to the swarm and the watchdog.
        source: the origin.
        file: see there.
        rng: spreads the rescues of many nodes over the content.
        advance: called with bytes that are settled.
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
        self._swarm, self._tracker, self._source, self._file, self._guide = swarm, tracker, source, file, file.guide
        self._rng, self._clock, self._advance, self._patience = rng, clock, advance, patience
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._http, self._before_http, self._deaf_until = False, 0, 0.0
        self._untold: list[tuple[int, int]] | None = None
        self._again: list[tuple[int, int]] = []
        self._pulling: set[int] = set()
        self._wrong: dict[int, int] = {}
        self._rate = 0.0
        self._trouble: StagerError | None = None
        self.brought = FetchResult()

    def run(self) -> FetchResult:
        """Fill the file; returns where its bytes came from.

        Raises:
            ContentCorrupt: the origin keeps sending a wrong piece.
            SourceUnavailable, SourceLacks: neither swarm nor origin bring anything; what came is kept.
            OSError: the disk fails.
        """
        began = self._clock()
        leaves = self._file.leaves
        self.brought.resumed = self._guide.address.size - leaves.missing
        self._advance(self.brought.resumed)
        member = self._swarm.join(self._guide, self._file.path, leaves, self._file.journal)
        descriptor = os.open(self._file.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            with ThreadPoolExecutor(PULLERS, thread_name_prefix="origin") as pool:
                pullers = [pool.submit(self._pull, member, descriptor) for _ in range(PULLERS)]
                try:
                    self._watch(member, pullers)
                finally:
                    self._stop.set()
        except BaseException:
            self._swarm.leave(self._guide.address)  # whoever called us may do with the file what it likes
            raise
        finally:
            os.close(descriptor)
            self._count(member)
            self.brought.seconds = self._clock() - began
        if self._file.journal is not None:
            self._file.journal.unlink(missing_ok=True)
        return self.brought

    def _watch(self, member: SwarmTorrent, pullers: list[Future[None]]) -> None:
        """Until everything is here: tell of progress, and do something when there is none."""
        taken: list[tuple[RescueAction, float]] = []
        missing, progress_at = member.leaves.missing, member.progress_at
        while not self._swarm.wait(lambda: _done(member), LOOK):
            now = self._clock()
            missing, before = member.leaves.missing, missing
            self._advance(max(0, before - missing))
            for puller in pullers:
                if puller.done():
                    puller.result()
            if member.failure is not None:
                self._http = True
            if member.progress_at != progress_at:
                progress_at = member.progress_at
                taken = [step for step in taken if step[0] is RescueAction.HTTP]
            if self._http and member.failure is None and member.from_peers - self._before_http > RECOVERED:
                self._http, taken = False, []
            if now - progress_at > self._patience:
                raise SourceUnavailable(
                    f"nothing right has come of {member.address} for {self._patience:.0f} s; what came is kept: "
                    f"stage again to go on ({self._trouble or 'no peer has the rest'})"
                )
            action = decide_rescue(StallHistory(progress_at, member.connected, tuple(taken)), now)
            if action is RescueAction.KEEP or self._http:
                continue
            taken.append((action, now))
            self.brought.rescues += (str(action),)
            if action is RescueAction.HTTP:
                self._http, self._before_http = True, member.from_peers
            else:
                self._swarm.readd(member, forget=action is RescueAction.DROP_PEERS)
        self._advance(missing)

    def _pull(self, member: SwarmTorrent, descriptor: int) -> None:
        """Fetch from the origin what the tracker gives us, or in a rescue what is missing, until everything is here."""
        while not self._stop.is_set() and not _done(member):
            ranges = self._again_ranges() or self._given(member) or (self._lacking(member) if self._http else [])
            if not ranges:
                self._stop.wait(IDLE if self._untold is not None else IDLE / 10)
            for start, end in ranges:
                try:
                    self._fetch(member, descriptor, start, end)
                except (SourceUnavailable, SourceLacks) as exc:
                    self._trouble = exc
                    with self._lock:
                        self._again.append((start, end))
                    self._stop.wait(IDLE)

    def _again_ranges(self) -> list[tuple[int, int]]:
        with self._lock:
            ranges, self._again = self._again, []
        return ranges

    @property
    def _want(self) -> int:
        return int(min(MOST, max(ORIGIN_PART, self._rate * AHEAD)))

    def _given(self, member: SwarmTorrent) -> list[tuple[int, int]]:
        """Parts that the tracker gives us; it is told what we have that it does not know of."""
        if self._tracker is None or self._clock() < self._deaf_until:
            return []
        with self._lock:
            told, self._untold = (self._untold if self._untold is not None else list(member.leaves.ranges())), []
        try:
            given = self._tracker.parts(member.address, self._swarm.port_for(member), told, self._want)
        except (TrackerUnavailable, TrackerRefuses) as exc:
            self._trouble, given, self._deaf_until = exc, [], self._clock() + DEAF
            with self._lock:
                self._untold = [*told, *(self._untold or ())]
        if given is None:  # not announced yet, or forgotten: then all is said again
            self._untold = None
            return []
        return given

    def _lacking(self, member: SwarmTorrent) -> list[tuple[int, int]]:
        """Some of what is missing and nobody here is fetching, from a random place on."""
        with self._lock:
            missing = [piece for piece in member.leaves.missing_pieces() if piece not in self._pulling]
            if not missing:
                return []
            at = self._rng.randrange(len(missing))
            first, last = next(piece_runs(missing[at:], max(1, self._want // self._guide.piece)))
            return [(self._guide.bounds(first)[0], self._guide.bounds(last)[1])]

    def _fetch(self, member: SwarmTorrent, descriptor: int, start: int, end: int) -> None:
        """Fetch a range of whole pieces; each is proved, written and shared as it comes. Pieces that are here are not."""
        guide = self._guide
        wanted = [
            piece for piece in range(start // guide.piece, -(-end // guide.piece)) if not member.leaves.has_piece(piece)
        ]
        with self._lock:
            wanted = [piece for piece in wanted if piece not in self._pulling]
            self._pulling.update(wanted)
        began, came = self._clock(), 0
        try:
            for request in _requests([(piece, self._lacks(member, piece)) for piece in wanted]):
                waiting = iter(request)
                buffer, now = bytearray(), next(waiting, None)
                for chunk in read_ranges(
                    self._source, guide.address, join_ranges(run for _, runs in request for run in runs)
                ):
                    if self._stop.is_set():
                        return
                    buffer += chunk
                    came += len(chunk)
                    right = []
                    while now is not None and len(buffer) >= (length := sum(high - low for low, high in now[1])):
                        if self._arrived(member, descriptor, *now, bytes(memoryview(buffer)[:length])):
                            right.append(now[0])
                        del buffer[:length]
                        now = next(waiting, None)
                    if right:
                        self._swarm.wrote(member, right)
                if now is not None:
                    raise SourceUnavailable(f"the range {start}-{end} of {guide.address} was cut at piece {now[0]}")
        finally:
            with self._lock:
                self._pulling.difference_update(wanted)
                self.brought.from_origin += came
                if came:
                    self._rate = came / max(1e-3, self._clock() - began)
        with self._lock:
            if self._untold is not None:
                self._untold.append((start, end))

    def _lacks(self, member: SwarmTorrent, piece: int) -> list[tuple[int, int]]:
        """What to ask the origin for of a piece: the leaves that are missing; all of it when that came out wrong."""
        return [self._guide.bounds(piece)] if piece in self._wrong else member.leaves.lacking(piece)

    def _arrived(
        self, member: SwarmTorrent, descriptor: int, piece: int, ranges: list[tuple[int, int]], content: bytes
    ) -> bool:
        """Prove a piece and write it, unless the swarm was faster; returns whether it was written."""
        start, end = self._guide.bounds(piece)
        whole = ranges == [(start, end)]
        if not whole:
            mixed, at = bytearray(os.pread(descriptor, end - start, start)), 0
            for low, high in ranges:
                mixed[low - start : high - start] = content[at : at + high - low]
                at += high - low
            content = bytes(mixed)
        runs = self._guide.judge(piece, start, content)
        if runs is None:
            with self._lock:
                self._wrong[piece] = self._wrong.get(piece, 0) + 1
                times = self._wrong[piece]
            if times >= WRONG:
                raise ContentCorrupt(
                    f"piece {piece} (bytes {start}-{start + len(content)}) of {self._guide.address} came wrong {times} times "
                    "from the origin; it is broken or hostile: tell its operator, or stage from another"
                )
            raise SourceUnavailable(f"piece {piece} of {self._guide.address} came wrong from the origin")
        if member.leaves.has_piece(piece):
            return False
        for place, data in runs if whole else ((low, content[low - start : high - start]) for low, high in ranges):
            os.pwrite(descriptor, data, place)
        return True

    def _count(self, member: SwarmTorrent) -> None:
        brought = self.brought
        brought.from_peers, brought.wasted, brought.feeders = member.from_peers, member.wasted, member.feeders
        brought.poisoners, brought.suspects = tuple(sorted(member.poisoners)), tuple(sorted(member.suspects))


def _requests(
    pieces: list[tuple[int, list[tuple[int, int]]]],
) -> Iterator[list[tuple[int, list[tuple[int, int]]]]]:
    """Pieces with what is wanted of them, cut into requests of no more ranges than one may have."""
    group: list[tuple[int, list[tuple[int, int]]]] = []
    count = 0
    for piece, ranges in pieces:
        if not ranges:  # it came meanwhile
            continue
        if count + len(ranges) > MAX_RANGES:
            yield group
            group, count = [], 0
        group.append((piece, ranges))
        count += len(ranges)
    if group:
        yield group


def _done(member: SwarmTorrent) -> bool:
    """Everything is here; written by the peer process, or by us after it failed."""
    return member.complete or (member.failure is not None and member.leaves.complete)
