"""MBR partition tables: against sfdisk, against attackers; and which table a disk has at all."""

import json
import struct
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.disk.gpt import GptTable
from catalog.disk.mbr import MbrTable, read_mbr, read_table
from catalog.errors import DiskRefused
from catalog.image.manifest import SECTOR
from tests.support.catalog.partition_tables import MIB, file_reader, reader, sample_disk, sfdisk, sgdisk, whole

SFDISK = {
    "one": "label: dos\nsize=4MiB,type=83\n",
    "four, one active": (
        "label: dos\nlabel-id: 0x12345678\nstart=63,size=1000,type=6\nsize=2MiB,type=83,bootable\n"
        "size=2MiB,type=82\nsize=2MiB,type=c\n"
    ),
    "logical ones": (
        "label: dos\nlabel-id: 0xcafebabe\nsize=4MiB,type=83,bootable\nsize=40MiB,type=5\n"
        "/dev/x5: size=1MiB,type=83\n/dev/x6: size=2MiB,type=82\n/dev/x7: size=3MiB,type=83\n"
    ),
    "logical ones in a container of Windows": (
        "label: dos\nsize=20MiB,type=f\n/dev/x5: size=1MiB,type=7\n/dev/x6: size=1MiB,type=83\n"
    ),
    "a primary one after the container": (
        "label: dos\nstart=2048,size=20480,type=5\nstart=30000,size=1000,type=83\n/dev/x5: start=4096,size=2048\n"
    ),
    "forty logical ones": (
        "label: dos\nsize=120MiB,type=5\n" + "".join(f"/dev/x{n}: size=512KiB\n" for n in range(5, 45))
    ),
}


@pytest.mark.parametrize("name", SFDISK)
def test_we_and_sfdisk_read_the_same(tmp_path: Path, name: str) -> None:
    path = sfdisk(tmp_path / "disk", SFDISK[name], 128 * MIB)
    table = read_table(file_reader(path), 128 * MIB)
    assert isinstance(table, MbrTable)
    shown = subprocess.run(["sfdisk", "--json", str(path)], capture_output=True, check=True).stdout
    theirs = json.loads(shown)["partitiontable"]
    assert table.signature == int(theirs["id"], 16)
    assert [
        (str(e.number), e.first_lba, e.last_lba - e.first_lba + 1, e.type.removeprefix("mbr-"), e.active)
        for e in table.entries
    ] == [
        (
            p["node"].removeprefix(str(path)),
            p["start"],
            p["size"],
            f"{int(p['type'], 16):02x}",
            p.get("bootable", False),
        )
        for p in theirs["partitions"]
        if p["type"] not in {"5", "f"}
    ]
    assert [entry.uuid for entry in table.entries] == [
        f"{int(theirs['id'], 16):08x}-{e.number:02x}" for e in table.entries
    ]
    assert table.tables[0] == 0
    assert len(table.tables) == len(set(table.tables))


def test_the_tables_of_logical_partitions_are_named(tmp_path: Path) -> None:
    path = sfdisk(tmp_path / "disk", SFDISK["logical ones"], 64 * MIB)
    table = read_mbr(file_reader(path), 64 * MIB)
    logical = [entry for entry in table.entries if entry.number > 4]
    assert table.tables == (0, 10240, 14336, 20480)
    for lba, entry in zip(table.tables[1:], logical, strict=True):
        assert lba < entry.first_lba
        with path.open("rb") as disk:
            disk.seek(lba * SECTOR + 510)
            assert disk.read(2) == b"\x55\xaa"


def _record(kind: int, start: int, count: int, status: int = 0) -> bytes:
    return struct.pack("<B3sB3sII", status, b"\0\2\0", kind, b"\xff\xff\xff", start, count)


def _table(*records: bytes) -> bytes:
    return b"".join(records).ljust(64, b"\0") + b"\x55\xaa"


def _disk() -> bytearray:
    """1 MiB: a primary partition, then a container from sector 256 with two logical ones."""
    disk = bytearray(MIB)
    disk[440:444] = b"\x78\x56\x34\x12"
    disk[446:512] = _table(_record(0x83, 64, 64, 0x80), _record(0x05, 256, 1024))
    disk[256 * 512 + 446 : 257 * 512] = _table(_record(0x83, 8, 100), _record(0x05, 512, 512))
    disk[768 * 512 + 446 : 769 * 512] = _table(_record(0x82, 8, 100))
    return disk


