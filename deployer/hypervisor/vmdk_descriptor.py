"""How the disks of an image are put together from its parts: the text of a VMDK descriptor.

A disk with a partition table is a list of extents (`catalog.disk.layout`): the table's own sectors, the partitions as they lie in the cache,
blanks, and zeros between them. The descriptor names them as FLAT extents ("VMware Virtual Disk Format 1.1"), which QEMU
concatenates when it opens the file: no content is copied, and the cost does not depend on the size of the image
(docs/adr/0004-disk-descriptors-and-embedded-libvirt.md). Only Partita writes descriptors; descriptors from elsewhere are never
read.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from catalog.image.manifest import SECTOR, BareDisk, Disk
from deployer.errors import AssemblyFailed
from deployer.machine.spec import MAX_DISK_SERIAL

MAX_EXTENT_PATH = 500
"""Bytes. QEMU keeps at most 511 of an extent's file name (block/vmdk.c) and cuts the rest off without a word."""

MAX_DESCRIPTOR = (1 << 20) - 1
"""Bytes. QEMU reads no more of a descriptor (block/vmdk.c, vmdk_read_desc)."""

_UNSAFE = re.compile(r'["\\\x00-\x1f\x7f]')
_SERIAL = re.compile(rf"[A-Za-z0-9_.-]{{1,{MAX_DISK_SERIAL}}}")


def build_descriptor(runs: Sequence[tuple[int, Path]]) -> bytes:
    """The text of a VMDK descriptor.

    Args:
        runs: (bytes, file) of each extent in order; every extent begins at the first byte of its file.

    Raises:
        AssemblyFailed: a path that the format cannot carry.
    """
    lines = [
        "# Disk DescriptorFile",
        "version=1",
        # Any value will do: nothing has this descriptor as a parent that would compare it.
        "CID=fffffffe",
        "parentCID=ffffffff",
        'createType="twoGbMaxExtentFlat"',
    ]
    for length, path in runs:
        if not path.is_absolute() or _UNSAFE.search(str(path)) or len(bytes(path)) > MAX_EXTENT_PATH:
            raise AssemblyFailed(
                f"{str(path)!r} cannot be used in a disk descriptor: it takes absolute paths of at most {MAX_EXTENT_PATH} "
                "bytes without quotes, backslashes and control characters; choose another node.directory"
            )
        # QEMU reads only extents that are RW; the overlay above opens the descriptor read-only.
        lines.append(f'RW {length // SECTOR} FLAT "{path}" 0')
    text = ("\n".join(lines) + "\n").encode()
    if len(text) > MAX_DESCRIPTOR:
        raise AssemblyFailed(
            f"a disk of {len(runs)} extents needs a descriptor of {len(text)} bytes and QEMU reads {MAX_DESCRIPTOR}; "
            "choose a shorter node.directory"
        )
    return text


def disk_serials(disks: Iterable[Disk]) -> tuple[str, ...]:
    """What a guest may find each disk by: a bare partition's label where it fits and is the first of its name."""
    found: dict[str, None] = {}
    for index, disk in enumerate(disks):
        name = disk.partition.label if isinstance(disk, BareDisk) else ""
        usable = _SERIAL.fullmatch(name) and name not in found and name != "seed" and not name.startswith("disk")
        found[name if usable else f"disk{index}"] = None
    return tuple(found)
