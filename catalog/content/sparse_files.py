"""Data and nonzero ranges of large sparse files, and copying that keeps holes."""

import errno
import os
from collections.abc import Iterator, Sequence

from catalog.errors import DiskRefused
from catalog.image.address import LEAF
from signer.runtime.progress import Advance, ignore_progress

READ = 4 << 20
"""Bytes per read."""

_ZERO = bytes(LEAF)


def data_runs(descriptor: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """(start, end) in bytes of each part of [start, end) that is not a hole, in order.

    A filesystem without holes reports everything as data.
    """
    while start < end:
        try:
            data = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise
            return  # only a hole follows
        if data >= end:
            return
        start = min(os.lseek(descriptor, data, os.SEEK_HOLE), end)
        yield data, start


def nonzero_runs(descriptor: int, start: int, end: int, granule: int) -> Iterator[tuple[int, int]]:
    """(start, end) of each run of granules of `granule` bytes, counted from `start`, that are not all zero."""
    run: tuple[int, int] | None = None
    zero = bytes(granule)
    for low, high in data_runs(descriptor, start, end):
        position = start + (low - start) // granule * granule
        while position < high:
            data = read_exactly(descriptor, position, min(READ // granule * granule, end - position))
            for at in range(0, len(data), granule):
                if data[at : at + granule] in (zero, zero[: len(data) - at]):
                    continue
                first, last = position + at, min(position + at + granule, end)
                if run and run[0] <= first <= run[1]:
                    run = (run[0], max(run[1], last))
                elif not run or first > run[1]:
                    if run:
                        yield run
                    run = (first, last)
            position += len(data)
    if run:
        yield run


def copy_range(source: int, offset: int, length: int, target: int, advance: Advance = ignore_progress) -> None:
    """Copy a range to the beginning of an empty file; leaves of zeros become holes.

    Args:
        source, target: open files.
        offset, length: the range, in bytes.
        advance: called with the number of bytes just processed, holes included.
    """
    os.ftruncate(target, length)
    passed = 0
    for low, high in data_runs(source, offset, offset + length):
        position = low - (low - offset) % LEAF
        position = max(position, offset + passed)
        while position < high:
            data = read_exactly(source, position, min(READ, offset + length - position))
            _write_sparse(target, data, position - offset)
            position += len(data)
            advance(position - offset - passed)
            passed = position - offset
    advance(length - passed)


def merge_runs(runs: Sequence[tuple[int, int]], distance: int, most: int) -> list[tuple[int, int]]:
    """Join runs closer than `distance` bytes, then the nearest ones until at most `most` runs are left."""
    while True:
        joined: list[tuple[int, int]] = []
        for low, high in sorted(runs):
            if joined and low - joined[-1][1] < distance:
                joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
            else:
                joined.append((low, high))
        if len(joined) <= most:
            return joined
        distance *= 2


def read_exactly(descriptor: int, offset: int, length: int) -> bytes:
    """Read exactly `length` bytes; DiskRefused if the file has become shorter."""
    parts = []
    while length:
        data = os.pread(descriptor, length, offset)
        if not data:
            raise DiskRefused(f"byte {offset}: the disk became shorter while it was read, and ends here")
        parts.append(data)
        offset += len(data)
        length -= len(data)
    return b"".join(parts)


def _write_sparse(target: int, data: bytes, offset: int) -> None:
    """Write the leaves that are not zero, adjacent ones together."""
    start: int | None = None
    for at in range(0, len(data) + LEAF, LEAF):
        leaf = data[at : at + LEAF]
        solid = bool(leaf) and leaf != _ZERO[: len(leaf)]
        if solid and start is None:
            start = at
        elif not solid and start is not None:
            _write_all(target, memoryview(data)[start:at], offset + start)
            start = None


def _write_all(target: int, data: memoryview, offset: int) -> None:
    while data:
        done = os.pwrite(target, data, offset)
        data, offset = data[done:], offset + done