def test_a_disk_made_by_hand_is_read() -> None:
    table = read_mbr(reader(_disk()), MIB)
    assert [(e.number, e.type, e.uuid, e.first_lba, e.last_lba, e.active) for e in table.entries] == [
        (1, "mbr-83", "12345678-01", 64, 127, True),
        (5, "mbr-83", "12345678-05", 264, 363, False),
        (6, "mbr-82", "12345678-06", 776, 875, False),
    ]
    assert table.tables == (0, 256, 768)


def _at(lba: int, *records: bytes) -> Callable[[bytearray], None]:
    def attack(disk: bytearray) -> None:
        disk[lba * 512 + 446 : lba * 512 + 512] = _table(*records)

    return attack


def _zero(start: int, stop: int) -> Callable[[bytearray], None]:
    return lambda disk: disk.__setitem__(slice(start, stop), bytes(stop - start))


def _endless(disk: bytearray) -> None:
    """A table in every sector of the container, each naming the next."""
    for lba in range(256, 1279):
        _at(lba, _record(0x05, lba + 1 - 256, 1))(disk)


def _many(disk: bytearray) -> None:
    """A logical partition of one sector in every other sector."""
    for lba in range(256, 1278, 2):
        _at(lba, _record(0x83, 1, 1), _record(0x05, lba + 2 - 256, 2))(disk)


