"""Assignment of the parts of a content to the nodes that fetch them from the origin, so that all nodes together fetch
about one copy. Pure.

A content is divided into parts of 256 KiB. A node that starts asks for parts; each part is assigned to one node, which
fetches it from the origin and shares it; the node gets all other parts through the swarm. A part that its node does not
report in time is assigned to another one; parts whose only holder left the swarm are assigned again
(docs/adr/0005-first-copies-assigned-by-the-tracker.md has the measurements that led here).
"""

from collections.abc import Iterable

from catalog.image.address import LARGEST_PIECE
from catalog.image.ranges import join_ranges

ORIGIN_PART = LARGEST_PIECE
"""Bytes in a part: the smallest multiple of all piece lengths. Smaller parts reach the swarm sooner."""

REPORT_TIMEOUT = 8.0
"""Seconds until an unreported part is assigned to another node: 256 KiB take that long at 0.25 Mbit/s."""

MAX_OUTSTANDING = 64 << 20
"""Unreported bytes of one node, at most: one second at half a Gbit/s, and the most that a dying node can delay."""

_OPEN = 0


class OriginScheduler:
    """The parts of one content. A holder is the name of a node; times are seconds of one clock."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._count = -(-size // ORIGIN_PART)
        self._state = bytearray(self._count)  # 0: not assigned; 1: assigned, or reported by a node
        self._cursor = 0
        self._assigned: dict[int, tuple[str, float]] = {}
        self._reported: dict[str, set[int]] = {}

    def report(self, holder: str, ranges: Iterable[tuple[int, int]]) -> None:
        """Record that a node has these (start, end) ranges of bytes; only whole parts count."""
        reported = self._reported.setdefault(holder, set())
        for start, end in ranges:
            stop = self._count if end >= self._size else max(0, end // ORIGIN_PART)
            for part in range(max(0, -(-start // ORIGIN_PART)), stop):
                self._assigned.pop(part, None)
                self._state[part] = 1
                reported.add(part)

    def assign(self, holder: str, want: int, sharers: int, now: float) -> list[tuple[int, int]]:
        """Assign parts to a node, which it fetches from the origin.

        Args:
            holder: the node.
            want: bytes that it asks for; it gets at least one part if any is left, and has at most MAX_OUTSTANDING bytes
                assigned at a time.
            sharers: number of nodes that are fetching; none gets more than its share of half of the remaining parts, so
                that all finish together whatever their speeds.
            now: the time.

        Returns:
            (start, end) ranges of bytes; empty if every part is assigned and none is overdue.
        """
        held = sum(1 for by, _ in self._assigned.values() if by == holder)
        left = self._state.count(_OPEN)
        allowed = min(want, MAX_OUTSTANDING - held * ORIGIN_PART) // ORIGIN_PART
        allowed = max(1, min(allowed, left // (2 * max(1, sharers)))) if held * ORIGIN_PART < MAX_OUTSTANDING else 0
        given: list[int] = []
        while len(given) < allowed and (part := self._state.find(_OPEN, self._cursor)) >= 0:
            self._state[part] = 1
            self._cursor = part + 1
            given.append(part)
        if not given and allowed:
            late = [at for at, (by, since) in self._assigned.items() if by != holder and now - since >= REPORT_TIMEOUT]
            given = sorted(late)[:allowed]
        for part in given:
            self._assigned[part] = (holder, now)
        return join_ranges((part * ORIGIN_PART, min((part + 1) * ORIGIN_PART, self._size)) for part in given)

    def remove(self, holder: str) -> None:
        """Forget a node that left the swarm; parts that only it had or was fetching can be assigned again."""
        lost = self._reported.pop(holder, set()) | {part for part, (by, _) in self._assigned.items() if by == holder}
        for part in lost:
            self._assigned.pop(part, None)
            if not any(part in others for others in self._reported.values()):
                self._state[part] = _OPEN
                self._cursor = min(self._cursor, part)

    @property
    def left(self) -> int:
        """The number of parts that are not assigned yet."""
        return self._state.count(_OPEN)
