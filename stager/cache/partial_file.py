"""A file that is becoming a cache entry: opened, filled, read back. What is in it is proved before it gets its name."""

import os
import sys
from array import array
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from catalog.content.indexing import HINT_BLOCK, compute_hints, verify_content
from catalog.errors import ContentMismatch
from stager.cache.disk import DiskOperations
from stager.cache.entries import CacheKey
from stager.content.piece_map import PieceMap, piece_runs

READ_SIZE = 4 << 20
"""Bytes read back at once."""

READERS = 2
"""Threads that read back and hash: what two cores do for SHA-256, and no more than a busy node can spare."""


class PartialFile:
    """An open file below `incoming/`. Threads may write to it at once, each to its own place."""

    def __init__(self, disk: DiskOperations, key: CacheKey, path: Path, size: int) -> None:
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

    def copy(self, source: int, offset: int, target: int, length: int) -> bool:
        """Copy from another open file; tells whether all of it was there."""
        return self._disk.copy(source, self.descriptor, offset, target, length) == length

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


@dataclass(frozen=True)
class ReadBackResult:
    """What reading back found: bytes in leaves that are not zero, the piece layer, the hints."""

    data_bytes: int
    layer: bytes
    hints: bytes


def read_back(incoming: PartialFile, guide: PieceMap) -> ReadBackResult:
    """Read the whole file again and demand that its content has the address.

    With a proved piece layer, pieces are hashed in parallel and holes need only be holes; without one the file is
    measured as a publisher would. Either way nothing that was said or seen while the file was filled counts.

    Raises:
        ContentMismatch: it has not.
    """
    if guide.layer is None:
        measured = verify_content(incoming.path, guide.address)
        return ReadBackResult(measured.data_bytes, measured.layer, measured.hints)
    if (size := os.fstat(incoming.descriptor).st_size) != guide.address.size:
        raise ContentMismatch(f"{incoming.path}: has {size} bytes, and its address says {guide.address.size}")
    data_bytes = 0
    hints = array("Q", bytes(8)) * -(-size // HINT_BLOCK)
    with ThreadPoolExecutor(READERS, thread_name_prefix="read-back") as pool:
        for count in pool.map(
            lambda run: _read_run(incoming, guide, run, hints),
            piece_runs(range(guide.count), max(1, READ_SIZE // guide.piece)),
        ):
            data_bytes += count
    if sys.byteorder == "big":
        hints.byteswap()
    return ReadBackResult(data_bytes, guide.layer, hints.tobytes())


def _read_run(incoming: PartialFile, guide: PieceMap, run: tuple[int, int], hints: "array[int]") -> int:
    """Prove a run of pieces and note their hints; returns bytes of data in it."""
    first, last = run
    start, end = guide.bounds(first)[0], guide.bounds(last)[1]
    if not incoming.stored(start, end) and all(guide.zero(piece) for piece in range(first, last + 1)):
        return 0
    content = incoming.read(start, end)
    data = 0
    for piece in range(first, last + 1):
        low, high = guide.bounds(piece)
        runs = guide.judge(piece, low, content[low - start : high - start])
        if runs is None:
            raise ContentMismatch(f"{incoming.path}: piece {piece} (bytes {low}-{high}) is not what its address says")
        for offset, bytes_ in runs:
            data += len(bytes_)
            numbers = compute_hints(bytes_)
            hints[offset // HINT_BLOCK : offset // HINT_BLOCK + len(numbers)] = numbers
    return data
