"""What a disk with a partition table consists of, from its first byte to its last: a pure plan.

Nodes write it down as a descriptor (`deployer.hypervisor.vmdk_descriptor`); a catalog sends it as a flat image (`flattening`).
"""

from dataclasses import dataclass

from catalog.disk.gpt import write_gpt
from catalog.image.address import Address
from catalog.image.manifest import Blank, GptDisk, MbrDisk, Partition


@dataclass(frozen=True, slots=True)
class DiskExtent:
    """A run of a disk, and where its bytes come from.

    Attributes:
        offset, length: bytes, whole sectors.
        source: the bytes themselves, content or a blank, or None for zeros.
    """

    offset: int
    length: int
    source: bytes | Address | Blank | None


def disk_extents(disk: GptDisk | MbrDisk) -> tuple[DiskExtent, ...]:
    """What a disk consists of, in order, from its first byte to its last and without a gap."""
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
    """Content or blank: the validator of Partition saw to it that there is exactly one."""
    source = partition.content or partition.blank
    assert source is not None  # noqa: S101 - see above
    return source
