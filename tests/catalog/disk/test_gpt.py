"""GUID partition tables: against sfdisk and sgdisk, against attackers, and against themselves."""

import json
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.disk.gpt import ENTRY_SIZE, HEAD_SECTORS, TAIL_SECTORS, GptTable, read_gpt, write_gpt
from catalog.errors import DiskRefused
from catalog.image.manifest import SECTOR, GptDisk
from catalog.image.partition_types import standard_protective, type_name
from signer.errors import DocumentError
from tests.support.catalog.partition_tables import (
    MIB,
    file_reader,
    gpt_disk,
    gpt_disks,
    hollow_reader,
    reader,
    reseal,
    sample_disk,
    sfdisk,
    sgdisk,
    whole,
)

BIOS = "21686148-6449-6e6f-744e-656564454649"
SFDISK = {
    "plain": "label: gpt\nsize=4MiB,type=L,name=root\n",
    "label id, attributes, names": (
        "label: gpt\nlabel-id: 6F5B2A5E-7B10-4A11-9D0C-0C5A3C1D2E3F\n"
        f"start=2048,size=4096,type={BIOS},name=bios\n"
        'size=8MiB,type=U,name="EFI System",attrs="LegacyBIOSBootable RequiredPartition"\n'
        'size=8MiB,type=L,name="Größe 数据",attrs="GUID:60,63"\n'
    ),
    "first usable sector 34": "label: gpt\nfirst-lba: 34\nstart=34,size=2014\nsize=1MiB\n",
    "numbers with holes": "label: gpt\n/dev/x3: start=4096,size=4096\n/dev/x7: start=2048,size=2048\n",
    "last-lba": "label: gpt\nlast-lba: 60000\nsize=1MiB\n",
}
SGDISK = {
    "plain": ["--new=1:0:+4M"],
    "types, names, attributes": [
        "--new=1:2048:+1M", "--typecode=1:ef02", "--new=2:0:+8M", "--typecode=2:ef00", "--change-name=2:EFI System",
        "--new=3:0:0", "--typecode=3:8304", "--attributes=3:set:60", "--attributes=3:set:2", "--change-name=3:wurzel",
    ],
    "from sector 34, without alignment": ["--set-alignment=1", "--new=1:34:2047", "--new=128:0:+1M"],
    "every entry used": ["--set-alignment=1", *(f"--new={n}:0:+8K" for n in range(1, 129))],
}  # fmt: skip


def _rewritten(path: Path) -> GptTable:
    """Read a disk's table and demand that writing it gives the very bytes back."""
    size = path.stat().st_size
    read = file_reader(path)
    table = read_gpt(read, size)
    head, tail = write_gpt(gpt_disk(table, size))
    assert head == read(0, HEAD_SECTORS * SECTOR)
    assert tail == read(size - TAIL_SECTORS * SECTOR, TAIL_SECTORS * SECTOR)
    return table


@pytest.mark.parametrize("size", [64 * MIB, 64 * MIB + 512, 9 << 30, 3 << 40], ids=["64M", "odd", "9G", "3T"])
@pytest.mark.parametrize("name", ["plain", "label id, attributes, names"])
def test_a_table_of_sfdisk_is_rewritten_byte_for_byte(tmp_path: Path, name: str, size: int) -> None:
    _rewritten(sfdisk(tmp_path / "disk", SFDISK[name], size))


@pytest.mark.parametrize("size", [64 * MIB, 64 * MIB + 512, 9 << 30, 3 << 40], ids=["64M", "odd", "9G", "3T"])
@pytest.mark.parametrize("name", ["plain", "types, names, attributes"])
def test_a_table_of_sgdisk_is_rewritten_byte_for_byte(tmp_path: Path, name: str, size: int) -> None:
    _rewritten(sgdisk(tmp_path / "disk", SGDISK[name], size))


@pytest.mark.parametrize("name", SFDISK)
def test_we_and_sfdisk_read_the_same(tmp_path: Path, name: str) -> None:
    path = sfdisk(tmp_path / "disk", SFDISK[name], 64 * MIB)
    _same_as_sfdisk(path, _rewritten(path))


