"""Filling a new content from what is here: blocks of cached contents that its hints name, copied into its file.

Copied is not proved: every piece is hashed when all of it is there. A reflink where the filesystem can, else a copy
inside the kernel.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from catalog.content.indexing import HINT_BLOCK
from stager.cache import sidecars as beside
from stager.cache.entries import Donor
from stager.cache.partial_file import PartialFile
from stager.content.block_matching import match_blocks
from stager.content.piece_map import PieceMap

MIN_REUSE = 256 << 10
"""Bytes of a content below which nothing is looked up: asking for its hints takes as long as fetching it."""


ZERO, COPIED = 1, 2


@dataclass(frozen=True)
class ReuseResult:
    """What was found.

    Attributes:
        blocks: for each 4 KiB of the content COPIED, ZERO as its hint says, or 0 where it must be fetched.
        copied: bytes copied.
    """

    blocks: bytearray
    copied: int

    def has(self, block: int) -> bool:
        """Whether a block need not be fetched."""
        return bool(self.blocks[block])


def reuse_blocks(
    root: Path, guide: PieceMap, stored: bytes, pieces: Iterable[int], donors: Sequence[Donor], incoming: PartialFile
) -> ReuseResult:
    """Copy what is here.

    Args:
        root: the cache's directory, where the donors' hints are.
        guide: of the new content.
        stored: its hints, as a catalog gave them.
        pieces: those to fill, in order.
        donors: the likeliest first.
        incoming: the new content's file.

    Raises:
        OSError: the disk fails. What cannot be read of a donor is left out.
    """
    size = guide.address.size
    wanted = beside.decode_hints(stored, size)
    blocks = bytearray(-(-size // HINT_BLOCK))
    candidates = [
        block for piece in pieces for low, high in [guide.bounds(piece)]
        for block in range(low // HINT_BLOCK, -(-high // HINT_BLOCK))
    ]  # fmt: skip
    for block in candidates:
        if block < len(wanted) and not wanted[block]:
            blocks[block] = ZERO
    copied = 0
    with ExitStack() as files:
        opened: dict[int, int] = {}
        for run in match_blocks(
            wanted, candidates, [partial(beside.read_hints, root, donor.address) for donor in donors]
        ):
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
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        files.callback(os.close, descriptor)
        return descriptor
    return -1
