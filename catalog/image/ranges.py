"""Ranges of bytes of a content, as (start, end), end exclusive. Pure."""

from collections.abc import Iterable, Sequence

ByteRange = tuple[int, int]
"""(start, end) in bytes, end exclusive."""


def join_ranges(ranges: Iterable[ByteRange]) -> list[ByteRange]:
    """Join ranges that touch; they are in order."""
    found: list[ByteRange] = []
    for start, end in ranges:
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def remaining_ranges(ranges: Sequence[ByteRange], count: int) -> list[ByteRange]:
    """Return the remainder of ranges after their first `count` bytes."""
    left: list[ByteRange] = []
    for start, end in ranges:
        skipped = min(count, end - start)
        count -= skipped
        if start + skipped < end:
            left.append((start + skipped, end))
    return left
