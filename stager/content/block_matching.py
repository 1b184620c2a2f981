"""Finds blocks of a new content in cached contents, by their hints. Pure.

A hint is the XXH3-64 of 4 KiB, 0 for zeros (docs/formats.md). The new content's hints come from a catalog and may be wrong;
the copied blocks are verified piece by piece like any others. Memory use depends on the new content, not on the cache: the
hints of cached contents are scanned once for each WINDOW of the new content.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from catalog.content.indexing import HINT_BLOCK
from catalog.image.ranges import join_ranges

WINDOW = 1 << 19
"""Blocks of the new content that are looked up at once: 2 GiB of content, 60 MB of memory."""

Hints = Sequence[int]
"""One hint for each whole block."""


@dataclass(frozen=True, slots=True)
class BlockCopy:
    """A run of blocks to copy: the donor's number, first block in the donor, first block in the target, number of blocks."""

    donor: int
    source: int
    target: int
    count: int


def match_blocks(
    wanted: Hints, blocks: Iterable[int], donors: Sequence[Callable[[], Hints]], *, window: int = WINDOW
) -> list[BlockCopy]:
    """Find blocks in donors.

    Args:
        wanted: the hints of the new content.
        blocks: the blocks of it that are wanted, in order.
        donors: a function for each cached content that gives its hints; the likeliest first.
        window: blocks looked up at once.

    Returns:
        Runs in the order of their targets. To make runs long, a block is taken from behind its predecessor in the donor if
        it is there too, else from the same offset, else from any other.
    """
    found: list[BlockCopy] = []
    pending = (block for block in blocks if block < len(wanted) and wanted[block])
    while part := list(islice(pending, window)):
        places = _look_up(wanted, part, donors)
        found += _runs((block, *places[block]) for block in part if block in places)
    return found


def _look_up(wanted: Hints, part: list[int], donors: Sequence[Callable[[], Hints]]) -> dict[int, tuple[int, int]]:
    """Return (donor, block in it) for each block that was found."""
    places: dict[int, tuple[int, int]] = {}
    pending = part
    for number, read_hints in enumerate(donors):
        if not pending:
            break
        hints = read_hints()
        hits = {wanted[block] for block in pending}.intersection(hints)
        if not hits:
            continue
        where: dict[int, int] = {}
        for place, hint in enumerate(hints):
            if hint in hits:
                where.setdefault(hint, place)
        left, before, after = [], -2, 0
        for block in pending:
            hint = wanted[block]
            if hint not in hits:
                left.append(block)
                continue
            if block == before + 1 and after < len(hints) and hints[after] == hint:
                place = after
            elif block < len(hints) and hints[block] == hint:
                place = block
            else:
                place = where[hint]
            places[block] = number, place
            before, after = block, place + 1
        pending = left
    return places


def _runs(found: Iterable[tuple[int, int, int]]) -> Iterator[BlockCopy]:
    """Join (target, donor, source) of single blocks to runs."""
    run: BlockCopy | None = None
    for target, donor, source in found:
        if run is not None and (donor, source, target) == (run.donor, run.source + run.count, run.target + run.count):
            run = BlockCopy(run.donor, run.source, run.target, run.count + 1)
            continue
        if run is not None:
            yield run
        run = BlockCopy(donor, source, target, 1)
    if run is not None:
        yield run


def missing_runs(start: int, end: int, has: Callable[[int], bool]) -> list[tuple[int, int]]:
    """Return (start, end) in bytes of each run of missing blocks between two offsets (`start` on a block)."""
    missing = (block for block in range(start // HINT_BLOCK, -(-end // HINT_BLOCK)) if not has(block))
    return join_ranges((block * HINT_BLOCK, min((block + 1) * HINT_BLOCK, end)) for block in missing)