ATTACKS: dict[str, tuple[Callable[[bytearray], None], str]] = {
    "no mark at the end": (_zero(510, 512), r"sector 0 is not a partition table"),
    "a status that nobody has": (_at(0, _record(0x83, 64, 64, 0x55)), r"record 1 in sector 0 has status 0x55"),
    "a partition over the table": (_at(0, _record(0x83, 0, 64)), r"partition 1 lies in sectors 0-63"),
    "a partition after the end": (_at(0, _record(0x83, 64, 1985)), r"partition 1 lies in sectors 64-2048, outside 1-2047"),
    "a partition of 2 TiB": (_at(0, _record(0x83, 64, 0xFFFFFFFF)), r"partition 1 lies in sectors 64-4294967358"),
    "a partition of no sectors": (_at(0, _record(0x83, 64, 0)), r"partition 1 has no sectors"),
    "two partitions overlap": (_at(0, _record(0x83, 64, 64), _record(0x83, 127, 9)), r"partitions 1 and 2 overlap from sector 127"),
    "a partition over the container": (_at(0, _record(0x83, 64, 300), _record(0x05, 256, 9)), r"1 and extended overlap"),
    "two containers": (_at(0, _record(0x05, 256, 9), _record(0x0F, 300, 9)), r"two extended partitions"),
    "the protective record of a GPT": (_at(0, _record(0xEE, 1, 2047)), r"the protective record of a GPT"),
    "a container without a table": (_zero(256 * 512, 257 * 512), r"sector 256 is not a partition table"),
    "a chain that comes back": (_at(768, _record(0x83, 8, 9), _record(0x05, 0, 9)), r"768 links to sector 256"),
    "a table that names itself": (_at(256, _record(0x05, 0, 9)), r"256 links to sector 256"),
    "a chain that leaves the container": (_at(256, _record(0x05, 1024, 9)), r"links to sector 1280, outside 257-1279"),
    "a chain without end": (_endless, r"more than 128 tables"),
    "more partitions than numbers": (_many, r"logical partitions have numbers above 128"),
    "a logical partition leaves the container": (_at(768, _record(0x83, 8, 600)), r"partition 6 lies in sectors 776-1375"),
    "a logical partition over its own table": (_at(768, _record(0x83, 0, 9)), r"partition 6 lies in sectors 768"),
    "a logical partition over the next table": (
        _at(256, _record(0x83, 8, 505), _record(0x05, 512, 9)), r"partitions 5 and table in sector 768 overlap"
    ),
    "a table with two partitions": (_at(256, _record(0x83, 8, 9), _record(0x83, 20, 9)), r"more than one partition"),
    "a table with two links": (_at(256, _record(0x05, 20, 9), _record(0x05, 30, 9)), r"and one link"),
    "a cut disk": (lambda disk: disk.__delitem__(slice(700 * 512, None)), r"lies in sectors 256-1279"),
    "less than a sector": (lambda disk: disk.__delitem__(slice(300, None)), r"sector 0: the disk ends"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_a_broken_or_hostile_table_is_refused(name: str) -> None:
    disk = _disk()
    attack, reason = ATTACKS[name]
    attack(disk)
    with pytest.raises(DiskRefused, match=reason):
        read_mbr(reader(disk), len(disk))


def test_a_container_may_hold_nothing() -> None:
    disk = _disk()
    _at(256)(disk)
    assert [entry.number for entry in read_mbr(reader(disk), MIB).entries] == [1]


_PLACES = st.one_of(*(st.integers(lba * 512 + 440, lba * 512 + 511) for lba in (0, 256, 768)))


@settings(deadline=None, max_examples=400)
@given(st.lists(st.tuples(_PLACES, st.integers(0, 255)), min_size=1, max_size=6))
def test_a_mutated_table_is_refused_or_sound(changes: list[tuple[int, int]]) -> None:
    disk = _disk()
    for at, value in changes:
        disk[at] = value
    try:
        table = read_mbr(reader(disk), MIB)
    except DiskRefused:
        return
    places = sorted([(e.first_lba, e.last_lba) for e in table.entries] + [(lba, lba) for lba in table.tables])
    assert all(low <= high < MIB // SECTOR for low, high in places)
    assert all(one[1] < other[0] for one, other in pairwise(places))
    assert len({entry.number for entry in table.entries}) == len(table.entries)


@settings(deadline=None, max_examples=100)
@given(st.binary(min_size=512, max_size=4096).map(lambda data: data[:510] + b"\x55\xaa" + data[512:]))
def test_any_bytes_are_refused_or_no_table(data: bytes) -> None:
    try:
        table = read_table(reader(data), len(data))
    except DiskRefused:
        return
    assert not isinstance(table, GptTable)


def test_a_gpt_disk_has_its_gpt_read(tmp_path: Path) -> None:
    path = sgdisk(tmp_path / "disk", ["--new=1:0:+4M"], 16 * MIB)
    assert isinstance(read_table(file_reader(path), 16 * MIB), GptTable)


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda disk: disk.__setitem__(slice(512, 1024), bytes(512)), "the primary header .* is missing"),
        (lambda disk: disk.__setitem__(slice(0, 512), bytes(512)), "sector 0 is not a protective MBR"),
        (lambda disk: disk.__setitem__(450, 0x83), "does not have type EE"),
        (lambda disk: disk.__setitem__(slice(462, 478), _record(0x83, 64, 8)), "hybrid"),
    ],
    ids=["header lost", "protective MBR lost", "type changed", "hybrid"],
)
def test_the_trace_of_a_gpt_is_never_taken_for_an_mbr(break_it: Callable[[bytearray], None], reason: str) -> None:
    disk = whole(sample_disk())
    break_it(disk)
    with pytest.raises(DiskRefused, match=reason):
        read_table(reader(disk), len(disk))


@pytest.mark.parametrize(
    "make",
    [["mkfs.vfat"], ["mkfs.vfat", "-F", "32"], ["mkfs.ext4", "-q"], ["mkswap", "--quiet"], ["true"]],
    ids=lambda make: " ".join(make),
)
def test_a_bare_filesystem_has_no_table(tmp_path: Path, make: list[str]) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
    subprocess.run([*make, str(path)], check=True, stdout=subprocess.DEVNULL)
    assert read_table(file_reader(path), 64 * MIB) is None


def test_a_grub_boot_sector_with_partitions_is_no_filesystem(tmp_path: Path) -> None:
    path = sfdisk(tmp_path / "disk", SFDISK["one"], 64 * MIB)
    with path.open("r+b") as disk:
        disk.write(b"\xeb\x63\x90" + b"\x90" * 437)
    assert isinstance(read_table(file_reader(path), 64 * MIB), MbrTable)
