"""What is already in a file that was left half filled: proved again piece by piece, and below pieces from a journal.

Whole pieces prove themselves. Leaves of unfinished pieces do not, so their state is kept in a small journal beside the
file. The journal is believed only within the boot of the machine in which it was written: the file's pages survive the
end of any process, and nothing but fsync survives the end of the machine.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from catalog.image.address import LEAF
from signer.runtime import files
from stager.content.leaf_set import LeafSet
from stager.content.piece_map import PieceMap

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def read_boot_id() -> str:
    """What names this boot of the machine."""
    return BOOT_ID.read_text().strip()


def write_journal(journal: Path, leaves: LeafSet, boot: str) -> None:
    """Put the state of leaves beside the file, in one step."""
    files.write(journal, boot.encode() + b"\n" + leaves.bits(), sync=None)


def read_journal(journal: Path, guide: PieceMap, boot: str) -> LeafSet:
    """What the journal says; no leaf when there is none, or it is another boot's or another content's."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        written_in, _, bits = journal.read_bytes().partition(b"\n")
        if written_in == boot.encode():
            return LeafSet.of_bits(guide.address, bits)
    return LeafSet(guide.address)


def verified_pieces(guide: PieceMap, descriptor: int, pieces: Iterable[int]) -> list[int]:
    """Those of the pieces whose bytes in the file are right. Holes are not read: a piece that is no hole must be stored."""
    right = []
    for piece in pieces:
        start, end = guide.bounds(piece)
        if (
            _stored(descriptor, start, end)
            and guide.judge(piece, start, os.pread(descriptor, end - start, start)) is not None
        ):
            right.append(piece)
    return right


def find_leaves(guide: PieceMap, path: Path, journal: Path | None, boot: str) -> LeafSet:
    """What is here of a content: its zero pieces, the pieces in the file that prove themselves, the journal's leaves.

    Args:
        guide: with its piece layer; zero leaves that the data map tells of in mixed pieces are not taken on trust.
        path: the file; one that is not there is made, as long as the content and all hole.
        journal: where `write_journal` wrote, or None.
        boot: this boot's name.
    """
    here = LeafSet(guide.address)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        if os.fstat(descriptor).st_size != guide.address.size:
            os.ftruncate(descriptor, guide.address.size)
        needed = set(guide.needed)
        for piece in range(guide.count):
            if piece not in needed and not _stored(descriptor, *guide.bounds(piece)):
                here.add_piece(piece)
        # A zero piece that something was written into is proved as any other.
        for piece in verified_pieces(guide, descriptor, here.missing_pieces()):
            here.add_piece(piece)
        if journal is not None:
            for start, end in read_journal(journal, guide, boot).ranges():
                for leaf in range(start, end, LEAF):
                    if _stored(descriptor, leaf, min(leaf + LEAF, end)):
                        here.add(leaf, min(leaf + LEAF, end))
    finally:
        os.close(descriptor)
    return here


def _stored(descriptor: int, start: int, end: int) -> bool:
    try:
        return os.lseek(descriptor, start, os.SEEK_DATA) < end
    except OSError:  # ENXIO: only holes remain
        return False
