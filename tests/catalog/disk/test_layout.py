"""The extents of a disk: every byte accounted for, once, in order."""

from hypothesis import given
from hypothesis import strategies as st

from catalog.disk.gpt import write_gpt
from catalog.disk.layout import DiskExtent, disk_extents
from catalog.image.address import Address
from catalog.image.manifest import Blank, GptDisk, MbrDisk
from signer.documents import validate

MIB = 1 << 20


def gpt(sizes: list[tuple[int, int]]) -> GptDisk:
    """A disk of partitions given as (sectors before it, sectors in it)."""
    partitions = []
    at = 34 * 512
    for number, (before, sectors) in enumerate(sizes, 1):
        at += before * 512
        partitions.append(
            {
                "label": f"p{number}",
                "type": "linux-generic",
                "uuid": f"00000000-0000-4000-8000-{number:012x}",
                "access": "read-only",
                "content": f"{number:064x}-{sectors * 512}",
                "number": number,
                "offset": at,
            }
        )
        at += sectors * 512
    size = at + 33 * 512
    document = {
        "table": "gpt",
        "uuid": "11111111-1111-4111-8111-111111111111",
        "size": size,
        "first_lba": 34,
        "last_lba": size // 512 - 34,
        "partitions": partitions,
    }
    return validate(GptDisk, document, "disk")


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 100_000)), min_size=1, max_size=12))
def test_the_extents_of_a_gpt_disk_cover_it_once(sizes: list[tuple[int, int]]) -> None:
    disk = gpt(sizes)
    found = disk_extents(disk)
    end = 0
    for extent in found:
        assert extent.offset == end
        assert extent.length > 0
        end += extent.length
    assert end == disk.size
    head, tail = write_gpt(disk)
    assert found[0] == DiskExtent(0, 17408, head)
    assert found[-1] == DiskExtent(disk.size - 16896, 16896, tail)
    assert [extent.source for extent in found if isinstance(extent.source, Address)] == [
        part.content for part in disk.partitions
    ]


def test_gaps_blanks_and_zeros_have_their_places() -> None:
    first_sector, blank = f"{1:064x}-512", {"size": 40 * 512, "filesystem": "none"}
    document = {
        "table": "mbr",
        "size": 4 * MIB,
        "gaps": [{"offset": 0, "content": first_sector}, {"offset": MIB, "content": f"{2:064x}-16384"}],
        "partitions": [
            {
                "label": "",
                "type": "mbr-83",
                "uuid": "deadbeef-01",
                "access": "copy-on-write",
                "blank": blank,
                "number": 1,
                "offset": 2 * MIB,
            }
        ],
    }
    disk = validate(MbrDisk, document, "disk")
    assert disk_extents(disk) == (
        DiskExtent(0, 512, Address.parse(first_sector)),
        DiskExtent(512, MIB - 512, None),
        DiskExtent(MIB, 16384, Address.parse(f"{2:064x}-16384")),
        DiskExtent(MIB + 16384, MIB - 16384, None),
        DiskExtent(2 * MIB, 40 * 512, Blank(size=40 * 512, filesystem="none")),
        DiskExtent(2 * MIB + 40 * 512, 2 * MIB - 40 * 512, None),
    )
