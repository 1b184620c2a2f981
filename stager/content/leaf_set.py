"""The set of leaves of a content that a node has: the exact state of a transfer. A value; no IO.

Its serialized form is one bit per leaf, most significant first, as in a data map. It converts to BitTorrent's pieces
without loss.
"""

from collections.abc import Iterable, Iterator
from typing import Self

from catalog.image.address import LEAF, Address, piece_length

_TO_DIGITS = bytes.maketrans(b"\x00\x01", b"01")
_FROM_DIGITS = bytes.maketrans(b"01", b"\x00\x01")


class LeafSet:
    """The leaves of one content that this node has."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._here = bytearray(address.leaves)
        self._per_piece = piece_length(address.size) // LEAF

    @classmethod
    def of_bits(cls, address: Address, bits: bytes) -> Self:
        """Read the serialized form; ValueError if its length is wrong or bits beyond the end are set."""
        leaves = cls(address)
        if len(bits) != -(-address.leaves // 8):
            raise ValueError(f"{address.leaves} leaves take {-(-address.leaves // 8)} bytes of bits, not {len(bits)}")
        digits = format(int.from_bytes(bits, "big"), f"0{8 * len(bits)}b").encode().translate(_FROM_DIGITS)
        if any(digits[address.leaves :]):
            raise ValueError("a bit beyond the last leaf is set")
        leaves._here[:] = digits[: address.leaves]
        return leaves

    def bits(self) -> bytes:
        """Return the serialized form."""
        length = -(-len(self._here) // 8)
        digits = self._here.translate(_TO_DIGITS).ljust(8 * length, b"0")
        return int(digits, 2).to_bytes(length, "big")

    def add(self, start: int, end: int) -> int:
        """Add the leaves that lie wholly between the bytes `start` and `end`; returns the number of new bytes."""
        first = -(-start // LEAF)
        last = len(self._here) if end >= self.address.size else end // LEAF
        if last <= first:
            return 0
        new = self._here.count(0, first, last)
        if new == 0:
            return 0
        short = LEAF * len(self._here) - self.address.size
        ends_short = last == len(self._here) and not self._here[-1]
        self._here[first:last] = b"\x01" * (last - first)
        return new * LEAF - (short if ends_short else 0)

    def add_piece(self, piece: int) -> int:
        """Add a piece; returns the number of new bytes."""
        return self.add(piece * self._per_piece * LEAF, (piece + 1) * self._per_piece * LEAF)

    def drop_piece(self, piece: int) -> None:
        """Remove a piece."""
        first = piece * self._per_piece
        last = min(first + self._per_piece, len(self._here))
        self._here[first:last] = bytes(last - first)

    def has_piece(self, piece: int) -> bool:
        """Whether every leaf of a piece is in the set."""
        first = piece * self._per_piece
        return 0 not in self._here[first : first + self._per_piece]

    def missing_ranges(self, piece: int) -> list[tuple[int, int]]:
        """Return (start, end) in bytes of each run of missing leaves of a piece, in order."""
        end = min((piece + 1) * self._per_piece, len(self._here))
        runs, at = [], piece * self._per_piece
        while (first := self._here.find(0, at, end)) >= 0:
            at = self._here.find(1, first, end)
            at = end if at < 0 else at
            runs.append((first * LEAF, min(at * LEAF, self.address.size)))
        return runs

    @property
    def complete(self) -> bool:
        """Whether no leaf is missing."""
        return 0 not in self._here

    @property
    def missing(self) -> int:
        """The number of missing bytes."""
        absent = self._here.count(0)
        short = LEAF * len(self._here) - self.address.size
        return absent * LEAF - (short if absent and not self._here[-1] else 0)

    def missing_pieces(self) -> list[int]:
        """Return the pieces that lack a leaf, in order."""
        return [piece for piece in range(-(-len(self._here) // self._per_piece)) if not self.has_piece(piece)]

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield (start, end) in bytes of each run of leaves, in order."""
        at = 0
        while (first := self._here.find(1, at)) >= 0:
            at = self._here.find(0, first)
            at = len(self._here) if at < 0 else at
            yield first * LEAF, min(at * LEAF, self.address.size)

    def as_pieces(self) -> tuple[list[bool], dict[int, list[bool]]]:
        """Return (have, unfinished): whether each piece is complete, and the leaves of each partial piece."""
        have: list[bool] = []
        unfinished: dict[int, list[bool]] = {}
        for number, first in enumerate(range(0, len(self._here), self._per_piece)):
            piece = self._here[first : first + self._per_piece]
            have.append(0 not in piece)
            if 1 in piece and 0 in piece:
                unfinished[number] = [leaf == 1 for leaf in piece]
        return have, unfinished


def union(first: LeafSet, others: Iterable[tuple[int, int]]) -> LeafSet:
    """Return the leaves of one set, and those that lie wholly within (start, end) ranges."""
    both = LeafSet.of_bits(first.address, first.bits())
    for start, end in others:
        both.add(start, end)
    return both
