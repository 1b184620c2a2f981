"""Disks that are refused for the format that they are in, or say to be in: a corpus, each with its reason."""

import os
import struct
from pathlib import Path

from catalog.errors import NotFound
from tests.support.catalog.disk_images import (
    MIB,
    Corpus,
    Scenario,
    formatted,
    gpt_disk,
    gpt_qcow2,
    luks,
    put,
    run,
    table,
)

bad = Corpus()


def _patched(here: Path, offset: int, content: bytes) -> Path:
    disk = gpt_qcow2(here)
    put(disk, offset, content)
    return disk


@bad("a backing file names any file of the host", "qcow2", "backing file")
def _(here: Path) -> Path:
    gpt_disk(here / "base")
    run("qemu-img", "create", "-f", "qcow2", "-b", here / "base", "-F", "raw", here / "disk")
    return here / "disk"


@bad("a backing file named by hand, as in CVE-2015-1850", "qcow2", "backing file")
def _(here: Path) -> Path:
    disk = _patched(here, 8, struct.pack(">QI", 600, 11))
    put(disk, 600, b"/etc/passwd")
    return disk


@bad("an external data file, as in CVE-2024-32498", "qcow2", "data file|data_file")
def _(here: Path) -> Path:
    run("qemu-img", "create", "-f", "qcow2", "-o", f"data_file={here}/data", here / "disk", "32M")
    return here / "disk"


@bad("an external raw data file", "qcow2", "data file|data_file")
def _(here: Path) -> Path:
    run("qemu-img", "create", "-f", "qcow2", "-o", f"data_file={here}/data,data_file_raw=on", here / "disk", "32M")
    return here / "disk"


@bad("encryption inside qcow2", "qcow2", "encrypted")
def _(here: Path) -> Path:
    return _patched(here, 32, struct.pack(">I", 2))


@bad("the old AES encryption of qcow2", "qcow2", "encrypted")
def _(here: Path) -> Path:
    return _patched(here, 32, struct.pack(">I", 1))


@bad("an internal snapshot", "qcow2", "snapshot")
def _(here: Path) -> Path:
    run("qemu-img", "snapshot", "-c", "before", gpt_qcow2(here))
    return here / "disk"


@bad("a PiB in a small file", "qcow2", "has 1024.0 TiB, more than the 2.0 TiB allowed")
def _(here: Path) -> Path:
    run("qemu-img", "create", "-f", "qcow2", "-o", "cluster_size=2M", here / "disk", "1P")
    return here / "disk"


@bad("a size beyond all numbers", "qcow2", "more than the 2.0 TiB allowed")
def _(here: Path) -> Path:
    return _patched(here, 24, b"\xff" * 8)


@bad("a sparse raw file of 3 TiB", "raw", "3.0 TiB")
def _(here: Path) -> Path:
    with gpt_disk(here / "disk").open("r+b") as file:
        file.truncate(3 << 40)
    return here / "disk"


@bad("a size that two readers read differently", "qcow2", "qemu-img|L1|overflow|large|differently")
def _(here: Path) -> Path:
    return _patched(here, 24, struct.pack(">Q", 1 << 40))