@pytest.mark.parametrize("name", SGDISK)
def test_we_and_sfdisk_read_the_same_of_what_sgdisk_made(tmp_path: Path, name: str) -> None:
    path = sgdisk(tmp_path / "disk", SGDISK[name], 64 * MIB)
    _same_as_sfdisk(path, _rewritten(path))


def _same_as_sfdisk(path: Path, table: GptTable) -> None:
    shown = subprocess.run(["sfdisk", "--json", str(path)], capture_output=True, check=True).stdout
    theirs = json.loads(shown)["partitiontable"]
    assert table.uuid == theirs["id"].lower()
    assert (table.first_lba, table.last_lba) == (theirs["firstlba"], theirs["lastlba"])
    assert [
        (str(e.number), e.first_lba, e.last_lba - e.first_lba + 1, e.type, e.uuid, e.label) for e in table.entries
    ] == [
        (
            p["node"].removeprefix(str(path)),
            p["start"],
            p["size"],
            p["type"].lower(),
            p["uuid"].lower(),
            p.get("name", ""),
        )
        for p in theirs["partitions"]
    ]


@pytest.mark.parametrize("bootable", [False, True])
def test_sgdisk_and_sfdisk_find_nothing_wrong_with_a_disk_that_we_wrote(tmp_path: Path, bootable: bool) -> None:
    protective = bytearray(standard_protective(16 * MIB // SECTOR))
    protective[6] = 0x80
    changes: dict[str, object] = {"protective": protective.hex()} if bootable else {}
    path = tmp_path / "disk"
    path.write_bytes(whole(sample_disk(size=16 * MIB, partitions=128, **changes)))
    verdict = subprocess.run(["sgdisk", "--verify", str(path)], capture_output=True, text=True, check=True)
    assert "No problems found" in verdict.stdout
    verdict = subprocess.run(["sfdisk", "--verify", str(path)], capture_output=True, text=True, check=True)
    assert "No errors detected" in verdict.stdout
    _same_as_sfdisk(path, _rewritten(path))


def test_boot_code_and_a_bootable_protective_record_are_kept(tmp_path: Path) -> None:
    path = sfdisk(tmp_path / "disk", SFDISK["plain"], 64 * MIB)
    code = bytes(range(1, 221)) * 2
    with path.open("r+b") as disk:
        disk.write(code + b"\xde\xad\xbe\xef")
        disk.seek(446)
        disk.write(b"\x80")
    table = _rewritten(path)
    assert table.boot_code == code
    assert table.protective is not None
    assert table.protective[:4] == b"\xde\xad\xbe\xef"


@settings(deadline=None, max_examples=150)
@given(gpt_disks())
def test_reading_gives_back_what_was_written(disk: GptDisk) -> None:
    head, tail = write_gpt(disk)
    assert (len(head), len(tail)) == (17408, 16896)
    table = read_gpt(hollow_reader(head, tail, disk.size), disk.size)
    assert gpt_disk(table, disk.size) == disk


_TABLE_BYTES = st.integers(0, 17407) | st.integers(-16896, -1) | st.integers(440, 700) | st.integers(1024, 1535)


@settings(deadline=None, max_examples=400)
@given(
    st.lists(st.tuples(_TABLE_BYTES, st.integers(0, 255)), min_size=1, max_size=6),
    st.sampled_from(["no", "yes", "copy"]),
)
def test_a_mutated_table_is_refused_or_can_be_rewritten(changes: list[tuple[int, int]], resealed: str) -> None:
    disk = whole(sample_disk())
    for at, value in changes:
        disk[at] = value
    if resealed != "no":
        reseal(disk, copy=resealed == "copy")
    try:
        table = read_gpt(reader(disk), len(disk))
        head, tail = write_gpt(gpt_disk(table, len(disk)))
    except (DiskRefused, DocumentError):
        return
    assert (disk[: len(head)], disk[-len(tail) :]) == (head, tail)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=40000))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DiskRefused):
        read_gpt(reader(data), len(data))


Attack = Callable[[bytearray], None]


