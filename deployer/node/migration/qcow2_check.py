"""Heads of overlays that another node wrote: what a qcow2 file may say before a node lets its emulator open it. No probing, no tools.

The layout is QEMU's (docs/interop/qcow2.txt, version 3).
"""

import struct
from pathlib import Path
from typing import Final

from deployer.errors import MigrationFailed

_QCOW2: Final = struct.Struct(">4sIQIIQIIQQIIQQQQ")
"""The head of a qcow2 file, version 3 (QEMU, docs/interop/qcow2.txt), up to its feature bits."""


def overlay_size(path: Path) -> int:
    """The virtual size of an overlay of our own making, in bytes."""
    return _head(path)[5]


def check_overlay(path: Path, size: int) -> None:
    """Raise MigrationFailed unless an overlay from another node is like ours and refers to nothing outside itself.

    A qcow2 file can name an external data file, or a key; this one may have neither (compare CVE-2024-32498). What it names
    as backing file does not count: the chain is spelled out to the emulator, and that name is written anew.
    """
    head = _head(path)
    magic, version, length, crypt, snapshots, incompatible = head[0], head[1], head[5], head[6], head[11], head[13]
    if magic != b"QFI\xfb" or version != 3 or length != size or crypt or snapshots or incompatible:
        raise MigrationFailed(f"{path.name}: is not an overlay as nodes make them for a disk of {size} bytes")


def _head(path: Path) -> tuple[bytes, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int]:
    with path.open("rb") as file:
        data = file.read(_QCOW2.size)
    if len(data) < _QCOW2.size:
        raise MigrationFailed(f"{path.name}: is not an overlay")
    return _QCOW2.unpack(data)
