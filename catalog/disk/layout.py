"""What a disk with a partition table consists of, from its first byte to its last: a pure plan.

Nodes write it down as a descriptor (`deployer.hypervisor.vmdk_descriptor`); a catalog sends it as a flat image (`flattening`).
"""

from dataclasses import dataclass

from catalog.disk.gpt import write_gpt
from catalog.image.address import Address
from catalog.image.manifest import Blank, GptDisk, MbrDisk, Partition


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of a disk, and where its bytes come from.

    Attributes:
        offset, length: bytes, whole sectors.
        source: the bytes themselves, content or a blank, or None for zeros.
    """

    offset: int
    length: int
    source: bytes | Address | Blank | None


def extents(disk: GptDisk | MbrDisk) -> tuple[Extent, ...]:
    """What a disk consists of, in order, from its first byte to its last and without a gap."""
    parts = [Extent(part.offset, part.size, source_of(part)) for part in disk.partitions]
    parts += [Extent(gap.offset, gap.content.size, gap.content) for gap in disk.gaps]
    if isinstance(disk, GptDisk):
        head, tail = write_gpt(disk)
        parts += [Extent(0, len(head), head), Extent(disk.size - len(tail), len(tail), tail)]
    whole: list[Extent] = []
    end = 0
    for part in sorted(parts, key=lambda extent: extent.offset):
        if part.offset > end:
            whole.append(Extent(end, part.offset - end, None))
        whole.append(part)
        end = part.offset + part.length
    if end < disk.size:
        whole.append(Extent(end, disk.size - end, None))
    return tuple(whole)


def source_of(partition: Partition) -> Address | Blank:
    """Content or blank: the validator of Partition saw to it that there is exactly one."""
    source = partition.content or partition.blank
    assert source is not None  # noqa: S101 - see above
    return source
