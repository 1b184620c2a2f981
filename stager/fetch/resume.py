"""Finds the leaves in a partial file: whole pieces by verifying them again, others from a journal.

Whole pieces are verified by the piece layer. Leaves of unfinished pieces cannot be, so their state is kept in a small
journal beside the file. The journal is trusted only within the boot of the machine in which it was written: the file's
pages survive the end of a process, but only fsync makes them survive the end of the machine.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from catalog.image.address import LEAF
from signer.runtime import files
from stager.cache.disk import has_data
from stager.content.leaf_set import LeafSet
from stager.content.piece_map import PieceMap

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def read_boot_id() -> str:
    """Return the identifier of this boot of the machine."""
    return BOOT_ID.read_text().strip()


def write_journal(journal: Path, leaves: LeafSet, boot: str) -> None:
    """Write the state of leaves beside the file, in one step."""
    files.write(journal, boot.encode() + b"\n" + leaves.bits(), sync=None)


def read_journal(journal: Path, piece_map: PieceMap, boot: str) -> LeafSet:
    """Read a journal; no leaves if it is missing, or of another boot or another content."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        written_in, _, bits = journal.read_bytes().partition(b"\n")
        if written_in == boot.encode():
            return LeafSet.of_bits(piece_map.address, bits)
    return LeafSet(piece_map.address)


def verified_pieces(piece_map: PieceMap, descriptor: int, pieces: Iterable[int]) -> list[int]:
    """Return the pieces whose bytes in the file are correct. Holes are not read: a piece with data must be stored."""
    right = []
    for piece in pieces:
        start, end = piece_map.bounds(piece)
        if has_data(descriptor, start, end):
            content = os.pread(descriptor, end - start, start)
            right += [piece] if piece_map.verify_piece(piece, start, content) is not None else []
    return right


def find_leaves(piece_map: PieceMap, path: Path, journal: Path | None, boot: str) -> LeafSet:
    """Find the leaves of a content in its file: zero pieces, pieces that verify, and the journal's leaves.

    Args:
        piece_map: with its piece layer; the data map's zero leaves in partial pieces are not trusted.
        path: the file; a missing one is made, with the content's size and all holes.
        journal: the file of `write_journal`, or None.
        boot: this boot's identifier.
    """
    here = LeafSet(piece_map.address)
    with files.opened(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644) as descriptor:
        if os.fstat(descriptor).st_size != piece_map.address.size:
            os.ftruncate(descriptor, piece_map.address.size)
        needed = set(piece_map.needed)
        for piece in range(piece_map.count):
            if piece not in needed and not has_data(descriptor, *piece_map.bounds(piece)):
                here.add_piece(piece)
        # A zero piece into which bytes were written is verified like any other.
        for piece in verified_pieces(piece_map, descriptor, here.missing_pieces()):
            here.add_piece(piece)
        if journal is not None:
            for start, end in read_journal(journal, piece_map, boot).ranges():
                for leaf in range(start, end, LEAF):
                    if has_data(descriptor, leaf, min(leaf + LEAF, end)):
                        here.add(leaf, min(leaf + LEAF, end))
    return here
