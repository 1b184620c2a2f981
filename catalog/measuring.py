"""One pass over a file yields everything that is known of its content: address, data map, piece layer, hints.

Holes are found with SEEK_DATA/SEEK_HOLE and never read; zero leaves that are stored are read but never hashed.
"""

import hashlib
import os
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from catalog.address import LEAF, Address, merkle_root, piece_layer
from catalog.errors import ContentMismatch, Malformed
from signer.progress import Advance, nothing

HINT_BLOCK = 4 << 10
"""Bytes that one hint stands for: the block size of common filesystems."""

READ = 4 << 20
"""Bytes per read: large enough that system calls do not count, small enough for the processor's cache."""

ZERO_LEAF = bytes(LEAF)
ZERO_LEAF_HASH = hashlib.sha256(ZERO_LEAF).digest()
_HINTS_PER_LEAF = LEAF // HINT_BLOCK


@dataclass(frozen=True, slots=True)
class Measured:
    """What one pass over content found.

    Attributes:
        address: root and size.
        data_map: one bit per leaf, most significant first, set where the leaf holds anything but zeros.
        layer: the piece layer, 32 bytes a piece.
        hints: XXH3-64 of every 4 KiB block, 8 bytes each, little-endian; 0 for blocks of zeros. Unsigned, unverified: a
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
        return extents(self.data_map, self.address.size)


def extents(data_map: bytes, size: int) -> Iterator[tuple[int, int]]:
    """(offset, length) in bytes of each run of data that a data map describes for content of `size` bytes."""
    start = None
    for index in range(-(-size // LEAF) + 1):
        data = index < -(-size // LEAF) and data_map[index >> 3] & (0x80 >> (index & 7))
        if data and start is None:
            start = index
        elif not data and start is not None:
            yield start * LEAF, min(index * LEAF, size) - start * LEAF
            start = None


def measure(path: Path, advance: Advance = nothing) -> Measured:
    """Measure the content of a file.

    Args:
        path: a regular file or block device.
        advance: called with the number of bytes just passed, holes included.

    Raises:
        Malformed: the file is empty, or changes size while it is read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return measure_descriptor(descriptor, str(path), advance)
    finally:
        os.close(descriptor)


def measure_descriptor(descriptor: int, name: str, advance: Advance = nothing) -> Measured:
    """As :func:`measure`, on an open file; `name` is for errors."""
    size = os.lseek(descriptor, 0, os.SEEK_END)
    if size == 0:
        raise Malformed(f"{name}: is empty, and content has at least one byte")
    count = -(-size // LEAF)
    leaves = [ZERO_LEAF_HASH] * count
    hints = array("Q", bytes(8 * -(-size // HINT_BLOCK)))
    data_map = bytearray(-(-count // 8))
    buffer = bytearray(READ)
    data_bytes = position = 0
    for start, end in _stored(descriptor, size):
        advance(start - position)
        position = start
        while position < end:
            got = os.preadv(descriptor, [memoryview(buffer)[: min(READ, end - position)]], position)
            if got == 0:
                raise Malformed(f"{name}: became shorter while it was read; try again when nothing writes to it")
            if got % LEAF and position + got < end:
                got -= got % LEAF
            data_bytes += _leaves(buffer, got, position // LEAF, leaves, hints, data_map)
            position += got
            advance(got)
    advance(size - position)
    if size % LEAF and not data_map[(count - 1) >> 3] & (0x80 >> ((count - 1) & 7)):
        leaves[-1] = hashlib.sha256(bytes(size % LEAF)).digest()
    address = Address(merkle_root(leaves), size)
    return Measured(address, bytes(data_map), piece_layer(leaves, size), _little_endian(hints), data_bytes)


def verify(path: Path, address: Address, advance: Advance = nothing) -> Measured:
    """Re-read a file and demand that its content has the address; the size is checked first.

    Raises:
        ContentMismatch: it has not.
    """
    if (size := path.stat().st_size) != address.size:
        raise ContentMismatch(f"{path}: has {size} bytes, and its address says {address.size}")
    measured = measure(path, advance)
    if measured.address != address:
        raise ContentMismatch(
            f"{path}: its content has the root {measured.address.root.hex()}, not {address.root.hex()}"
        )
    return measured


def _leaves(
    buffer: bytearray, got: int, first: int, leaves: list[bytes], hints: "array[int]", data_map: bytearray
) -> int:
    """Hash what one read brought; returns the number of bytes in leaves that are not zero."""
    sha256, xxh3 = hashlib.sha256, xxhash.xxh3_64_intdigest
    data_bytes = 0
    for offset in range(0, got, LEAF):
        leaf = bytes(memoryview(buffer)[offset : min(offset + LEAF, got)])
        if leaf == ZERO_LEAF or (len(leaf) < LEAF and not any(leaf)):
            continue
        index = first + offset // LEAF
        data_bytes += len(leaf)
        leaves[index] = sha256(leaf).digest()
        data_map[index >> 3] |= 0x80 >> (index & 7)
        for block in range(0, len(leaf), HINT_BLOCK):
            part = leaf[block : block + HINT_BLOCK]
            if part.count(0) != len(part):
                hints[index * _HINTS_PER_LEAF + block // HINT_BLOCK] = xxh3(part)
    return data_bytes


def _stored(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, end) of what is not a hole, widened to whole leaves and merged where widening makes them touch."""
    start = end = 0
    position = 0
    while position < size:
        try:
            data = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError:  # ENXIO: only holes remain. A filesystem without SEEK_DATA reports all as data instead.
            break
        position = os.lseek(descriptor, data, os.SEEK_HOLE)
        low, high = data // LEAF * LEAF, min(-(-position // LEAF) * LEAF, size)
        if low <= end and end:
            end = high
            continue
        if end:
            yield start, end
        start, end = low, high
    if end:
        yield start, end


def _little_endian(hints: "array[int]") -> bytes:
    if memoryview(hints).itemsize != 8:
        raise AssertionError("array type Q has 8 bytes on every platform that Python supports")
    if sys.byteorder == "big":
        hints.byteswap()
    return hints.tobytes()
