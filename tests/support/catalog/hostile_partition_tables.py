"""Disks that are refused for their partition tables: a corpus, each with its reason."""

import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.support.catalog.disk_images import MIB, SECTOR, Corpus, gpt_disk, mbr_disk, partitions, put, table

bad = Corpus()


def _reforge(disk: Path, lba: int, change: Callable[[bytearray, bytearray], None]) -> None:
    """Change a GPT copy and make its checksums right again."""
    data = disk.read_bytes()
    header = bytearray(data[lba * SECTOR : lba * SECTOR + 92])
    (at,) = struct.unpack_from("<Q", header, 72)
    entries = bytearray(data[at * SECTOR : at * SECTOR + 128 * 128])
    change(header, entries)
    struct.pack_into("<I", header, 88, zlib.crc32(entries))
    struct.pack_into("<I", header, 16, 0)
    struct.pack_into("<I", header, 16, zlib.crc32(header))
    put(disk, at * SECTOR, bytes(entries))
    put(disk, lba * SECTOR, bytes(header))


def _both(disk: Path, change: Callable[[bytearray, bytearray], None]) -> Path:
    for lba in (1, disk.stat().st_size // SECTOR - 1):
        _reforge(disk, lba, change)
    return disk


@bad("a header with a wrong checksum", "raw", "primary header .* wrong checksum")
def _(here: Path) -> Path:
    disk = gpt_disk(here / "disk")
    put(disk, SECTOR + 40, b"\x99")
    return disk


@bad("a backup header with a wrong checksum", "raw", "backup header .* wrong checksum")
def _(here: Path) -> Path:
    disk = gpt_disk(here / "disk")
    put(disk, 32 * MIB - SECTOR + 40, b"\x99")
    return disk


@bad("entries with a wrong checksum", "raw", "entries with a wrong checksum")
def _(here: Path) -> Path:
    disk = gpt_disk(here / "disk")
    put(disk, 2 * SECTOR + 40, b"\x99")
    return disk


@bad("a disk that was grown and lost its backup", "raw", "has grown")
def _(here: Path) -> Path:
    os.truncate(gpt_disk(here / "disk"), 48 * MIB)
    return here / "disk"


@bad("a disk that was cut", "raw", "is truncated")
def _(here: Path) -> Path:
    os.truncate(gpt_disk(here / "disk"), 24 * MIB)
    return here / "disk"


@bad("two tables, each right by itself, that differ", "raw", "differ")
def _(here: Path) -> Path:
    disk = gpt_disk(here / "disk")
    _reforge(disk, 1, lambda _, entries: struct.pack_into("<Q", entries, 128 + 40, 36863 - 100))
    return disk


@bad("partitions that overlap", "raw", "overlap")
def _(here: Path) -> Path:
    return _both(gpt_disk(here / "disk"), lambda _, entries: struct.pack_into("<Q", entries, 128 + 32, 2050))


@bad("a partition after the end of the disk", "raw", "usable")
def _(here: Path) -> Path:
    return _both(gpt_disk(here / "disk"), lambda _, entries: struct.pack_into("<Q", entries, 256 + 40, 1 << 40))


@bad("a partition over the table itself", "raw", "usable")
def _(here: Path) -> Path:
    return _both(gpt_disk(here / "disk"), lambda _, entries: struct.pack_into("<Q", entries, 32, 3))


@bad("two partitions with one UUID", "raw", "same UUID")
def _(here: Path) -> Path:
    def twin(_: bytearray, entries: bytearray) -> None:
        entries[128 + 16 : 128 + 32] = entries[16:32]

    return _both(gpt_disk(here / "disk"), twin)


@bad("logical partitions in a circle", "raw", "chain|broken")
def _(here: Path) -> Path:
    disk = mbr_disk(here / "disk")
    second = partitions(disk)[-1]["start"] - 2048
    data = disk.read_bytes()
    at = next(
        lba
        for lba in range(10240, 24576)
        if data[lba * SECTOR + 510 : lba * SECTOR + 512] == b"\x55\xaa" and lba > 10240
    )
    put(disk, at * SECTOR + 462, struct.pack("<BBBBBBBBII", 0, 0, 0, 0, 5, 0, 0, 0, 0, second))
    return disk


@bad("MBR partitions that overlap", "raw", "overlap")
def _(here: Path) -> Path:
    disk = mbr_disk(here / "disk")
    put(disk, 446 + 12, struct.pack("<I", 20000))
    return disk


@bad("an MBR partition after the end of the disk", "raw", "outside 1-65535|invalid")
def _(here: Path) -> Path:
    disk = mbr_disk(here / "disk")
    put(disk, 446 + 8, struct.pack("<I", 1 << 30))
    return disk


@bad("more bytes between partitions than any boot loader has", "raw", "outside all partitions")
def _(here: Path) -> Path:
    disk = table(here / "disk", 100 * MIB, "label: gpt\nstart=198656, size=2048, name=last\n")
    put(disk, 2 * MIB, random.Random(1).randbytes(MIB) * 70)
    return disk
