"""Copies blocks of cached contents into the file of a new content, as its hints say.

Copied blocks are not verified yet: every piece is hashed when it is complete. Blocks are shared (reflink) if the
filesystem can, else copied inside the kernel.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from catalog.content.indexing import HINT_BLOCK
from signer.runtime.files import opened
from stager.cache import sidecars
from stager.cache.entries import Donor
from stager.cache.partial_file import PartialFile
from stager.content.block_matching import match_blocks
from stager.content.piece_map import PieceMap

MIN_REUSE = 256 << 10
"""Bytes of a content below which no blocks are looked up: asking for its hints takes as long as fetching it."""

ZERO, COPIED = 1, 2


@dataclass(frozen=True)
class ReuseResult:
    """The reused blocks.

    Attributes:
        blocks: for each 4 KiB of the content COPIED, ZERO (by its hint), or 0 if it must be fetched.
        copied: bytes copied.
    """

    blocks: bytearray
    copied: int

    def has(self, block: int) -> bool:
        """Whether a block need not be fetched."""
        return bool(self.blocks[block])


def reuse_blocks(
    root: Path,
    piece_map: PieceMap,
    stored: bytes,
    pieces: Iterable[int],
    donors: Sequence[Donor],
    incoming: PartialFile,
) -> ReuseResult:
    """Copy blocks from donors.

    Args:
        root: the cache's directory, which has the donors' hints.
        piece_map: of the new content.
        stored: its hints, from a catalog.
        pieces: those to fill, in order.
        donors: the likeliest first.
        incoming: the new content's file.

    Raises:
        OSError: the disk fails. Blocks of a donor that cannot be read are left out.
    """
    size = piece_map.address.size
    wanted = sidecars.decode_hints(stored, size)
    blocks = bytearray(-(-size // HINT_BLOCK))
    candidates = [
        block for piece in pieces for low, high in [piece_map.bounds(piece)]
        for block in range(low // HINT_BLOCK, -(-high // HINT_BLOCK))
    ]  # fmt: skip
    for block in candidates:
        if block < len(wanted) and not wanted[block]:
            blocks[block] = ZERO
    copied = 0
    hints = [partial(sidecars.read_hints, root, donor.address) for donor in donors]
    with ExitStack() as files:
        opened: dict[int, int] = {}
        for run in match_blocks(wanted, candidates, hints):
            if run.donor not in opened:
                opened[run.donor] = _open(donors[run.donor].path, files)
            if opened[run.donor] < 0:
                continue
            length = run.count * HINT_BLOCK
            if incoming.copy(opened[run.donor], run.source * HINT_BLOCK, run.target * HINT_BLOCK, length):
                blocks[run.target : run.target + run.count] = bytes([COPIED]) * run.count
                copied += length
    return ReuseResult(blocks, copied)


def _open(path: Path, files: ExitStack) -> int:
    with suppress(OSError):
        return files.enter_context(opened(path, os.O_RDONLY | os.O_NOFOLLOW))
    return -1
