"""Real disks made by the tools that people make disks with, and the way back from an image to a disk."""

import json
import random
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from catalog.builder.disk_import import ImportOptions
from catalog.builder.recipe import ImageIdentity
from catalog.disk.gpt import write_gpt
from catalog.disk.inspector import DiskFormat
from catalog.errors import CatalogError, DiskRefused
from catalog.image.bundle import Bundle
from catalog.image.manifest import BareDisk, GptDisk
from signer.documents import validate

MIB = 1 << 20
SECTOR = 512

LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"

Scenario = Callable[[Path], Path]
"""Makes a disk in a directory and returns its path."""


def run(*command: str | Path, data: bytes | None = None) -> bytes:
    """Run a tool and demand that it succeeds."""
    done = subprocess.run([str(part) for part in command], input=data, capture_output=True, check=False)
    assert done.returncode == 0, (command, done.stderr.decode("utf-8", "replace"))
    return done.stdout


def identity(**changes: Any) -> ImageIdentity:
    """An identity, complete."""
    document = {
        "vo": "star",
        "name": "worker",
        "version": "1.0",
        "os": {"id": "debian", "version": "12"},
        "needs": {"memory": "128MiB", "cores": 1},
    }
    return validate(ImageIdentity, {k: v for k, v in (document | changes).items() if v is not None}, "image")


def kept_whole(directory: Path) -> ImportOptions:
    """Every partition stays content; booted directly, so that the disk need not be bootable."""
    (directory / "vmlinuz").write_bytes(b"kernel")
    return ImportOptions(keep=frozenset({"all"}), boot="direct", kernel=directory / "vmlinuz")


def table(path: Path, size: int, script: str) -> Path:
    """A sparse file with the partition table that an sfdisk script says."""
    with path.open("wb") as file:
        file.truncate(size)
    run("sfdisk", "--quiet", path, data=script.encode())
    return path


def partitions(path: Path) -> list[dict[str, Any]]:
    """What sfdisk says about the partitions of a disk; places in sectors."""
    found: list[dict[str, Any]] = json.loads(run("sfdisk", "--json", path))["partitiontable"]["partitions"]
    return found


def put(disk: Path, offset: int, content: bytes) -> None:
    """Write into a file at a byte offset."""
    with disk.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def put_file(disk: Path, offset: int, source: Path) -> None:
    """Write a file's content at a byte offset of a disk, its zeros as holes."""
    run("dd", f"if={source}", f"of={disk}", "bs=64k", f"seek={offset}", "oflag=seek_bytes", "conv=notrunc,sparse")


def formatted(path: Path, size: int, *command: str) -> Path:
    """A file of that size on which a mkfs has run."""
    with path.open("wb") as file:
        file.truncate(size)
    run(*command, path)
    return path


def gpt_disk(path: Path, *, boot: bool = True, seed: int = 0) -> Path:
    """32 MiB: a BIOS boot partition, a partition with data and holes, one of zeros; boot code if wanted."""
    noise = random.Random(seed)
    table(
        path,
        32 * MIB,
        f"label: gpt\nstart=2048, size=2048, type={BIOS_BOOT}, name=boot\n"
        f"start=4096, size=32768, type={LINUX}, name=data\nstart=36864, size=8192, type={LINUX}, name=empty\n",
    )
    put(path, MIB, noise.randbytes(100_000))
    put(path, 2 * MIB + 5, noise.randbytes(1_000_000))
    put(path, 9 * MIB, noise.randbytes(40_000))
    if boot:
        put(path, 0, noise.randbytes(440))
    return path


def mbr_disk(path: Path, *, seed: int = 0) -> Path:
    """32 MiB: a primary and two logical partitions, a boot loader behind the MBR as GRUB embeds it."""
    noise = random.Random(seed)
    table(
        path,
        32 * MIB,
        "label: dos\nstart=2048, size=8192, type=83, bootable\nstart=10240, size=51200, type=5\n"
        "start=12288, size=8192, type=83\nstart=24576, size=8192, type=83\n",
    )
    put(path, 0, noise.randbytes(440))
    put(path, SECTOR, noise.randbytes(50_000))
    for start in (2048, 12288, 24576):
        put(path, start * SECTOR, noise.randbytes(300_000))
    return path


def qcow2(raw: Path, path: Path, *options: str) -> Path:
    """The same disk as qcow2."""
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, raw, path)
    return path


def luks(path: Path) -> Path:
    """The header of an encrypted volume (LUKS1 On-Disk Format 1.2.3); qemu-img would take seconds to derive a key."""
    names = b"aes".ljust(32, b"\0") + b"xts-plain64".ljust(32, b"\0") + b"sha256".ljust(32, b"\0")
    header = b"LUKS\xba\xbe\0\1" + names + struct.pack(">II", 4096, 64) + bytes(20 + 32 + 4) + b"uuid".ljust(40, b"\0")
    slot = struct.pack(">II32sII", 0xDEAD, 0, b"", 8, 4000)
    with path.open("wb") as file:
        file.truncate(8 * MIB)
    put(path, 0, header + slot * 8)
    return path


def assembled(bundle: Bundle, disk: int = 0) -> bytes:
    """The disk that an image describes; blanks are zeros."""
    described = bundle.manifest.disks[disk]
    assert not isinstance(described, BareDisk)
    whole = bytearray(described.size)

    def place(offset: int, content: bytes) -> None:
        whole[offset : offset + len(content)] = content

    if isinstance(described, GptDisk):
        head, tail = write_gpt(described)
        place(0, head)
        place(described.size - len(tail), tail)
    for gap in described.gaps:
        place(gap.offset, bundle.content(gap.content).read_bytes())
    for part in described.partitions:
        if part.content is not None:
            place(part.offset, bundle.content(part.content).read_bytes())
    return bytes(whole)


def names(directory: Path) -> Sequence[str]:
    """Everything in a directory, hidden or not."""
    return sorted(path.name for path in directory.iterdir())


def tree(root: Path, order: random.Random | None = None) -> Path:
    """A directory tree with all that a tree may have, made in the given order."""
    files = [f"d{i}/f{j}" for i in range(3) for j in range(12)] + ["a b/c'd", "x$y/#z", "ü/ö", "sub/deep/er/file"]
    if order:
        order.shuffle(files)
    root.mkdir()
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = random.Random(name)
        path.write_bytes(noise.randbytes(noise.randrange(20_000)))
        path.chmod(0o4755 if name == "d0/f1" else 0o644)
    (root / "sparse").write_bytes(b"")
    put(root / "sparse", 3 * MIB, b"in a hole")
    (root / "d1/link").symlink_to("../d0/f0")
    (root / "d1/long").symlink_to("x/" * 100)
    (root / "d2/hard").hardlink_to(root / "d0/f0")
    for path in root.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    root.chmod(0o755)
    return root


def gpt_qcow2(here: Path, *options: str) -> Path:
    """The disk of `gpt_disk` as qcow2."""
    return qcow2(gpt_disk(here / "raw"), here / "disk", *options)


class Corpus:
    """A table of disks that are refused, filled by its decorator."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, DiskFormat, Scenario, type[CatalogError], str]] = []

    def __call__(
        self, sentence: str, named: DiskFormat, reason: str, error: type[CatalogError] = DiskRefused
    ) -> Callable[[Scenario], Scenario]:
        """Put a scenario into the table: what it is, how the disk is named, a pattern of the reason, and the error."""

        def put_in(scenario: Scenario) -> Scenario:
            self.rows.append((sentence, named, scenario, error, reason))
            return scenario

        return put_in