def _put(at: int, format_: str, *values: object, sealed: bool = True, copy: bool = False) -> Attack:
    """Write at one place (from the end where negative) and, unless told otherwise, make the checksums right."""

    def attack(disk: bytearray) -> None:
        struct.pack_into(format_, disk, at if at >= 0 else len(disk) + at, *values)
        if sealed:
            reseal(disk, copy=copy)

    return attack


def _entry(number: int, at: int, format_: str, *values: object) -> Attack:
    """Change an entry of both copies."""
    return _put(1024 + (number - 1) * ENTRY_SIZE + at, format_, *values, copy=True)


def _both_headers(at: int, format_: str, *values: object) -> Attack:
    def attack(disk: bytearray) -> None:
        for header in (SECTOR, len(disk) - SECTOR):
            struct.pack_into(format_, disk, header + at, *values)
        reseal(disk)

    return attack


def _four_kib_sectors(disk: bytearray) -> None:
    disk[4096:4188] = disk[512:604]
    disk[512:1024] = bytes(512)


def _grown(disk: bytearray) -> None:
    disk += bytes(MIB)


ATTACKS: dict[str, tuple[Attack, str]] = {
    "the first sector lacks its mark": (_put(510, "2s", b"\0\0"), r"sector 0 is not a protective MBR"),
    "a hybrid MBR": (_put(462, "16s", b"\x80\0\2\0\x83\xff\xff\xff\0\x08\0\0\0\x08\0\0"), r"a hybrid MBR"),
    "the protective record stands second": (
        lambda disk: disk.__setitem__(slice(446, 478), bytes(16) + disk[446:462]),
        r"a hybrid MBR",
    ),
    "an MBR of type 83 before a GPT": (_put(450, "B", 0x83), r"does not have type EE"),
    "a protective record from sector 2": (_put(454, "<I", 2), r"does not have type EE and begin at sector 1"),
    "no primary header": (_put(512, "8s", bytes(8)), r"the primary header \(sector 1\) is missing"),
    "no backup header": (_put(-512, "8s", bytes(8)), r"the backup header \(sector 2047\) is missing"),
    "a disk that has grown": (_grown, r"in the last sector, 2047, but the disk ends with sector 4095: it has grown; move.*sgdisk -e"),
    "a disk that was cut": (lambda disk: disk.__delitem__(slice(-SECTOR, None)), r"the disk ends with sector 2046: it is truncated"),
    "half a sector too much": (lambda disk: disk.extend(bytes(256)), r"not a multiple of 512"),
    "too small for a table": (lambda disk: disk.__delitem__(slice(67 * SECTOR, None)), r"too few for a GPT"),
    "sectors of 4096 bytes": (_four_kib_sectors, r"for sectors of 4096 bytes, and only 512"),
    "a wrong header checksum": (_put(512 + 40, "<Q", 35, sealed=False), r"primary header \(sector 1\) has a wrong checksum"),
    "a wrong backup checksum": (_put(-512 + 16, "<I", 1, sealed=False), r"backup header \(sector 2047\) has a wrong checksum"),
    "entries do not fit their checksum": (_put(1024 + 56, "2s", b"X\0", sealed=False), r"primary header.*entries with a wrong"),
    "backup entries do not fit": (_put(-33 * 512 + 56, "2s", b"X\0", sealed=False), r"backup header.*entries with a wrong"),
    "both copies whole, but different names": (_put(1024 + 56, "2s", b"X\0"), r"sector 1\) and its backup \(sector 2047\) differ"),
    "both copies whole, but different disks": (_put(512 + 56, "16s", bytes(16)), r"and its backup .* differ"),
    "revision 2": (_both_headers(8, "<I", 0x20000), r"does not have revision 1.0"),
    "a header of 96 bytes": (_both_headers(12, "<I", 96), r"does not have revision 1.0 and 92 bytes"),
    "something in the reserved field": (_both_headers(20, "<I", 1), r"followed by zeros"),
    "something after the header": (_both_headers(511, "B", 1), r"followed by zeros"),
    "the header says that it lies elsewhere": (_put(512 + 24, "<Q", 2), r"gives its own position as sector 2"),
    "the backup is said to lie elsewhere": (_put(512 + 32, "<Q", 2000), r"in the last sector, 2000"),
    "the backup says that its twin lies elsewhere": (_put(-512 + 32, "<Q", 2), r"that of the other copy as 2, not 2047 and 1"),
    "256 entries": (_both_headers(80, "<I", 256), r"has 256 entries of 128 bytes; only 128 entries of 128"),
    "4 billion entries": (_both_headers(80, "<I", 0xFFFFFFFF), r"4294967295 entries"),
    "entries of 256 bytes": (_both_headers(84, "<I", 256), r"128 entries of 256 bytes"),
    "entries of no bytes": (_both_headers(84, "<I", 0), r"128 entries of 0 bytes"),
    "entries elsewhere": (_put(512 + 72, "<Q", 3), r"has its entries in sector 3; only 2"),
    "entries outside the disk": (_put(512 + 72, "<Q", 1 << 63), r"has its entries in sector 9223372036854775808"),
    "usable sectors over the table": (_both_headers(40, "<Q", 33), r"usable sectors in the header, 33-2014"),
    "usable sectors after the disk": (_both_headers(48, "<Q", 1 << 60), r"are not between 34 and 2014"),
    "usable sectors in the wrong order": (_both_headers(40, "<QQ", 100, 99), r"usable sectors in the header, 100-99"),
    "a partition over the table": (_entry(1, 32, "<Q", 2), r"partition 1 lies in sectors 2-255"),
    "a partition after the end": (_entry(3, 40, "<Q", 2015), r"partition 3 lies in sectors 384-2015"),
    "a partition of no sectors": (_entry(2, 40, "<Q", 255), r"partition 2 lies in sectors 256-255"),
    "a partition that wraps round": (_entry(2, 32, "<QQ", 1 << 63, (1 << 64) - 1), r"partition 2 lies in"),
    "two partitions overlap": (_entry(1, 40, "<Q", 256), r"partitions 1 and 2 overlap from sector 256 on"),
    "a partition inside another": (_entry(1, 40, "<Q", 2014), r"partitions 1 and 2 overlap"),
    "two partitions with one UUID": (
        _entry(3, 16, "16s", b"\0\0\0\0\0\0\0\x40\x80\0\0\0\0\0\0\x01"),
        r"partitions 1 and 3 have the same UUID 00000000-0000-4000-8000-000000000001",
    ),
    "a partition without UUID": (_entry(2, 16, "16s", bytes(16)), r"partition 2 has no UUID"),
    "an unused entry with content": (_entry(9, 40, "<Q", 7), r"partition 9 is unused, but its entry is not empty"),
    "a name with half a surrogate pair": (_entry(1, 56, "2s", b"\0\xd8"), r"partition 1: the name is not valid UTF-16"),
    "a name with an escape sequence": (_entry(1, 56, "8s", "\x1b[2J".encode("utf-16-le")), r"control characters"),
    "a name with an 8-bit escape": (_entry(1, 56, "4s", "\x9bm".encode("utf-16-le")), r"control characters"),
    "a name that goes on after its end": (_entry(1, 126, "2s", b"X\0"), r"bytes after its end"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_a_broken_or_hostile_table_is_refused(name: str) -> None:
    disk = whole(sample_disk())
    assert read_gpt(reader(disk), len(disk)).entries
    attack, reason = ATTACKS[name]
    attack(disk)
    with pytest.raises(DiskRefused, match=reason):
        read_gpt(reader(disk), len(disk))


def test_a_disk_that_ends_inside_its_table_is_refused() -> None:
    disk = whole(sample_disk())
    with pytest.raises(DiskRefused, match="sector 2: the disk ends inside"):
        read_gpt(lambda offset, length: b"" if offset == 1024 else reader(disk)(offset, length), len(disk))


def test_types_keep_their_one_name() -> None:
    disk = whole(sample_disk())
    table = read_gpt(reader(disk), len(disk))
    assert [type_name(entry.type) for entry in table.entries] == ["root-x86-64", "linux-generic", "esp"]
