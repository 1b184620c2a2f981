"""Partition types: names of the Discoverable Partitions Specification (UAPI group) and their GUIDs.

A type that has a name is always written by its name, so that a manifest has one form; any other GUID is written as it is,
and `mbr-XX` is the type byte of an MBR partition.
"""

import re
import struct
from typing import Final

TYPE_NAMES: Final[dict[str, str]] = {
    "esp": "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
    "xbootldr": "bc13c2ff-59e6-4262-a352-b275fd6f7172",
    "bios-boot": "21686148-6449-6e6f-744e-656564454649",
    "root-x86-64": "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
    "root-x86-64-verity": "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5",
    "root-x86-64-verity-sig": "41092b05-9fc8-4523-994f-2def0408b176",
    "usr-x86-64": "8484680c-9521-48c6-9c11-b0720656f69e",
    "usr-x86-64-verity": "77ff5f63-e7b6-4633-acf4-1565b864c0e6",
    "usr-x86-64-verity-sig": "e7bb33fb-06cf-4e81-8273-e543b413e2e2",
    "root-arm64": "b921b045-1df0-41c3-af44-4c6f280d3fae",
    "root-arm64-verity": "df3300ce-d69f-4c92-978c-9bfb0f38d820",
    "root-arm64-verity-sig": "6db69de6-29f4-4758-a7a5-962190f00ce3",
    "usr-arm64": "b0e01050-ee5f-4390-949a-9101b17104e9",
    "swap": "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f",
    "home": "933ac7e1-2eb4-4f13-b844-0e14e2aef915",
    "srv": "3b8f8425-20e0-4f3b-907f-1a25a76f98e8",
    "var": "4d21b016-b534-45c2-a9fb-5c16e091fd2d",
    "tmp": "7ec6f557-3bc5-4aca-b293-16ef5df639d1",
    "linux-generic": "0fc63daf-8483-4772-8e79-3d69d8477de4",
}
_BY_GUID: Final = {guid: name for name, guid in TYPE_NAMES.items()}
_GUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_MBR = re.compile(r"mbr-[0-9a-f]{2}")

FLAG_BITS: Final[dict[str, int]] = {
    "required": 0,
    "no-block-io": 1,
    "legacy-bios-bootable": 2,
    "grow-fs": 59,
    "read-only": 60,
    "hidden": 62,
    "no-auto": 63,
} | {f"bit-{n}": n for n in range(64) if n not in {0, 1, 2, 59, 60, 62, 63}}
"""GPT attribute bits by name (UEFI 2.10, section 5.3.3; Discoverable Partitions for 59, 60 and 63)."""


SECTORS_PER_TRACK, HEADS = 63, 255
"""The geometry that tools assume for the CHS addresses (cylinder, head, sector) in an MBR record."""


def standard_protective(sectors: int) -> bytes:
    """Bytes 440-461 of a GPT disk of that many sectors as specified in UEFI 2.10, section 5.2.3.

    They hold no disk signature, and one protective record: not bootable, type EE, from sector 1 to the end of the disk,
    or to the largest sector count that 32 bits can hold.
    """
    last = sectors - 1
    cylinder, rest = divmod(last, SECTORS_PER_TRACK * HEADS)
    head, sector = divmod(rest, SECTORS_PER_TRACK)
    end = bytes((head, sector + 1 | cylinder >> 2 & 0xC0, cylinder & 0xFF)) if cylinder < 1024 else b"\xff\xff\xff"
    return bytes(6) + b"\0\0\2\0\xee" + end + struct.pack("<II", 1, min(last, 0xFFFFFFFF))


def type_name(guid: str) -> str:
    """How a manifest writes a GPT type GUID: its name if it has one, else the GUID in lower case."""
    return _BY_GUID.get(guid.lower(), guid.lower())


def type_guid(name: str) -> str:
    """The GUID of a GPT type name; a GUID is returned as it is."""
    return TYPE_NAMES.get(name, name)


def check_type(text: str) -> str:
    """Return a well-formed type; ValueError explains how to write it."""
    if text in TYPE_NAMES or _MBR.fullmatch(text):
        return text
    if not _GUID.fullmatch(text):
        raise ValueError(
            f"{text[:40]!r} is not a valid partition type; use a Discoverable Partitions name such as 'root-x86-64', or a GUID"
        )
    if text in _BY_GUID:
        raise ValueError(f"the type {text} has a name; write {_BY_GUID[text]!r}")
    return text


def flags_from_bits(bits: int) -> tuple[str, ...]:
    """The names of the bits set in a GPT attribute word, lowest bit first."""
    return tuple(name for name, bit in sorted(FLAG_BITS.items(), key=lambda item: item[1]) if bits >> bit & 1)


def bits_from_flags(flags: tuple[str, ...]) -> int:
    """The GPT attribute word in which these flags are set."""
    return sum(1 << FLAG_BITS[flag] for flag in flags)
