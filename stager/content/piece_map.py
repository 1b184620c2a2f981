"""The map of a content before it is fetched: which pieces hold data, and how each piece is verified. Pure.

A piece layer whose root is the address's root proves each piece by itself, zero pieces included, so a piece is verified
as it arrives and an interrupted transfer continues exactly where it was. The data map says which leaves hold data; only
the pieces themselves prove it, so a wrong map costs a second request and never a wrong byte.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from catalog.content.indexing import ZERO_LEAF, ZERO_LEAF_HASH, decode_data_map
from catalog.image.address import LEAF, Address, layer_root, merkle_root, piece_length
from catalog.image.ranges import join_ranges

_PAD = bytes(32)


@dataclass(frozen=True)
class PieceMap:
    """An address with the accelerators for fetching it.

    Attributes:
        address: of the content.
        layer: the piece layer, proved by the root; None if none is known.
        data_map: one bit per leaf as in `catalog.content.indexing.ContentIndex`; None if none is known. Unproved.
    """

    address: Address
    layer: bytes | None
    data_map: bytes | None

    @classmethod
    def of(cls, address: Address, layer: bytes | None = None, data_map: bytes | None = None) -> Self:
        """Make a map from untrusted accelerators: a layer that the root does not prove, or a map of another size, is
        left out."""
        if address.size <= piece_length(address.size):
            layer = address.root
        if layer is not None:
            try:
                layer = layer if layer_root(layer, address.size) == address.root else None
            except ValueError:
                layer = None
        if data_map is not None and len(data_map) != -(-address.leaves // 8):
            data_map = None
        return cls(address, layer, data_map)

    @cached_property
    def piece(self) -> int:
        """Bytes in a piece; the last may be shorter."""
        return piece_length(self.address.size)

    @cached_property
    def count(self) -> int:
        """The number of pieces."""
        return -(-self.address.size // self.piece)

    def bounds(self, piece: int) -> tuple[int, int]:
        """Return (start, end) of a piece, in bytes."""
        return piece * self.piece, min((piece + 1) * self.piece, self.address.size)

    def ranges(self, piece: int) -> list[tuple[int, int]]:
        """Return (start, end) of each run of leaves with data of a piece, by the data map; the whole piece if it has none."""
        start, end = self.bounds(piece)
        mapped = (leaf for leaf in range(start // LEAF, -(-end // LEAF)) if self._maps(leaf))
        return join_ranges((leaf * LEAF, min((leaf + 1) * LEAF, end)) for leaf in mapped) or [(start, end)]

    def hash_of(self, piece: int) -> bytes | None:
        """Return the hash of a piece; None without a layer."""
        return None if self.layer is None else self.layer[piece * 32 : piece * 32 + 32]

    def zero(self, piece: int) -> bool:
        """Whether a piece is all zero: proved with a layer, else by the data map, else False."""
        if self.layer is not None:
            return self.hash_of(piece) == (self._zero_piece if piece < self.count - 1 else self._last_zero_piece)
        if self.data_map is None:
            return False
        start, end = self.bounds(piece)
        return not any(self._maps(leaf) for leaf in range(start // LEAF, -(-end // LEAF)))

    @cached_property
    def needed(self) -> tuple[int, ...]:
        """The pieces that hold data, in order."""
        return tuple(piece for piece in range(self.count) if not self.zero(piece))

    @cached_property
    def data_extents(self) -> tuple[tuple[int, int], ...]:
        """(offset, length) of each run of data in bytes, in order, as far as known."""
        if self.data_map is None:
            wanted = [self.bounds(piece) for piece in self.needed]
        else:
            mapped = bytearray(self.data_map)
            for piece in range(self.count):
                start, end = self.bounds(piece)
                leaves = range(start // LEAF, -(-end // LEAF))
                if self.zero(piece):
                    for leaf in leaves:
                        mapped[leaf >> 3] &= ~(0x80 >> (leaf & 7))
                elif not any(self._maps(leaf) for leaf in leaves):
                    for leaf in leaves:
                        mapped[leaf >> 3] |= 0x80 >> (leaf & 7)
            return tuple(decode_data_map(bytes(mapped), self.address.size))
        return tuple((start, end - start) for start, end in join_ranges(wanted))

    @property
    def data_bytes(self) -> int:
        """Bytes in :attr:`data_extents`."""
        return sum(length for _, length in self.data_extents)

    def verify_piece(self, piece: int, offset: int, content: bytes) -> list[tuple[int, bytes]] | None:
        """Verify the bytes of a piece.

        Args:
            piece: its number.
            offset: where the bytes begin, from the start of the whole content; a multiple of LEAF.
            content: the bytes; the rest of the piece is taken to be zero.

        Returns:
            (offset, bytes) of each run of leaves that are not zero; None if the piece does not match the layer.
        """
        start, end = self.bounds(piece)
        first, leaves = (offset - start) // LEAF, -(-(end - start) // LEAF)
        hashes = [ZERO_LEAF_HASH] * leaves
        if (end - start) % LEAF:
            hashes[-1] = hashlib.sha256(bytes((end - start) % LEAF)).digest()
        runs: list[tuple[int, int]] = []
        for number, at in enumerate(range(0, len(content), LEAF), first):
            leaf = content[at : at + LEAF]
            if leaf == ZERO_LEAF or (len(leaf) < LEAF and not any(leaf)):
                continue
            hashes[number] = hashlib.sha256(leaf).digest()
            if runs and runs[-1][1] == at:
                runs[-1] = (runs[-1][0], at + len(leaf))
            else:
                runs.append((at, at + len(leaf)))
        if self.layer is not None and self._root(hashes) != self.hash_of(piece):
            return None
        if runs == [(0, len(content))]:
            return [(offset, content)]
        return [(offset + low, content[low:high]) for low, high in runs]

    def _root(self, hashes: list[bytes]) -> bytes:
        if self.count > 1:  # a piece among others has its full height, whatever its length (BEP 52)
            hashes += [_PAD] * (self.piece // LEAF - len(hashes))
        return merkle_root(hashes)

    def _maps(self, leaf: int) -> bool:
        return self.data_map is not None and bool(self.data_map[leaf >> 3] & (0x80 >> (leaf & 7)))

    @cached_property
    def _zero_piece(self) -> bytes:
        return merkle_root([ZERO_LEAF_HASH] * (self.piece // LEAF))

    @cached_property
    def _last_zero_piece(self) -> bytes:
        start, end = self.bounds(self.count - 1)
        hashes = [hashlib.sha256(bytes(min(LEAF, end - at))).digest() for at in range(start, end, LEAF)]
        return self._root(hashes)


def piece_runs(pieces: Iterable[int], per_part: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of each run of adjacent pieces, no run longer than `per_part` pieces."""
    for start, end in join_ranges((piece, piece + 1) for piece in pieces):
        for first in range(start, end, per_part):
            yield first, min(first + per_part, end) - 1
