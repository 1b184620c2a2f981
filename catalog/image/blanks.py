"""Blanks: partitions made locally from a recipe: by a node for its machines, by a catalog for flat images.

A blank is never stored in a catalog or sent between nodes. Equal recipes give equal bytes on one machine: filesystem UUIDs
are derived from the recipe, and every source of time and randomness in the tools is fixed. So one blank can back the
overlays of many machines, and can be made again after eviction. Another version of a tool may lay a filesystem out
differently, therefore manifests do not contain addresses of blanks.
"""

import hashlib
import os
import struct
import subprocess
import uuid
from pathlib import Path

from catalog.errors import BlankFailed
from catalog.image.manifest import Blank
from signer.documents import canonical

NAMESPACE = uuid.UUID("5a0f7d3e-2d5b-5c38-9a3c-64a7a2d0b6c1")
"""Namespace of the UUIDs (RFC 9562, version 5) of filesystems made from a recipe."""

SYSTEM_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
"""Where the tools are; ordinary users on Debian have no sbin directories on PATH."""

EPOCH = 946_684_800
"""The time in every blank's superblock: 2000-01-01, so that a blank does not depend on the node's clock."""

TIMEOUT = 600
"""Seconds until a tool is ended. The largest blank takes some seconds; a tool that hangs must not hang the node."""

EXT4_FEATURES = (
    "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,"
    "dir_nlink,extra_isize,metadata_csum"
)
"""Spelled out so that the node's mke2fs.conf does not decide what a guest gets. Linux 3.6 and later mount it."""

_XFS_BIGTIME = (EPOCH + (1 << 31)) * 10**9
"""EPOCH in XFS's bigtime format: nanoseconds since 1901-12-13 20:45:52 UTC."""

_BLOCK = 4096


def filesystem_uuid(blank: Blank) -> uuid.UUID:
    """The filesystem UUID of a blank, derived from its recipe."""
    return uuid.uuid5(NAMESPACE, canonical(blank).decode())


def reserved_size(blank: Blank) -> int:
    """Bytes to reserve before a blank is made; the finished blank allocates less.

    ext4 writes group descriptors, bitmaps and a lazily initialised journal; XFS zeroes a log of 64 MiB or more before it
    is made sparse again; vfat writes its two tables.
    """
    match blank.filesystem:
        case "ext4":
            estimate = (8 << 20) + blank.size // 64
        case "xfs":
            estimate = (80 << 20) + blank.size // 512
        case "vfat":
            estimate = (2 << 20) + blank.size // 64
        case "swap" | "none":
            estimate = 64 << 10
    return min(estimate, blank.size + (64 << 10))


def make_blank(blank: Blank, path: Path) -> None:
    """Format a file.

    Args:
        blank: the recipe.
        path: an existing file of the blank's size that is one hole; stays sparse where the filesystem is zero.

    Raises:
        BlankFailed: a tool is missing, rejects the recipe, or does not end in time.
    """
    file, own = str(path), filesystem_uuid(blank)
    label = ["-n" if blank.filesystem == "vfat" else "-L", blank.label] if blank.label else []
    match blank.filesystem:
        case "ext4":
            extended = f"nodiscard,lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0,hash_seed={own}"
            layout = ["-b", "4096", "-I", "256", "-i", "16384", "-m", "0", "-O", EXT4_FEATURES]
            _run("mkfs.ext4", "-q", "-F", "-t", "ext4", *layout, "-U", str(own), "-E", extended, *label, file)
        case "xfs":
            _run("mkfs.xfs", "-q", "-f", "-K", "-m", f"uuid={own}", *label, file)
            _settle_xfs(file)
        case "vfat":
            _run("mkfs.vfat", "--invariant", "-i", own.hex[:8], *label, file)
        case "swap":
            _run("mkswap", "-q", "-U", str(own), *label, file)
        case "none":
            return
    _run("fallocate", "--dig-holes", file)


def blank_digest(descriptor: int) -> bytes:
    """SHA-256 over the (offset, bytes) of every 4 KiB of an open file that is not zero, and over its size.

    It depends on the content only, not on where the holes are; its cost is proportional to the data, not to the size.
    """
    digest, zero = hashlib.sha256(), bytes(_BLOCK)
    size = os.fstat(descriptor).st_size
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA) // _BLOCK * _BLOCK
        except OSError:  # ENXIO: only holes remain
            break
        position = os.lseek(descriptor, max(start, position), os.SEEK_HOLE)
        for offset in range(start, position, _BLOCK):
            block = os.pread(descriptor, min(_BLOCK, size - offset), offset)
            if block != zero[: len(block)]:
                digest.update(struct.pack(">Q", offset) + block)
    digest.update(struct.pack(">Q", size))
    return digest.digest()


def _settle_xfs(file: str) -> None:
    """Fix the times and generation numbers of the three inodes that mkfs.xfs makes; xfs_db keeps their checksums right.

    (Later versions of xfsprogs than those in use do it themselves, from SOURCE_DATE_EPOCH and DETERMINISTIC_SEED.)
    """
    shown = _run("xfs_db", "-r", "-c", "sb 0", "-c", "print rootino rbmino rsumino", file)
    commands: list[str] = []
    for line in shown.splitlines():
        _, _, inode = line.partition(" = ")
        if not inode.isdigit():
            raise BlankFailed(f"{file}: xfs_db did not name the inodes of a new filesystem: {line[:80]!r}")
        commands += ["-c", f"inode {inode}", "-c", "write core.gen 1"]
        for field in ("core.atime", "core.mtime", "core.ctime", "v3.crtime"):
            commands += ["-c", f"write {field}.sec {_XFS_BIGTIME}"]
    _run("xfs_db", "-x", *commands, file)


def _run(tool: str, *arguments: str) -> str:
    environment = {
        "PATH": f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}",
        "LC_ALL": "C",
        "TZ": "UTC",
        "E2FSPROGS_FAKE_TIME": str(EPOCH),
        "SOURCE_DATE_EPOCH": str(EPOCH),
        "DETERMINISTIC_SEED": "1",
        "MKE2FS_CONFIG": "/dev/null",
    }
    try:
        done = subprocess.run(
            [tool, *arguments], env=environment, capture_output=True, check=False, timeout=TIMEOUT, text=True
        )
    except FileNotFoundError as exc:
        raise BlankFailed(f"{tool} is not installed; install it to make the blanks of images") from exc
    except subprocess.TimeoutExpired as exc:
        raise BlankFailed(f"{tool} did not end within {TIMEOUT} seconds; check the disk") from exc
    if done.returncode:
        output = " ".join((done.stderr or done.stdout).split())[:300]
        raise BlankFailed(f"{tool} failed with exit code {done.returncode}: {output}")
    return done.stdout