@bad("a qcow2 cut in the middle", "qcow2", "damaged or truncated")
def _(here: Path) -> Path:
    disk = gpt_qcow2(here)
    os.truncate(disk, disk.stat().st_size // 2)
    return disk


@bad("a qcow2 cut inside its header", "qcow2", "no complete qcow2 header|was named qcow2")
def _(here: Path) -> Path:
    disk = gpt_qcow2(here)
    os.truncate(disk, 60)
    return disk


@bad("tables that point into each other", "qcow2", "damaged|qemu-img")
def _(here: Path) -> Path:
    disk = gpt_qcow2(here)
    (l1,) = struct.unpack(">Q", disk.read_bytes()[40:48])
    put(disk, l1, struct.pack(">Q", 1 << 63 | l1))
    return disk


@bad("a disk that was not closed", "qcow2", "marked dirty")
def _(here: Path) -> Path:
    return _patched(here, 72, struct.pack(">Q", 1))


@bad("a disk that is marked corrupt", "qcow2", "marked corrupt")
def _(here: Path) -> Path:
    return _patched(here, 72, struct.pack(">Q", 2))


@bad("features of the future", "qcow2", "unsupported features")
def _(here: Path) -> Path:
    return _patched(here, 72, struct.pack(">Q", 1 << 5))


@bad("features that qemu knows and the inspector does not", "qcow2", "unsupported features")
def _(here: Path) -> Path:
    return gpt_qcow2(here, "-o", "extended_l2=on,cluster_size=128k")


@bad("features of the far future", "qcow2", "unsupported features")
def _(here: Path) -> Path:
    return _patched(here, 72, struct.pack(">Q", 1 << 63))


@bad("the first version of qcow", "qcow2", "version 1")
def _(here: Path) -> Path:
    return _patched(here, 4, struct.pack(">I", 1))


@bad("absurd clusters", "qcow2", r"clusters of 2\^40")
def _(here: Path) -> Path:
    return _patched(here, 20, struct.pack(">I", 40))


@bad("a virtual size of nothing", "qcow2", "virtual size of 0")
def _(here: Path) -> Path:
    return _patched(here, 24, bytes(8))


@bad("half a sector", "qcow2", "not a multiple of 512")
def _(here: Path) -> Path:
    return _patched(here, 24, struct.pack(">Q", 32 * MIB - 100))


@bad(
    "a qcow2 that is called raw, as in CVE-2026-24708",
    "raw",
    "named raw, but its content is qcow2; give --format qcow2",
)
def _(here: Path) -> Path:
    return gpt_qcow2(here)


@bad("a raw disk that is called qcow2", "qcow2", "named qcow2, but its content is gpt; give --format raw")
def _(here: Path) -> Path:
    return gpt_disk(here / "disk")


@bad("a VMDK descriptor that names a file of the host, as in CVE-2022-47951", "raw", "content is vmdk")
def _(here: Path) -> Path:
    text = '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
    (here / "disk").write_text((text + 'RW 4 FLAT "/etc/passwd" 0\n').ljust(2048, "\n"))
    return here / "disk"


def _foreign(format_: str) -> Scenario:
    def scenario(here: Path) -> Path:
        run("qemu-img", "create", "-q", "-f", format_, here / "disk", "8M")
        return here / "disk"

    return scenario


for _format, _seen in (("vmdk", "vmdk"), ("vdi", "vdi"), ("vhdx", "vhdx"), ("vpc", "vhd"), ("qed", "qed")):
    bad(f"a foreign format: {_format}", "raw", f"content is {_seen}; convert it to raw")(_foreign(_format))


@bad("an encrypted volume", "raw", "content is luks")
def _(here: Path) -> Path:
    return luks(here / "disk")


def _iso(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(MIB)
    descriptor = b"\1CD001\1\0" + bytes(72) + struct.pack("<I", 512) + struct.pack(">I", 512)
    put(path, 32 << 10, descriptor.ljust(120, b"\0") + bytes(8) + struct.pack("<H", 2048) + struct.pack(">H", 2048))
    put(path, 34 << 10, b"\xffCD001\1")
    return path


@bad("an ISO 9660 image", "raw", "content is iso")
def _(here: Path) -> Path:
    return _iso(here / "disk")


@bad("a polyglot: ISO with a qcow2 header in its system area, called qcow2", "qcow2", "several formats at once")
def _(here: Path) -> Path:
    disk = _iso(here / "disk")
    (here / "x").mkdir()
    put(disk, 0, gpt_qcow2(here / "x").read_bytes()[:512])
    return disk


@bad("the same polyglot, called raw", "raw", "several formats at once")
def _(here: Path) -> Path:
    disk = _iso(here / "disk")
    (here / "x").mkdir()
    put(disk, 0, gpt_qcow2(here / "x").read_bytes()[:512])
    return disk


@bad("a polyglot: a partitioned disk that is an ISO as well", "raw", "several formats at once")
def _(here: Path) -> Path:
    disk = gpt_disk(here / "disk")
    put(disk, 32 << 10, _iso(here / "iso").read_bytes()[32 << 10 : 36 << 10])
    return disk


@bad("an empty file", "raw", "is empty|named raw")
def _(here: Path) -> Path:
    (here / "disk").touch()
    return here / "disk"


@bad("a directory", "raw", "is a directory")
def _(here: Path) -> Path:
    (here / "disk").mkdir()
    return here / "disk"


@bad("an endless device", "raw", "device, pipe or socket")
def _(_here: Path) -> Path:
    return Path("/dev/zero")


@bad("a pipe that nobody writes to", "raw", "device, pipe or socket")
def _(here: Path) -> Path:
    os.mkfifo(here / "disk")
    return here / "disk"


@bad("a link to nothing", "raw", "is a dangling symbolic link", NotFound)
def _(here: Path) -> Path:
    (here / "disk").symlink_to("nowhere")
    return here / "disk"


@bad("a file that is not there", "raw", "does not exist", NotFound)
def _(here: Path) -> Path:
    return here / "disk"


@bad("an address in place of a file name", "raw", "does not exist", NotFound)
def _(_here: Path) -> Path:
    return Path('json:{"driver":"nbd","host":"127.0.0.1"}')


@bad("no table at all", "raw", "neither a GPT nor an MBR")
def _(here: Path) -> Path:
    with (here / "disk").open("wb") as file:
        file.truncate(8 * MIB)
    return here / "disk"


@bad("a bare filesystem", "raw", 'table = "none"')
def _(here: Path) -> Path:
    return formatted(here / "disk", 8 * MIB, "mke2fs", "-q", "-t", "ext4")


@bad("a file of odd size", "raw", "not a multiple of 512")
def _(here: Path) -> Path:
    with gpt_disk(here / "disk").open("ab") as file:
        file.write(b"x")
    return here / "disk"


@bad("a table without partitions", "raw", "empty")
def _(here: Path) -> Path:
    return table(here / "disk", 8 * MIB, "label: gpt\n")


@bad("a hybrid MBR: two tables describe one disk", "raw", "extra partitions|hybrid")
def _(here: Path) -> Path:
    disk = gpt_disk(here / "disk")
    put(disk, 446 + 16, struct.pack("<BBBBBBBBII", 0, 0, 2, 0, 0x83, 0, 0, 0, 2048, 2048))
    return disk
