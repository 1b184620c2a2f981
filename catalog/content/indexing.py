"""The index of a content, computed in one pass over its file: address, data map, piece layer, hints.

Holes are found with SEEK_DATA/SEEK_HOLE and never read; stored leaves of zeros are read but never hashed.
"""

import hashlib
import os
import stat
import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import xxhash

from catalog.content.sparse_files import data_runs, merge_runs
from catalog.errors import ContentMismatch, Malformed, NotFound
from catalog.image.address import LEAF, MAX_SIZE, Address, merkle_tree
from signer.runtime.progress import Advance, ignore_progress

HINT_BLOCK = 4 << 10
"""Bytes of a block that one hint describes: the block size of common filesystems."""

READ_SIZE = 256 << 10
"""Bytes per read: large enough to make system calls negligible, small enough for a processor cache."""

AHEAD = 8 << 20
"""Bytes of readahead requested from the kernel, so that a cold disk works during hashing."""

ZERO_LEAF = bytes(LEAF)
ZERO_LEAF_HASH = hashlib.sha256(ZERO_LEAF).digest()
_ZERO_HINT = xxhash.xxh3_64_intdigest(bytes(HINT_BLOCK))


@dataclass(frozen=True, slots=True)
class ContentIndex:
    """The index of a content.

    Attributes:
        address: root and size.
        data_map: one bit per leaf, most significant first, set if the leaf is not all zero.
        layer: the piece layer, 32 bytes per piece.
        hints: XXH3-64 of every 4 KiB block, 8 bytes each, little-endian; 0 for blocks of zeros. Unsigned and unverified: a
            wrong hint costs time, never correctness.
        data_bytes: bytes in leaves that are not zero.
    """

    address: Address
    data_map: bytes
    layer: bytes
    hints: bytes
    data_bytes: int

    def extents(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of each run of leaves that are not zero, in bytes, in order."""
        return decode_data_map(self.data_map, self.address.size)


def decode_data_map(data_map: bytes, size: int) -> Iterator[tuple[int, int]]:
    """(offset, length) in bytes of each run of data that a data map describes for content of `size` bytes."""
    start = None
    for index in range(-(-size // LEAF) + 1):
        data = index < -(-size // LEAF) and data_map[index >> 3] & (0x80 >> (index & 7))
        if data and start is None:
            start = index
        elif not data and start is not None:
            yield start * LEAF, min(index * LEAF, size) - start * LEAF
            start = None


def index_file(path: Path, advance: Advance = ignore_progress) -> ContentIndex:
    """Compute the index of a file.

    Args:
        path: a regular file or block device.
        advance: called with the number of bytes just processed, holes included.

    Raises:
        NotFound: there is no such file.
        Malformed: the file is empty, cannot be read, or changes size while it is read; or it is a symbolic link, whose
            target could change afterwards.
    """
    with _opened(path) as descriptor:
        return index_descriptor(descriptor, str(path), advance)


def index_descriptor(descriptor: int, name: str, advance: Advance = ignore_progress) -> ContentIndex:
    """As :func:`index_file`, for an open file; `name` is used in errors."""
    size = os.lseek(descriptor, 0, os.SEEK_END)
    if not 0 < size <= MAX_SIZE:
        raise Malformed(f"{name}: has {size} bytes; content has between 1 and {MAX_SIZE}")
    builder = _IndexBuilder(size)
    position = asked = 0
    for start, end in _leaf_runs(descriptor, size):
        advance(start - position)
        position = start
        while position < end:
            if position + AHEAD // 2 >= asked < end:
                asked = max(asked, position)
                os.posix_fadvise(descriptor, asked, min(AHEAD, end - asked), os.POSIX_FADV_WILLNEED)
                asked += AHEAD
            data = os.pread(descriptor, min(READ_SIZE, end - position), position)
            if not data:
                raise Malformed(f"{name}: became shorter while it was read; try again when no process writes to it")
            if len(data) % LEAF and position + len(data) < end:
                data = data + _rest(descriptor, position + len(data), LEAF - len(data) % LEAF, end)
            builder.add(position, data)
            position += len(data)
            advance(len(data))
    advance(size - position)
    if os.lseek(descriptor, 0, os.SEEK_END) != size:
        raise Malformed(f"{name}: became longer while it was read; try again when no process writes to it")
    return builder.index()


def verify_content(path: Path, address: Address, advance: Advance = ignore_progress) -> ContentIndex:
    """Read a file and verify that its content has the address; the size is checked first.

    Raises:
        ContentMismatch: the content has another address.
    """
    with _opened(path) as descriptor:
        if (size := os.lseek(descriptor, 0, os.SEEK_END)) != address.size:
            raise ContentMismatch(f"{path}: has {size} bytes, but its address says {address.size}")
        index = index_descriptor(descriptor, str(path), advance)
    if index.address != address:
        raise ContentMismatch(f"{path}: its content has the root {index.address.root.hex()}, not {address.root.hex()}")
    return index


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a file for reading; OSErrors of opening and reading it become NotFound or Malformed."""
    descriptor = -1
    try:
        # Without O_NONBLOCK, opening a named pipe would block for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise Malformed(f"{path}: is neither a regular file nor a block device")
        yield descriptor
    except FileNotFoundError as exc:
        raise NotFound(f"{path}: no such file") from exc
    except OSError as exc:
        raise Malformed(f"{path}: cannot be read: {exc.strerror}") from exc
    finally:
        if descriptor >= 0:
            os.close(descriptor)


class _IndexBuilder:
    """Builds the index of content of `size` bytes; ranges that are not added are zeros."""

    def __init__(self, size: int) -> None:
        self._size = size
        count = -(-size // LEAF)
        self._leaves = [ZERO_LEAF_HASH] * count
        if size % LEAF:
            self._leaves[-1] = hashlib.sha256(bytes(size % LEAF)).digest()
        self._map = bytearray(-(-count // 8))
        self._hints = array("Q", bytes(8)) * -(-size // HINT_BLOCK)
        self._data_bytes = 0

    def add(self, position: int, data: bytes) -> None:
        """Add the bytes at `position`, the beginning of a leaf; only the last leaf of the content may be short."""
        # Nine tenths of the time are spent in sha256; the code around it is written for speed.
        sha256, leaves, data_map = hashlib.sha256, self._leaves, self._map
        hints = compute_hints(data)
        first = position // HINT_BLOCK
        self._hints[first : first + len(hints)] = hints
        index = position // LEAF
        for offset in range(0, len(data), LEAF):
            leaf = data[offset : offset + LEAF]
            if leaf != ZERO_LEAF and (len(leaf) == LEAF or any(leaf)):
                leaves[index] = sha256(leaf).digest()
                data_map[index >> 3] |= 0x80 >> (index & 7)
                self._data_bytes += len(leaf)
            index += 1

    def index(self) -> ContentIndex:
        """Return the index, after all data has been added."""
        root, layer = merkle_tree(self._leaves, self._size)
        if sys.byteorder == "big":
            self._hints.byteswap()
        return ContentIndex(Address(root, self._size), bytes(self._map), layer, self._hints.tobytes(), self._data_bytes)


def compute_hints(data: bytes) -> "array[int]":
    """The hints of bytes that begin a block, as numbers; a short block of zeros at the end has no hint."""
    hints = list(map(xxhash.xxh3_64_intdigest, _split(data)))
    if _ZERO_HINT in hints:
        hints = [0 if hint == _ZERO_HINT else hint for hint in hints]
    return array("Q", hints)


def _split(data: bytes) -> Sequence[bytes]:
    """The 4 KiB blocks of bytes; without the last one if it is short and zero, as it has no hint."""
    whole, short = divmod(len(data), HINT_BLOCK)
    blocks = struct.unpack(f"{HINT_BLOCK}s" * whole + f"{short}s", data)
    return blocks if any(blocks[-1]) else blocks[:-1]


def _rest(descriptor: int, position: int, length: int, end: int) -> bytes:
    """Read the rest of the last leaf after a short read; arguments are bytes."""
    data = b""
    while len(data) < min(length, end - position):
        more = os.pread(descriptor, length - len(data), position + len(data))
        if not more:
            break
        data += more
    return data


def _leaf_runs(descriptor: int, size: int) -> list[tuple[int, int]]:
    """(start, end) of the data runs of a file, widened to whole leaves and joined where they then touch."""
    runs = data_runs(descriptor, 0, size)
    widened = [(low // LEAF * LEAF, min(-(-high // LEAF) * LEAF, size)) for low, high in runs]
    return merge_runs(widened, 1, len(widened))
