"""The layout of a disk with a partition table, from its first byte to its last.

Nodes write it as a descriptor (`deployer.hypervisor.vmdk_descriptor`); a catalog sends it as a flat image
(`catalog.content.flat_image`).
"""

from dataclasses import dataclass

from catalog.disk.gpt import write_gpt
from catalog.image.address import Address
from catalog.image.manifest import Blank, GptDisk, MbrDisk, Partition


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


def disk_extents(disk: GptDisk | MbrDisk) -> tuple[DiskExtent, ...]:
    """The extents of a disk in order, from its first byte to its last without holes between them."""
    parts = [DiskExtent(part.offset, part.size, partition_content(part)) for part in disk.partitions]
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


def partition_content(partition: Partition) -> Address | Blank:
    """The content or the blank; the validator of Partition ensures that there is exactly one."""
    source = partition.content or partition.blank
    assert source is not None  # noqa: S101 - see above
    return source
