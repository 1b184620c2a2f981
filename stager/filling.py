"""A file that is becoming a cache entry: opened, filled, read back. What is in it is proved before it gets its name."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from catalog.errors import ContentMismatch
from catalog.measuring import verify
from stager.disk import Disk
from stager.entries import Key
from stager.pieces import Guide

READ = 4 << 20
"""Bytes read back at once."""

READERS = 2
"""Threads that read back and hash: what two cores do for SHA-256, and no more than a busy node can spare."""


class Incoming:
    """An open file below `incoming/`. Threads may write to it at once, each to its own place."""

    def __init__(self, disk: Disk, key: Key, path: Path, size: int) -> None:
        self.key, self.path, self.size = key, path, size
        self._disk = disk
        self.descriptor = disk.create(path, size)

    def close(self) -> None:
        """Close the file; what is in it stays."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def allocate(self, extents: Iterable[tuple[int, int]]) -> None:
        """Set blocks aside for the (offset, length) of data; everything else stays a hole."""
        for offset, length in extents:
            self._disk.allocate(self.descriptor, offset, length)

    def write(self, data: bytes, offset: int) -> None:
        """Write at an offset."""
        self._disk.write(self.descriptor, data, offset)

    def empty(self) -> None:
        """Start again from nothing."""
        self._disk.empty(self.descriptor)

    def stored(self, start: int, end: int) -> bool:
        """Whether any byte between two offsets has been written."""
        try:
            return os.lseek(self.descriptor, start, os.SEEK_DATA) < end
        except OSError:  # ENXIO: only holes remain
            return False

    def read(self, start: int, end: int) -> bytes:
        """What is in the file between two offsets."""
        return os.pread(self.descriptor, end - start, start)


def read_back(incoming: Incoming, guide: Guide) -> int:
    """Read the whole file again and demand that its content has the address.

    With a proved piece layer, pieces are hashed in parallel and holes need only be holes; without one the file is
    measured as a publisher would. Either way nothing that was said or seen while the file was filled counts.

    Returns:
        Bytes in leaves that are not zero.

    Raises:
        ContentMismatch: it has not.
    """
    if guide.layer is None:
        return verify(incoming.path, guide.address).data_bytes
    if (size := os.fstat(incoming.descriptor).st_size) != guide.address.size:
        raise ContentMismatch(f"{incoming.path}: has {size} bytes, and its address says {guide.address.size}")
    step = max(1, READ // guide.piece)

    def read(first: int) -> int:
        last = min(first + step, guide.count)
        start, end = guide.bounds(first)[0], guide.bounds(last - 1)[1]
        if not incoming.stored(start, end) and all(guide.zero(piece) for piece in range(first, last)):
            return 0
        content = incoming.read(start, end)
        data = 0
        for piece in range(first, last):
            low, high = guide.bounds(piece)
            runs = guide.judge(piece, low, content[low - start : high - start])
            if runs is None:
                raise ContentMismatch(
                    f"{incoming.path}: piece {piece} (bytes {low}-{high}) is not what its address says"
                )
            data += sum(len(run) for _, run in runs)
        return data

    with ThreadPoolExecutor(READERS, thread_name_prefix="read-back") as pool:
        return sum(pool.map(read, range(0, guide.count, step)))
