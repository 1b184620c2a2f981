"""Reading of MBR partition tables with their chains of logical partitions, and detection of the kind of table.

Nothing is written: an image keeps the first sector and the tables of logical partitions byte for byte, as gaps. There is
no standard; the layout is that of IBM PC DOS as Linux reads it (block/partitions/msdos.c).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from catalog.disk.gpt import GptTable, ReadAt, TableEntry, check_overlaps, read_gpt, read_sectors
from catalog.errors import DiskRefused
from catalog.image.manifest import SECTOR

MAX_NUMBER = 128
"""The highest partition number in a manifest. It bounds the walk along the chain of logical partitions."""

_RECORD = struct.Struct("<B3sB3sII")
"""Status, first CHS, type, last CHS, first sector, number of sectors."""
_RECORDS_AT = 446
_MARK = b"\x55\xaa"
_EXTENDED = frozenset({0x05, 0x0F, 0x85})
"""Types of extended partitions, which contain logical ones: DOS, Windows 95 with LBA, Linux."""
_PROTECTIVE = 0xEE
_FILESYSTEMS = (
    (3, b"NTFS    "),
    (3, b"EXFAT   "),
    (54, b"FAT12   "),
    (54, b"FAT16   "),
    (54, b"FAT     "),
    (82, b"FAT32   "),
)
"""(offset, text) in the first sector of a filesystem, which ends in 55 AA too."""


@dataclass(frozen=True, slots=True)
class MbrTable:
    """The content of an MBR and its chain of logical partitions.

    Attributes:
        signature: the disk signature.
        entries: primary partitions 1-4 without extended ones, then logical ones from 5, in the order of their numbers.
        tables: the sectors that contain tables, sector 0 first; an image keeps them as gaps.
    """

    signature: int
    entries: tuple[TableEntry, ...]
    tables: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Record:
    status: int
    type: int
    start: int
    count: int

    @property
    def last(self) -> int:
        return self.start + self.count - 1


def read_table(read: ReadAt, size: int) -> GptTable | MbrTable | None:
    """Read the partition table of a disk of `size` bytes; None if it has no table.

    Raises:
        DiskRefused: the table, or what is left of one, is broken.
    """
    first = read_sectors(read, 0, 1)
    marked = first[510:] == _MARK
    types = {record[4] for record in _raw(first) if any(record)} if marked else set()
    if _PROTECTIVE in types or any(read(at, 8) == b"EFI PART" for at in (SECTOR, 4096)):
        return read_gpt(read, size)
    if not types or any(first[at : at + len(text)] == text for at, text in _FILESYSTEMS):
        return None
    return read_mbr(read, size)


def read_mbr(read: ReadAt, size: int) -> MbrTable:
    """Read the MBR and all logical partitions of a disk of `size` bytes.

    Raises:
        DiskRefused: no MBR, the protective MBR of a GPT, a partition outside the disk, an overlap, a broken chain.
    """
    sector = read_sectors(read, 0, 1)
    records = _records(sector, 0)
    signature = int.from_bytes(sector[440:444], "little")
    sectors = size // SECTOR
    entries: list[TableEntry] = []
    containers: list[_Record] = []
    for number, record in enumerate(records, 1):
        if record.type == 0:
            continue
        if record.type == _PROTECTIVE:
            raise DiskRefused(f"MBR: record {number} is the protective record of a GPT; the disk is not an MBR disk")
        _check_record(record, f"MBR: partition {number}", 1, sectors - 1)
        if record.type in _EXTENDED:
            containers.append(record)
        else:
            entries.append(_entry(number, record, signature))
    if len(containers) > 1:
        raise DiskRefused("MBR: the disk has two extended partitions; remove one")
    extents = [(entry.first_lba, entry.last_lba, str(entry.number)) for entry in entries]
    check_overlaps("MBR", extents + [(record.start, record.last, "extended") for record in containers])
    tables = [0]
    if containers:
        logical, chain = _chain(read, containers[0], signature)
        entries += logical
        tables += chain
    return MbrTable(signature, tuple(entries), tuple(tables))


def _raw(sector: bytes) -> list[bytes]:
    return [sector[at : at + _RECORD.size] for at in range(_RECORDS_AT, 510, _RECORD.size)]


def _records(sector: bytes, lba: int) -> list[_Record]:
    if sector[510:] != _MARK:
        raise DiskRefused(f"MBR: sector {lba} is not a partition table, as it does not end in 55 AA")
    found = []
    for number, raw in enumerate(_raw(sector), 1):
        status, _, kind, _, start, count = _RECORD.unpack(raw)
        if status & 0x7F:
            raise DiskRefused(
                f"MBR: record {number} in sector {lba} has status {status:#04x}; only 0 and 0x80 are valid"
            )
        found.append(_Record(status, kind, start, count))
    return found


def _check_record(record: _Record, name: str, low: int, high: int) -> None:
    if record.count == 0:
        raise DiskRefused(f"{name} has no sectors; remove it from the table")
    if not low <= record.start <= record.last <= high:
        raise DiskRefused(f"{name} lies in sectors {record.start}-{record.last}, outside {low}-{high}")


def _entry(number: int, record: _Record, signature: int) -> TableEntry:
    return TableEntry(
        number=number,
        type=f"mbr-{record.type:02x}",
        uuid=f"{signature:08x}-{number:02x}",
        first_lba=record.start,
        last_lba=record.last,
        active=record.status == 0x80,
    )


def _chain(read: ReadAt, container: _Record, signature: int) -> tuple[list[TableEntry], list[int]]:
    """Walk along the tables of logical partitions: each has one partition and a link to the next table.

    A partition's position counts from its own table, a table's from the container. The chain must go forward, so it ends.
    """
    entries: list[TableEntry] = []
    tables: list[int] = []
    extents: list[tuple[int, int, str]] = []
    at = container.start
    while True:
        tables.append(at)
        extents.append((at, at, f"table in sector {at}"))
        partition, link = _links(_records(read_sectors(read, at, 1), at), at)
        if partition is not None:
            number = 5 + len(entries)
            if number > MAX_NUMBER:
                raise DiskRefused(f"MBR: logical partitions have numbers above {MAX_NUMBER}")
            placed = _Record(partition.status, partition.type, at + partition.start, partition.count)
            _check_record(placed, f"MBR: partition {number}", at + 1, container.last)
            entries.append(_entry(number, placed, signature))
            extents.append((placed.start, placed.last, str(number)))
        if link is None:
            break
        following = container.start + link.start
        if not at < following <= container.last:
            raise DiskRefused(
                f"MBR: the table in sector {at} links to sector {following}, outside {at + 1}-{container.last}; "
                "the chain of logical partitions is broken"
            )
        if len(tables) == MAX_NUMBER:
            raise DiskRefused(f"MBR: the chain of logical partitions has more than {MAX_NUMBER} tables")
        at = following
    check_overlaps("MBR", extents)
    return entries, tables


def _links(records: Sequence[_Record], at: int) -> tuple[_Record | None, _Record | None]:
    """The partition and the link in the table in sector `at`, at most one of each."""
    used = [record for record in records if record.type]
    links = [record for record in used if record.type in _EXTENDED]
    partitions = [record for record in used if record.type not in _EXTENDED]
    if len(links) > 1 or len(partitions) > 1:
        raise DiskRefused(f"MBR: the table in sector {at} has more than one partition and one link to the next table")
    return (partitions[0] if partitions else None), (links[0] if links else None)
