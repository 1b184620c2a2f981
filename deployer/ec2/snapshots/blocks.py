"""A disk as blocks of EBS, 512 KiB each with a SHA-256, and the plan which of them an upload on a parent needs. Pure.

A disk's layout says where each run of its bytes comes from. Its digest is the content key: equal keys are equal disks,
bit for bit, on any host. Two layouts that take a block from the same places have the same block, without reading it.
"""

import base64
import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from catalog.disk.layout import DiskExtent, disk_extents
from catalog.image.address import Address
from catalog.image.manifest import Blank, Disk
from signer.documents import Document, canonical

BLOCK_SIZE = 512 << 10
"""Bytes of a block of the EBS direct APIs (PutSnapshotBlock takes exactly that many)."""

GIB = 1 << 30
"""Bytes. Volumes have whole GiB."""

MAX_EBS_VOLUME = 64 << 40
"""Bytes: StartSnapshot takes up to 65536 GiB."""

ZERO_DIGEST = hashlib.sha256(bytes(BLOCK_SIZE)).digest()
"""SHA-256 of a block of zeros: sent only where a parent has something else."""

Digests = Mapping[int, bytes]
"""SHA-256 by block number, for the non-zero blocks."""


class Run(Document):
    """A run of a disk that is not simply zeros.

    Attributes:
        offset, length: bytes.
        source: an address, "blank:DIGEST" of a blank as this host makes it, or "bytes:DIGEST" of a table.
    """

    offset: Annotated[int, Field(ge=0)]
    length: Annotated[int, Field(gt=0)]
    source: str


class Layout(Document):
    """Where the bytes of a disk come from.

    Attributes:
        size: bytes of the disk; its volume has the next whole GiB, and zeros at the end.
        runs: in order; the bytes between them are zero.
    """

    type: Literal["urn:partita:ec2-disk:v1"] = "urn:partita:ec2-disk:v1"
    size: Annotated[int, Field(gt=0, le=MAX_EBS_VOLUME)]
    runs: tuple[Run, ...]

    @property
    def key(self) -> str:
        """The content key: 64 hex digits. The type is inside: another version of layouts has other keys."""
        return hashlib.sha256(canonical(self)).hexdigest()

    @property
    def blocks(self) -> int:
        """The number of blocks, the last one perhaps partial."""
        return -(-self.size // BLOCK_SIZE)

    @property
    def gib(self) -> int:
        """The size of its volume."""
        return -(-self.size // GIB)


def runs_of(disk: Disk) -> tuple[DiskExtent, ...]:
    """The runs of a disk that are not simply zeros, in order, whatever kind of disk it is."""
    return tuple(extent for extent in disk_extents(disk) if extent.source is not None)


def layout_of(disk: Disk, blank: Callable[[Blank], bytes]) -> Layout:
    """The layout of a disk.

    Args:
        disk: of a manifest.
        blank: the digest of a blank's bytes as they are on this host (`catalog.image.blanks.blank_digest`): a blank has no
            address, and tools of another version may make it otherwise.
    """
    runs = tuple(Run(offset=run.offset, length=run.length, source=_name(run.source, blank)) for run in runs_of(disk))
    return Layout(size=disk.size, runs=runs)


def _name(source: bytes | Address | Blank | None, blank: Callable[[Blank], bytes]) -> str:
    match source:
        case Address():
            return str(source)
        case Blank():
            return f"blank:{blank(source).hex()}"
        case bytes():
            return f"bytes:{hashlib.sha256(source).hexdigest()}"
        case None:  # runs_of leaves them out
            raise AssertionError


class BlockPiece(NamedTuple):
    """Where a part of a block comes from: the number of the run, the place in it, the place in the block, and bytes."""

    run: int
    start: int
    at: int
    length: int


class BlockMap:
    """A layout, made quick to ask which runs a block consists of."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._starts = [run.offset for run in layout.runs]

    def pieces(self, index: int) -> list[BlockPiece]:
        """The pieces of a block, in order; the bytes between them are zero."""
        begin, end = index * BLOCK_SIZE, (index + 1) * BLOCK_SIZE
        found = []
        for number in range(max(bisect_right(self._starts, begin) - 1, 0), len(self._starts)):
            run = self.layout.runs[number]
            if run.offset >= end:
                break
            low, high = max(begin, run.offset), min(end, run.offset + run.length)
            if low < high:
                found.append(BlockPiece(number, low - run.offset, low - begin, high - low))
        return found

    def origin(self, index: int) -> list[tuple[str, int, int, int]]:
        """The same with the runs' sources: equal origins are equal bytes."""
        return [(self.layout.runs[p.run].source, p.start, p.at, p.length) for p in self.pieces(index)]


@dataclass(frozen=True)
class ParentSnapshot:
    """A snapshot that another may build on.

    Attributes:
        snapshot_id: AWS's name of it.
        layout: of its disk.
        digests: of its non-zero blocks.
    """

    snapshot_id: str
    layout: Layout
    digests: Digests


class BlockAction(Enum):
    """The action that a block needs."""

    READ = "read"
    """It must be read."""
    ZERO = "zero"
    """It is zero, and the parent has something else there."""
    SAME = "same"
    """The parent has it: its digest is known without reading."""


def plan_blocks(
    layout: Layout, solid: Iterable[int], parent: ParentSnapshot | None
) -> Iterator[tuple[int, BlockAction]]:
    """The action for each block that is not known to be zero in both the disk and its parent.

    Args:
        layout: of the disk.
        solid: numbers, growing, of the blocks that may hold anything but zeros.
        parent: what it builds on.

    Yields:
        Numbers, growing. Omitted blocks are zero, in the parent too.
    """
    if parent is None:
        yield from ((index, BlockAction.READ) for index in solid)
        return
    mine, theirs = BlockMap(layout), BlockMap(parent.layout)
    solid_ones = iter(solid)
    old_ones = iter(sorted(parent.digests))
    new, old = next(solid_ones, None), next(old_ones, None)
    while new is not None or old is not None:
        if old is None or (new is not None and new < old):
            assert new is not None  # noqa: S101 - one of the two is a number
            if mine.origin(new) != theirs.origin(new):  # else it is zero: the same bytes are zero in the parent
                yield new, BlockAction.READ
            new = next(solid_ones, None)
        elif new is None or old < new:
            yield old, BlockAction.ZERO
            old = next(old_ones, None)
        else:
            yield new, BlockAction.SAME if mine.origin(new) == theirs.origin(new) else BlockAction.READ
            new, old = next(solid_ones, None), next(old_ones, None)


def shared_bytes(layout: Layout, other: Layout) -> int:
    """Bytes that two disks have from the same source at the same place, by which a parent is chosen."""
    theirs = {(run.source, run.offset, run.length) for run in other.runs}
    return sum(run.length for run in layout.runs if (run.source, run.offset, run.length) in theirs)


def linear_checksum(digests: Digests) -> str:
    """The linear checksum over the blocks that were sent (CompleteSnapshot): base64 of the SHA-256 over their SHA-256
    in the order of their numbers."""
    total = hashlib.sha256()
    for index in sorted(digests):
        total.update(digests[index])
    return base64.b64encode(total.digest()).decode()
