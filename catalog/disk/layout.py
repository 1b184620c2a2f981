"""The layout of a disk with a partition table, from its first byte to its last.

Nodes write it as a descriptor (`deployer.hypervisor.vmdk_descriptor`); a catalog sends it as a flat image
(`catalog.content.flat_image`).
"""

from dataclasses import dataclass

from catalog.disk.gpt import write_gpt
from catalog.image.address import Address
from catalog.image.manifest import BareDisk, Blank, GptDisk, MbrDisk


@dataclass(frozen=True, slots=True)
class DiskExtent:
    """A run of bytes of a disk, and their source.

    Attributes:
        offset, length: bytes, whole sectors.
        source: the bytes themselves, a content or a blank, or None for zeros.
    """

    offset: int
    length: int
    source: bytes | Address | Blank | None


def disk_extents(disk: GptDisk | MbrDisk | BareDisk) -> tuple[DiskExtent, ...]:
    """The extents of a disk in order, from its first byte to its last without holes between them."""
    if isinstance(disk, BareDisk):
        return (DiskExtent(0, disk.partition.size, disk.partition.source),)
    parts = [DiskExtent(part.offset, part.size, part.source) for part in disk.partitions]
    parts += [DiskExtent(gap.offset, gap.content.size, gap.content) for gap in disk.gaps]
    if isinstance(disk, GptDisk):
        head, tail = write_gpt(disk)
        parts += [DiskExtent(0, len(head), head), DiskExtent(disk.size - len(tail), len(tail), tail)]
    whole: list[DiskExtent] = []
    end = 0
    for part in sorted(parts, key=lambda extent: extent.offset):
        if part.offset > end:
            whole.append(DiskExtent(end, part.offset - end, None))
        whole.append(part)
        end = part.offset + part.length
    if end < disk.size:
        whole.append(DiskExtent(end, disk.size - end, None))
    return tuple(whole)
