"""The address of content: (root, size), and the Merkle tree beneath the root. No IO here; `catalog.content.indexing` reads files.

`root` is the `pieces root` of BitTorrent v2 (BEP 52): the SHA-256 Merkle root over 16 KiB leaves, where the last leaf is
as short as the content is and the leaves missing to a power of two are 32 zero bytes. BEP 52 has no leaf/node prefix, so
a root alone does not identify a content (two leaf hashes concatenated are a 64-byte content with the root of the
original): `size` is part of the address and is checked first (docs/adr/0001-content-addresses.md).
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

LEAF = 16 << 10
"""Bytes in a leaf of the tree: the block size of BEP 52."""

MAX_SIZE = 1 << 46
"""Bytes. 64 TiB: larger than any partition in use, small enough for exact arithmetic on sizes everywhere."""

SMALLEST_PIECE = 64 << 10
LARGEST_PIECE = 256 << 10
"""Bytes. Larger pieces let one poisoning peer get an honest seed banned."""

_TEXT = re.compile(r"([0-9a-f]{64})-([1-9][0-9]{0,13})")
_PAD = bytes(32)


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """The name of a content in manifest, store, cache and swarm. Text form: 64 hex digits, `-`, size in bytes."""

    root: bytes
    size: int

    def __post_init__(self) -> None:
        if len(self.root) != 32:
            raise ValueError(f"the root of an address has 32 bytes, not {len(self.root)}")
        if not 1 <= self.size <= MAX_SIZE:
            raise ValueError(f"the size of an address is between 1 and {MAX_SIZE} bytes, not {self.size}")

    def __str__(self) -> str:
        return f"{self.root.hex()}-{self.size}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form; ValueError for anything else."""
        match = _TEXT.fullmatch(text)
        if not match:
            raise ValueError(f"{text[:90]!r} is not an address: 64 lower-case hex digits, '-', the size in bytes")
        return cls(bytes.fromhex(match[1]), int(match[2]))

    @classmethod
    def of(cls, content: bytes) -> Self:
        """The address of bytes in memory."""
        leaves = [hashlib.sha256(content[i : i + LEAF]).digest() for i in range(0, len(content), LEAF)]
        return cls(merkle_root(leaves), len(content))

    @property
    def leaves(self) -> int:
        """The number of leaves."""
        return -(-self.size // LEAF)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Documents hold an address in its text form."""
        from_text = core_schema.no_info_after_validator_function(cls.parse, core_schema.str_schema())
        return core_schema.json_or_python_schema(
            json_schema=from_text,
            python_schema=core_schema.union_schema([core_schema.is_instance_schema(cls), from_text]),
            serialization=core_schema.plain_serializer_function_ser_schema(str, return_schema=core_schema.str_schema()),
        )


def piece_length(size: int) -> int:
    """The piece length in bytes of content of `size` bytes: a pure function, so that every node derives the same swarm.

    The smallest power of two from 64 KiB to 256 KiB that keeps the number of pieces at or below 8192.
    """
    length = SMALLEST_PIECE
    while length < LARGEST_PIECE and size > 8192 * length:
        length *= 2
    return length


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf hashes, padded to a power of two with 32 zero bytes (BEP 52, `pieces root`)."""
    if not leaves:
        raise ValueError("content without leaves has no root")
    return _levels_up(leaves, (len(leaves) - 1).bit_length(), _PAD)[0]


def merkle_tree(leaves: Sequence[bytes], size: int) -> tuple[bytes, bytes]:
    """Root and piece layer of content of `size` bytes with these leaf hashes (BEP 52, `pieces root`, `piece layers`).

    The layer has the hashes of all pieces, 32 bytes each. Content of at most one piece has no layer in BEP 52; here the
    layer is then the root.
    """
    if len(leaves) != -(-size // LEAF):
        raise ValueError(f"{size} bytes have {-(-size // LEAF)} leaves, not {len(leaves)}")
    if size <= piece_length(size):
        root = merkle_root(leaves)
        return root, root
    per_piece = piece_length(size) // LEAF
    previous: Sequence[bytes] = ()
    distinct: list[bytes] = []
    positions: list[int] = []
    for start in range(0, len(leaves), per_piece):
        row = leaves[start : start + per_piece]
        if row != previous:  # holes are long runs of equal pieces
            previous = row
            distinct += row
            distinct += [_PAD] * (per_piece - len(row))
        positions.append(len(distinct) // per_piece - 1)
    pieces = _levels_up(distinct, per_piece.bit_length() - 1, _PAD)
    layer = b"".join([pieces[at] for at in positions])
    return layer_root(layer, size), layer


def layer_root(layer: bytes, size: int) -> bytes:
    """The root that a piece layer implies: checks a layer from an untrusted source."""
    count = -(-size // piece_length(size))
    if len(layer) != 32 * count:
        raise ValueError(f"a piece layer for {size} bytes has {32 * count} bytes, not {len(layer)}")
    if count == 1:
        return layer
    pad = _PAD
    for _ in range((piece_length(size) // LEAF).bit_length() - 1):
        pad = hashlib.sha256(pad + pad).digest()
    return _levels_up([layer[i : i + 32] for i in range(0, len(layer), 32)], (count - 1).bit_length(), pad)[0]


def _levels_up(nodes: Sequence[bytes], levels: int, pad: bytes) -> list[bytes]:
    """Combine nodes pairwise `levels` times; `pad` replaces each node that is missing at the end."""
    sha256 = hashlib.sha256
    row = list(nodes)
    for _ in range(levels):
        if len(row) % 2:
            row.append(pad)
        pairs = iter(row)
        if len(set(row)) > len(row) // 2:
            row = [sha256(one + other).digest() for one, other in zip(pairs, pairs, strict=True)]
        else:  # mostly holes: few nodes, many times
            known: dict[bytes, bytes] = {}
            row = [
                known.get(both := one + other) or known.setdefault(both, sha256(both).digest())
                for one, other in zip(pairs, pairs, strict=True)
            ]
        pad = sha256(pad + pad).digest()
    return row
