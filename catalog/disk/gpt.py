"""Reading and writing of GUID partition tables (UEFI 2.10, chapter 5) as values; the only IO is the caller's `read`.

A table is accepted only if it can be written again byte for byte; otherwise the error names the place and the reason.
Supported are 512-byte sectors and 128 entries of 128 bytes at the beginning and the end of the disk, as all tools make.
"""

import base64
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from uuid import UUID

from catalog.errors import DiskRefused
from catalog.image.manifest import BOOT_CODE, CONTROL, SECTOR, GptDisk
from catalog.image.partition_types import bits_from_flags, standard_protective, type_guid

ReadAt = Callable[[int, int], bytes]
"""(offset, length) in bytes -> the bytes there; fewer at the end of the disk or partition."""

ENTRIES = 128
ENTRY_SIZE = 128
HEAD_SECTORS = 34
"""Protective MBR, header, 32 sectors of entries."""
TAIL_SECTORS = 33
"""32 sectors of entries, header."""

_SIGNATURE = b"EFI PART"
_REVISION = 0x00010000
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
"""UEFI 2.10, table 5.5: signature, revision, header size, header CRC, reserved, my LBA, alternate LBA, first and last
usable LBA, disk GUID, LBA of the entries, their number, their size, their CRC."""
_ENTRY = struct.Struct("<16s16sQQQ72s")
"""UEFI 2.10, table 5.6: type GUID, unique GUID, first and last LBA, attributes, name in UTF-16LE."""
_EMPTY = bytes(ENTRY_SIZE)
_CONTROL = re.compile(f"[{CONTROL}]")
_ADVICE = "repair the table, for example with `sgdisk` or `gdisk`"


@dataclass(frozen=True, slots=True)
class TableEntry:
    """One partition; positions are sectors, `last_lba` is inclusive.

    Attributes:
        type, uuid: GUIDs in lower case; in an MBR `mbr-XX`, and `SSSSSSSS-NN` as in Linux.
        label, attributes: of a GPT entry.
        active: whether an MBR marks it as bootable.
    """

    number: int
    type: str
    uuid: str
    first_lba: int
    last_lba: int
    label: str = ""
    attributes: int = 0
    active: bool = False


@dataclass(frozen=True, slots=True)
class GptTable:
    """The whole content of a GUID partition table.

    Attributes:
        uuid: the disk GUID.
        first_lba, last_lba: the first and last usable sector.
        boot_code: the first 440 bytes of the disk, or None if they are all zero.
        protective: bytes 440-461 of the disk, or None if they are the standard ones for a disk of this size.
        entries: in the order of their numbers.
    """

    uuid: str
    first_lba: int
    last_lba: int
    boot_code: bytes | None
    protective: bytes | None
    entries: tuple[TableEntry, ...]


@dataclass(frozen=True, slots=True)
class _Header:
    first_lba: int
    last_lba: int
    uuid: bytes
    entries: bytes


def read_gpt(read: ReadAt, size: int) -> GptTable:
    """Read the table of a disk of `size` bytes, and check both copies, all checksums and all bounds.

    Raises:
        DiskRefused: the table is incomplete, inconsistent, or could not be written again byte for byte.
    """
    if size % SECTOR or size < (HEAD_SECTORS + TAIL_SECTORS + 1) * SECTOR:
        raise DiskRefused(f"GPT: the disk has {size} bytes: not a multiple of {SECTOR}, or too few for a GPT")
    last = size // SECTOR - 1
    boot_code, protective = _protective(read_sectors(read, 0, 1), size)
    primary = _header(read, "the primary header", 1, last, 2)
    backup = _header(read, "the backup header", last, 1, last - TAIL_SECTORS + 1)
    if primary != backup:
        raise DiskRefused(f"GPT: the primary table (sector 1) and its backup (sector {last}) differ; {_ADVICE}")
    if not HEAD_SECTORS <= primary.first_lba <= primary.last_lba <= last - TAIL_SECTORS:
        raise DiskRefused(
            f"GPT: the usable sectors in the header, {primary.first_lba}-{primary.last_lba}, "
            f"are not between {HEAD_SECTORS} and {last - TAIL_SECTORS}"
        )
    entries = [
        _entry(index + 1, raw)
        for index in range(ENTRIES)
        if (raw := primary.entries[index * ENTRY_SIZE : (index + 1) * ENTRY_SIZE]) != _EMPTY
    ]
    _check_entries(entries, primary.first_lba, primary.last_lba)
    return GptTable(
        uuid=str(UUID(bytes_le=primary.uuid)),
        first_lba=primary.first_lba,
        last_lba=primary.last_lba,
        boot_code=boot_code,
        protective=protective,
        entries=tuple(entries),
    )


