"""Who fetches which part of a content from the origin, so that together many nodes pull about one copy. Pure.

A content is cut into parts of 256 KiB. A node that starts asks for parts; each part is given to one node, which fetches
it from the origin and shares it, and everything else comes to it through the swarm. A part that its holder does not
report in time is given to another; parts that left the swarm with their only holder are given out again
(docs/adr/0005-first-copies-assigned-by-the-tracker.md has the measurements that led here).
"""

from collections.abc import Iterable, Iterator

from catalog.image.address import LARGEST_PIECE

ORIGIN_PART = LARGEST_PIECE
"""Bytes in a part: the smallest size that is whole pieces for every piece length. Smaller parts reach the swarm sooner."""

REPORT_TIMEOUT = 8.0
"""Seconds until a part that was not reported is given to another node: 256 KiB take as long at 0.25 Mbit/s."""

MAX_OUTSTANDING = 64 << 20
"""Bytes that one node may hold unreported: a second at half a Gbit/s, and what a dying node can delay."""

_OPEN = 0


class OriginScheduler:
    """The parts of one content. Holders are any hashable name of a node; times are seconds of one clock."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._count = -(-size // ORIGIN_PART)
        self._state = bytearray(self._count)  # 0: nobody was given it; 1: somebody has it or was given it
        self._cursor = 0
        self._out: dict[int, tuple[str, float]] = {}
        self._kept: dict[str, set[int]] = {}

    def have(self, holder: str, ranges: Iterable[tuple[int, int]]) -> None:
        """A node says that it has these ranges of bytes; only whole parts count, others are ignored."""
        kept = self._kept.setdefault(holder, set())
        for start, end in ranges:
            for part in range(max(0, -(-start // ORIGIN_PART)), self._whole_until(end)):
                self._out.pop(part, None)
                self._state[part] = 1
                kept.add(part)

    def give(self, holder: str, want: int, sharers: int, now: float) -> list[tuple[int, int]]:
        """Give a node parts to fetch from the origin.

        Args:
            holder: the node.
            want: bytes that it asks for; it gets at least one part if any is left, and never more than MAX_OUT at once.
            sharers: how many nodes are fetching; none gets more than its share of half of what is left, so that all end
                together whatever their speeds.
            now: the time.

        Returns:
            (start, end) ranges of bytes; empty when every part has been given and none is overdue.
        """
        held = sum(1 for by, _ in self._out.values() if by == holder)
        left = self._state.count(_OPEN)
        allowed = min(want, MAX_OUTSTANDING - held * ORIGIN_PART) // ORIGIN_PART
        allowed = max(1, min(allowed, left // (2 * max(1, sharers)))) if held * ORIGIN_PART < MAX_OUTSTANDING else 0
        given: list[int] = []
        while len(given) < allowed and (part := self._state.find(_OPEN, self._cursor)) >= 0:
            self._state[part] = 1
            self._cursor = part + 1
            given.append(part)
        if not given and allowed:
            late = [part for part, (by, since) in self._out.items() if by != holder and now - since >= REPORT_TIMEOUT]
            given = sorted(late)[:allowed]
        for part in given:
            self._out[part] = (holder, now)
        return list(_joined(given, self._size))

    def gone(self, holder: str) -> None:
        """A node left the swarm: what only it had, or was fetching, is given out again."""
        lost = self._kept.pop(holder, set()) | {part for part, (by, _) in self._out.items() if by == holder}
        for part in lost:
            self._out.pop(part, None)
            if not any(part in others for others in self._kept.values()):
                self._state[part] = _OPEN
                self._cursor = min(self._cursor, part)

    @property
    def left(self) -> int:
        """The number of parts that nobody was given yet."""
        return self._state.count(_OPEN)

    def _whole_until(self, end: int) -> int:
        return self._count if end >= self._size else max(0, end // ORIGIN_PART)


def _joined(parts: list[int], size: int) -> Iterator[tuple[int, int]]:
    """The byte ranges of parts, neighbours joined."""
    start = previous = None
    for part in parts:
        if start is not None and previous is not None and part != previous + 1:
            yield start * ORIGIN_PART, min((previous + 1) * ORIGIN_PART, size)
            start = None
        start = part if start is None else start
        previous = part
    if start is not None and previous is not None:
        yield start * ORIGIN_PART, min((previous + 1) * ORIGIN_PART, size)
