"""A disk that a BIOS would boot, the image of it, and a catalog that has it."""

import random
from pathlib import Path

from catalog.builder.disk_import import import_disk
from catalog.client import transfer
from catalog.image.bundle import Bundle
from tests.support.catalog.disk_images import MIB, formatted, identity, put, put_file, table
from tests.support.catalog.service_process import Service, Vo

SIZE = 96 * MIB
CONTENT = (MIB, 3 * MIB)
"""(offset, length) of the partition with content; the rest of the disk is the blank one, tables and zeros."""
BLANK = (16 * MIB, 64 * MIB)


def bootable(directory: Path, *, seed: int = 1) -> Path:
    """A GPT disk with boot code, a boot loader behind the table, content, and an empty ext4."""
    directory.mkdir(parents=True, exist_ok=True)
    script = "label: gpt\nfirst-lba: 34\n"
    for (offset, length), name in ((CONTENT, "root"), (BLANK, "scratch")):
        script += f"start={offset // 512}, size={length // 512}, name={name}\n"
    disk = table(directory / "disk.raw", SIZE, script)
    bytes_of = random.Random(seed)
    put(disk, 0, bytes_of.randbytes(440))
    put(disk, 40 * 512, bytes_of.randbytes(30_000))
    put(disk, CONTENT[0], bytes_of.randbytes(CONTENT[1]))
    empty = formatted(directory / "empty", BLANK[1], "mkfs.ext4", "-q", "-F", "-L", "scratch")
    put_file(disk, BLANK[0], empty)
    return disk


def published(service: Service, vo: Vo, directory: Path, *, seed: int = 1, **changes: str) -> Bundle:
    """The image of such a disk, endorsed and published."""
    made = import_disk(bootable(directory, seed=seed), "raw", identity(**changes), directory / "image")
    with service.client() as client:
        transfer.publish_image(client, vo.endorse(made.bundle))
    return made.bundle