def write_gpt(disk: GptDisk) -> tuple[bytes, bytes]:
    """Return the first 34 sectors of a disk (protective MBR, header, entries) and the last 33 (entries, backup header)."""
    sectors = disk.size // SECTOR
    boot_code = base64.b64decode(disk.boot_code) if disk.boot_code else bytes(BOOT_CODE)
    protective = bytes.fromhex(disk.protective) if disk.protective else standard_protective(sectors)
    mbr = (boot_code + protective).ljust(SECTOR - 2, b"\0") + b"\x55\xaa"
    entries = bytearray(ENTRIES * ENTRY_SIZE)
    for part in disk.partitions:
        first = part.offset // SECTOR
        _ENTRY.pack_into(
            entries,
            (part.number - 1) * ENTRY_SIZE,
            UUID(type_guid(part.type)).bytes_le,
            UUID(part.uuid).bytes_le,
            first,
            first + part.size // SECTOR - 1,
            bits_from_flags(part.flags),
            part.label.encode("utf-16-le"),
        )

    def header(mine: int, other: int, entries_lba: int) -> bytes:
        def pack(crc: int) -> bytes:
            usable = disk.first_lba, disk.last_lba
            where = UUID(disk.uuid).bytes_le, entries_lba, ENTRIES, ENTRY_SIZE, zlib.crc32(entries)
            return _HEADER.pack(_SIGNATURE, _REVISION, _HEADER.size, crc, 0, mine, other, *usable, *where)

        return pack(zlib.crc32(pack(0))).ljust(SECTOR, b"\0")

    last = sectors - 1
    return mbr + header(1, last, 2) + bytes(entries), bytes(entries) + header(last, 1, last - TAIL_SECTORS + 1)


def read_sectors(read: ReadAt, lba: int, count: int) -> bytes:
    """Read exactly `count` sectors from `lba` on; DiskRefused if the disk ends before."""
    data = read(lba * SECTOR, count * SECTOR)
    if len(data) != count * SECTOR:
        raise DiskRefused(f"sector {lba}: the disk ends inside its partition table; it is truncated")
    return data


