"""A file that becomes a cache entry: opened, filled, and read back to be verified before it is committed."""

import os
import sys
from array import array
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from catalog.content.indexing import HINT_BLOCK, compute_hints, verify_content
from catalog.errors import ContentMismatch
from stager.cache.disk import DiskOperations, has_data
from stager.cache.entries import CacheKey
from stager.content.piece_map import PieceMap, piece_runs

READ_SIZE = 4 << 20
"""Bytes read back at once."""

READERS = 2
"""Threads that read back and hash: enough for SHA-256 on two cores, and no more than a busy node can spare."""


class PartialFile:
    """An open file below `incoming/`. Several threads may write to it at once, each to its own ranges."""

    def __init__(self, disk: DiskOperations, key: CacheKey, path: Path, size: int) -> None:
        self.key, self.path, self.size = key, path, size
        self._disk = disk
        self.descriptor = disk.create(path, size)

    def close(self) -> None:
        """Close the file and keep it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def allocate(self, extents: Iterable[tuple[int, int]]) -> None:
        """Allocate blocks for the (offset, length) of data; the rest stays a hole."""
        for offset, length in extents:
            self._disk.allocate(self.descriptor, offset, length)

    def write(self, data: bytes, offset: int) -> None:
        """Write at an offset."""
        self._disk.write(self.descriptor, data, offset)

    def copy(self, source: int, offset: int, target: int, length: int) -> bool:
        """Copy from another open file; returns whether all bytes were there."""
        return self._disk.copy(source, self.descriptor, offset, target, length) == length

    def empty(self) -> None:
        """Drop all bytes."""
        self._disk.empty(self.descriptor)

    def stored(self, start: int, end: int) -> bool:
        """Whether any byte between two offsets has been written."""
        return has_data(self.descriptor, start, end)

    def read(self, start: int, end: int) -> bytes:
        """Read the bytes between two offsets."""
        return os.pread(self.descriptor, end - start, start)


@dataclass(frozen=True)
class ReadBackResult:
    """The result of reading a file back: bytes in leaves that are not zero, the piece layer, the hints."""

    data_bytes: int
    layer: bytes
    hints: bytes


def read_back(incoming: PartialFile, piece_map: PieceMap) -> ReadBackResult:
    """Read the whole file again and check that its content has the address.

    With a proved piece layer, pieces are hashed in parallel and holes need only be holes; without one the whole file is
    indexed as by a publisher. Either way nothing that was learned while the file was filled counts.

    Raises:
        ContentMismatch: the content does not have the address.
    """
    if piece_map.layer is None:
        measured = verify_content(incoming.path, piece_map.address)
        return ReadBackResult(measured.data_bytes, measured.layer, measured.hints)
    if (size := os.fstat(incoming.descriptor).st_size) != piece_map.address.size:
        raise ContentMismatch(f"{incoming.path}: has {size} bytes, but its address says {piece_map.address.size}")
    hints = array("Q", bytes(8)) * -(-size // HINT_BLOCK)
    with ThreadPoolExecutor(READERS, thread_name_prefix="read-back") as pool:
        runs = piece_runs(range(piece_map.count), max(1, READ_SIZE // piece_map.piece))
        data_bytes = sum(pool.map(lambda run: _read_run(incoming, piece_map, run, hints), runs))
    if sys.byteorder == "big":
        hints.byteswap()
    return ReadBackResult(data_bytes, piece_map.layer, hints.tobytes())


def _read_run(incoming: PartialFile, piece_map: PieceMap, run: tuple[int, int], hints: "array[int]") -> int:
    """Verify a run of pieces and store their hints; returns the bytes of data in it."""
    first, last = run
    start, end = piece_map.bounds(first)[0], piece_map.bounds(last)[1]
    if not incoming.stored(start, end) and all(piece_map.zero(piece) for piece in range(first, last + 1)):
        return 0
    content = incoming.read(start, end)
    data = 0
    for piece in range(first, last + 1):
        low, high = piece_map.bounds(piece)
        runs = piece_map.verify_piece(piece, low, content[low - start : high - start])
        if runs is None:
            raise ContentMismatch(f"{incoming.path}: piece {piece} (bytes {low}-{high}) does not match its address")
        for offset, bytes_ in runs:
            data += len(bytes_)
            numbers = compute_hints(bytes_)
            hints[offset // HINT_BLOCK : offset // HINT_BLOCK + len(numbers)] = numbers
    return data
