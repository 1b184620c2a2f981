"""Disks with partition tables for tests: values to order, real ones made by sfdisk and sgdisk, and strategies."""

import base64
import struct
import subprocess
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from catalog.disk.gpt import GptTable, ReadAt, write_gpt
from catalog.image.manifest import SECTOR, GptDisk
from catalog.image.partition_types import FLAG_BITS, TYPE_NAMES, flags_from_bits, standard_protective, type_name
from signer.documents import validate

MIB = 1 << 20


def reader(disk: bytes | bytearray) -> ReadAt:
    """The `read` of a disk in memory."""
    return lambda offset, length: bytes(disk[offset : offset + length])


def hollow_reader(head: bytes, tail: bytes, size: int) -> ReadAt:
    """The `read` of a disk of which only head and tail are not zero; it need not fit into memory."""

    def read(offset: int, length: int) -> bytes:
        length = max(0, min(length, size - offset))
        data = bytearray(length)
        for start, content in ((0, head), (size - len(tail), tail)):
            low, high = max(offset, start), min(offset + length, start + len(content))
            if low < high:
                data[low - offset : high - offset] = content[low - start : high - start]
        return bytes(data)

    return read


def file_reader(path: Path) -> ReadAt:
    """The `read` of a file."""

    def read(offset: int, length: int) -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    return read


def gpt_disk(table: GptTable, size: int) -> GptDisk:
    """The disk that a table describes, every partition blank."""
    document: dict[str, Any] = {
        "table": "gpt",
        "uuid": table.uuid,
        "size": size,
        "first_lba": table.first_lba,
        "last_lba": table.last_lba,
        "partitions": [
            {
                "label": entry.label,
                "type": type_name(entry.type),
                "uuid": entry.uuid,
                "access": "copy-on-write",
                "blank": {"size": (entry.last_lba - entry.first_lba + 1) * SECTOR, "filesystem": "none"},
                "number": entry.number,
                "offset": entry.first_lba * SECTOR,
                "flags": flags_from_bits(entry.attributes),
            }
            for entry in sorted(table.entries, key=lambda entry: entry.first_lba)
        ],
    }
    if table.boot_code:
        document["boot_code"] = base64.b64encode(table.boot_code).decode()
    if table.protective:
        document["protective"] = table.protective.hex()
    return validate(GptDisk, document, "disk")


def sample_disk(*, size: int = MIB, partitions: int = 3, **changes: object) -> GptDisk:
    """A small disk with equal partitions of 64 KiB from 64 KiB on."""
    kinds = ["esp", "root-x86-64", "linux-generic"]
    document: dict[str, object] = {
        "table": "gpt",
        "uuid": "11111111-2222-4333-8444-555555555555",
        "size": size,
        "first_lba": 34,
        "last_lba": size // SECTOR - 34,
        "partitions": [
            {
                "label": f"part {number}",
                "type": kinds[number % 3],
                "uuid": f"00000000-0000-4000-8000-{number:012x}",
                "access": "copy-on-write",
                "blank": {"size": 65536, "filesystem": "none"},
                "number": number,
                "offset": 65536 * number,
            }
            for number in range(1, partitions + 1)
        ],
    }
    return validate(GptDisk, document | changes, "disk")


def whole(disk: GptDisk) -> bytearray:
    """The bytes of a small disk whose partitions are all zero."""
    head, tail = write_gpt(disk)
    return bytearray(head + bytes(disk.size - len(head) - len(tail)) + tail)


def reseal(disk: bytearray, *, copy: bool = False) -> bytearray:
    """Make all checksums of a GPT right again; with `copy`, the backup's entries are first made those of the primary."""
    if copy:
        disk[-33 * SECTOR : -SECTOR] = disk[2 * SECTOR : 34 * SECTOR]
    for at, entries in ((SECTOR, 2 * SECTOR), (len(disk) - SECTOR, len(disk) - 33 * SECTOR)):
        struct.pack_into("<I", disk, at + 88, zlib.crc32(disk[entries : entries + 16384]))
        struct.pack_into("<I", disk, at + 16, 0)
        struct.pack_into("<I", disk, at + 16, zlib.crc32(disk[at : at + 92]))
    return disk


def sfdisk(path: Path, script: str, size: int) -> Path:
    """A disk that sfdisk made."""
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run(["sfdisk", "--quiet", "--no-reread", str(path)], input=script, text=True, check=True)
    return path


def sgdisk(path: Path, arguments: Sequence[str], size: int) -> Path:
    """A disk that sgdisk made."""
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run(["sgdisk", "--clear", *arguments, str(path)], stdout=subprocess.DEVNULL, check=True)
    return path


_GUIDS = st.uuids().map(str)
_LABELS = st.text(
    st.characters(
        min_codepoint=0x20, exclude_categories=["Cs"], exclude_characters=[chr(c) for c in range(0x7F, 0xA0)]
    ),
    max_size=36,
).filter(lambda text: len(text.encode("utf-16-le")) <= 72)
_FLAGS = st.sets(st.sampled_from(sorted(FLAG_BITS)), max_size=6).map(lambda f: sorted(f, key=FLAG_BITS.__getitem__))


@st.composite
def gpt_disks(draw: st.DrawFn) -> GptDisk:
    """Any GPT disk that a manifest can describe."""
    sectors = draw(st.integers(110, 1 << 37))
    first = draw(st.integers(34, 60))
    last = draw(st.integers(first + 8, sectors - 34)) if draw(st.booleans()) else sectors - 34
    cuts = sorted(draw(st.sets(st.integers(first, last + 1), min_size=2, max_size=16)))
    places = [pair for pair in pairwise(cuts) if draw(st.booleans())] or [(cuts[0], cuts[1])]
    numbers = draw(st.lists(st.integers(1, 128), min_size=len(places), max_size=len(places), unique=True))
    uuids = draw(st.lists(_GUIDS, min_size=len(places), max_size=len(places), unique=True))
    document: dict[str, Any] = {
        "table": "gpt",
        "uuid": draw(_GUIDS),
        "size": sectors * SECTOR,
        "first_lba": first,
        "last_lba": last,
        "partitions": [
            {
                "label": draw(_LABELS),
                "type": draw(st.sampled_from(sorted(TYPE_NAMES)) | _GUIDS.map(type_name)),
                "uuid": uuid,
                "access": "copy-on-write",
                "blank": {"size": (high - low) * SECTOR, "filesystem": "none"},
                "number": number,
                "offset": low * SECTOR,
                "flags": draw(_FLAGS),
            }
            for (low, high), number, uuid in zip(places, numbers, uuids, strict=True)
        ],
    }
    if draw(st.booleans()):
        document["boot_code"] = base64.b64encode(draw(st.binary(min_size=440, max_size=440).filter(any))).decode()
    if draw(st.booleans()):
        record = bytearray(standard_protective(sectors))
        record[:10] = draw(st.binary(min_size=10, max_size=10))
        if record != standard_protective(sectors):
            document["protective"] = record.hex()
    return validate(GptDisk, document, "disk")