def _protective(sector: bytes, size: int) -> tuple[bytes | None, bytes | None]:
    """Boot code and protective record of the first sector (UEFI 2.10, section 5.2.3), each None if it is the default."""
    if sector[510:] != b"\x55\xaa":
        raise DiskRefused("GPT: sector 0 is not a protective MBR, as it does not end in 55 AA; " + _ADVICE)
    records = [sector[at : at + 16] for at in range(446, 510, 16)]
    if any(map(any, records[1:])):
        raise DiskRefused(
            "GPT: the protective MBR in sector 0 has partitions of its own (a hybrid MBR), so two tables "
            "describe one disk; write a plain protective MBR with `gdisk` (x, then n)"
        )
    if records[0][4] != 0xEE or records[0][8:12] != b"\1\0\0\0":
        raise DiskRefused(
            "GPT: the record in the protective MBR does not have type EE and begin at sector 1; "
            "the MBR does not protect the GPT"
        )
    boot_code, protective = sector[:BOOT_CODE], sector[BOOT_CODE:462]
    plain = protective == standard_protective(size // SECTOR)
    return boot_code if any(boot_code) else None, None if plain else protective


def _header(read: ReadAt, what: str, lba: int, alternate: int, entries_lba: int) -> _Header:
    """Read one of the two copies and check it by itself."""
    sector = read_sectors(read, lba, 1)
    where = f"GPT: {what} (sector {lba})"
    if not sector.startswith(_SIGNATURE):
        if lba == 1 and read(4096, len(_SIGNATURE)) == _SIGNATURE:
            raise DiskRefused(
                f"{where} is missing; the disk has one for sectors of 4096 bytes, and only 512 are supported"
            )
        raise DiskRefused(f"{where} is missing; {_ADVICE}")
    (
        _, revision, header_size, crc, reserved, mine, other, first_lba, last_lba, uuid, at, count, entry_size, entries_crc
    ) = _HEADER.unpack_from(sector)  # fmt: skip
    if (revision, header_size, reserved) != (_REVISION, _HEADER.size, 0) or any(sector[_HEADER.size :]):
        raise DiskRefused(f"{where} does not have revision 1.0 and {_HEADER.size} bytes followed by zeros")
    if zlib.crc32(sector[:16] + bytes(4) + sector[20 : _HEADER.size]) != crc:
        raise DiskRefused(f"{where} has a wrong checksum; {_ADVICE}")
    if (lba, mine) == (1, 1) and other != alternate:
        raise DiskRefused(
            f"{where} places its backup in the last sector, {other}, but the disk ends with sector {alternate}: it "
            + ("is truncated" if other > alternate else "has grown; move the backup with `sgdisk -e`")
        )
    if (mine, other) != (lba, alternate):
        raise DiskRefused(
            f"{where} gives its own position as sector {mine} and that of the other copy as {other}, "
            f"not {lba} and {alternate}; {_ADVICE}"
        )
    if (count, entry_size) != (ENTRIES, ENTRY_SIZE):
        raise DiskRefused(
            f"{where} has {count} entries of {entry_size} bytes; only 128 entries of 128 bytes are supported"
        )
    if at != entries_lba:
        raise DiskRefused(f"{where} has its entries in sector {at}; only {entries_lba} is supported")
    entries = read_sectors(read, at, ENTRIES * ENTRY_SIZE // SECTOR)
    if zlib.crc32(entries) != entries_crc:
        raise DiskRefused(f"{where} has entries with a wrong checksum; {_ADVICE}")
    return _Header(first_lba, last_lba, uuid, entries)


def _entry(number: int, raw: bytes) -> TableEntry:
    kind, uuid, first, last, attributes, name = _ENTRY.unpack(raw)
    where = f"GPT: partition {number}"
    if not any(kind):
        raise DiskRefused(f"{where} is unused, but its entry is not empty; clear the entry or set a type")
    if not any(uuid):
        raise DiskRefused(f"{where} has no UUID; set one with `sgdisk -u {number}:R`")
    try:
        text, _, rest = name.decode("utf-16-le").partition("\0")
    except UnicodeDecodeError as exc:
        raise DiskRefused(f"{where}: the name is not valid UTF-16; rename the partition") from exc
    if rest.strip("\0") or _CONTROL.search(text):
        raise DiskRefused(f"{where}: the name has control characters, or bytes after its end; rename the partition")
    return TableEntry(number, str(UUID(bytes_le=kind)), str(UUID(bytes_le=uuid)), first, last, text, attributes)


def _check_entries(entries: Sequence[TableEntry], first_lba: int, last_lba: int) -> None:
    seen: dict[str, int] = {}
    for entry in entries:
        if not first_lba <= entry.first_lba <= entry.last_lba <= last_lba:
            raise DiskRefused(
                f"GPT: partition {entry.number} lies in sectors {entry.first_lba}-{entry.last_lba}, "
                f"outside the usable sectors {first_lba}-{last_lba}"
            )
        if (twin := seen.setdefault(entry.uuid, entry.number)) != entry.number:
            raise DiskRefused(
                f"GPT: partitions {twin} and {entry.number} have the same UUID {entry.uuid}; "
                f"set a new UUID with `sgdisk -u {entry.number}:R`"
            )
    check_overlaps("GPT", [(entry.first_lba, entry.last_lba, str(entry.number)) for entry in entries])


def check_overlaps(table: str, extents: Sequence[tuple[int, int, str]]) -> None:
    """Raise DiskRefused if two of the (first sector, last sector, name) overlap."""
    for (_, last, low), (first, _, high) in pairwise(sorted(extents)):
        if first <= last:
            raise DiskRefused(f"{table}: partitions {low} and {high} overlap from sector {first} on")
