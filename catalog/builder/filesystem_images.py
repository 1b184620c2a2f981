"""Reproducible filesystems from directory trees: the same names, contents, modes and owners give the same bytes.

The result does not depend on the machine: not on the order of directory listings, inode numbers, times (all are the epoch)
or the configuration of mke2fs. Another version of mkfs.erofs or mke2fs may use another layout, so equal addresses need
equal versions of the tools.
"""

import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from catalog.errors import DiskRefused, Misused, NotFound, Unavailable

BLOCK = 4096
"""Bytes in a block of the filesystems: the page size, and the unit in which nodes find unchanged blocks."""

MIB = 1 << 20
INODE = 256
"""Bytes of an ext4 inode."""

EPOCH = {"SOURCE_DATE_EPOCH": "1", "E2FSPROGS_FAKE_TIME": "1", "MKE2FS_CONFIG": "/dev/null"}
"""E2fsprogs reads time 0 as "now", so the epoch is one second later."""

_EXT4 = "none,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink"
_EXT4_CHECKED = _EXT4 + ",extra_isize,metadata_csum"
LOST_AND_FOUND = "/lost+found"
"""The directory that mke2fs makes itself."""

_UNQUOTABLE = frozenset('"\n\r\0')
"""Characters that cannot be quoted in debugfs commands."""


@dataclass(frozen=True)
class TreeEntry:
    """A file of a tree: its path in the tree, its path on this machine, its lstat."""

    place: str
    path: Path
    status: os.stat_result

    @property
    def parent(self) -> str:
        """The path of its directory in the tree."""
        return self.place.rpartition("/")[0]


def make_erofs(tree: Path, target: Path, uuid: str, *, owner: str) -> None:
    """Make an EROFS filesystem of a tree.

    Args:
        tree: the directory.
        target: the file to make.
        uuid: of the filesystem.
        owner: "root" or "keep".

    Raises:
        NotFound, DiskRefused, Unavailable: the tree does not exist, cannot be converted, or a tool is missing.
    """
    _directory(tree)
    owners = ["--all-root"] if owner == "root" else []
    # -x-1: no extended attributes, such as SELinux labels of the building machine.
    paths = str(target.absolute()), str(tree.absolute())
    _run(["mkfs.erofs", "--quiet", "-T0", "-x-1", "-U", uuid, *owners, *paths], tree)


def make_ext4(
    tree: Path, target: Path, uuid: str, *, owner: str, size: int | None = None, label: str = "", journal: bool = True
) -> None:
    """Make an ext4 filesystem of a tree.

    `mke2fs -d` follows the order of directory listings, which differs between machines; therefore an empty filesystem is
    made and filled by debugfs in sorted order.

    Args:
        tree, target, uuid, owner: as for :func:`make_erofs`.
        size: of the filesystem in bytes; by default the needs of the tree and a quarter more.
        label: of the filesystem.
        journal: whether to make a journal; a read-only filesystem does not need one.

    Raises:
        Misused: the tree does not fit into `size`.
        NotFound, DiskRefused, Unavailable: as for :func:`make_erofs`.
    """
    entries = list(walk_tree(tree))
    size = size or _size_for(entries, journal=journal)
    inodes = len(entries) + len(entries) // 4 + 64
    features = _EXT4_CHECKED + (",has_journal" if journal else "")
    with target.open("xb") as file:
        file.truncate(size)
    extended = f"hash_seed={uuid},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    layout = ["-b", str(BLOCK), "-I", str(INODE), "-N", str(inodes), "-m", "0", "-O", features, "-E", extended]
    _run(["mke2fs", "-q", "-F", "-t", "ext4", *layout, "-U", uuid, "-L", label, str(target.absolute())], tree)
    script = "".join(line + "\n" for line in _commands(entries, owner))
    commands = target.with_name(target.name + ".debugfs")
    commands.write_text(script, encoding="utf-8", errors="surrogateescape")
    try:
        errors = _run(["debugfs", "-w", "-f", str(commands.absolute()), str(target.absolute())], tree)
    finally:
        commands.unlink()
    for line in errors.splitlines():
        if "No free space" in line or "Could not allocate" in line or "no space" in line.lower():
            raise Misused(f"{tree}: does not fit into an ext4 of {size} bytes; make its partition larger")
        if line and not line.startswith("debugfs "):
            raise DiskRefused(f"{tree}: cannot be copied into an ext4: {line[:200]}")


def walk_tree(tree: Path) -> Iterator[TreeEntry]:
    """All entries of a tree, the root first, sorted by name within each directory, each directory before its entries."""
    root = TreeEntry("", tree, _directory(tree))
    yield root
    waiting = [root]
    while waiting:
        directory = waiting.pop(0)
        for path in sorted(directory.path.iterdir(), key=os.fsencode):
            entry = TreeEntry(f"{directory.place}/{path.name}", path, path.lstat())
            _check(entry)
            yield entry
            if stat.S_ISDIR(entry.status.st_mode):
                waiting.append(entry)


def _directory(tree: Path) -> os.stat_result:
    if not tree.is_dir():
        raise NotFound(f"{tree}: no such directory")
    return tree.stat()


def _check(entry: TreeEntry) -> None:
    if stat.S_ISSOCK(entry.status.st_mode):
        raise DiskRefused(f"{entry.path}: is a socket, which cannot be stored; remove it from the tree")
    target = str(entry.path.readlink()) if stat.S_ISLNK(entry.status.st_mode) else ""
    if _UNQUOTABLE & (set(entry.place) | set(target) | set(str(entry.path))):
        raise DiskRefused(f"{str(entry.path)!r}: has a quote or line break in its name; rename it, or use erofs")


def _size_for(entries: Sequence[TreeEntry], *, journal: bool) -> int:
    """Bytes of an ext4 for a tree, in whole MiB: data, inodes, journal, and a quarter more. Unused blocks are holes."""
    data = sum(-(-entry.status.st_size // BLOCK) * BLOCK + BLOCK for entry in entries)
    need = (data + 2 * INODE * len(entries)) * 5 // 4 + (8 * MIB if journal else 0) + 2 * MIB
    return -(-need // MIB) * MIB


def _commands(entries: Sequence[TreeEntry], owner: str) -> Iterator[str]:
    """The debugfs commands that fill an empty filesystem with a tree (debugfs(8))."""
    first_link: dict[tuple[int, int], str] = {}
    links: dict[str, int] = {}
    here = ""
    for entry in entries:
        if entry.place and entry.parent != here:
            here = entry.parent
            yield f'cd "{here or "/"}"'
        name = entry.place.rpartition("/")[2]
        kind = stat.S_IFMT(entry.status.st_mode)
        key = (entry.status.st_dev, entry.status.st_ino)
        if kind == stat.S_IFREG and entry.status.st_nlink > 1 and key in first_link:
            original = first_link[key]
            links[original] += 1
            yield f'ln "{original}" "{entry.place}"'
            yield f'sif "{original}" links_count {links[original]}'
            continue
        if entry.place not in ("", LOST_AND_FOUND):
            yield _creation(entry, name, kind)
        if kind == stat.S_IFREG:
            first_link[key] = entry.place
            links[entry.place] = 1
        yield from _attributes(entry, owner)


def _creation(entry: TreeEntry, name: str, kind: int) -> str:
    device = entry.status.st_rdev
    match kind:
        case stat.S_IFDIR:
            return f'mkdir "{name}"'
        case stat.S_IFREG:
            return f'write "{entry.path.absolute()}" "{name}"'
        case stat.S_IFLNK:
            return f'symlink "{name}" "{entry.path.readlink()}"'
        case stat.S_IFIFO:
            return f'mknod "{name}" p'
        case _:
            letter = "b" if kind == stat.S_IFBLK else "c"
            return f'mknod "{name}" {letter} {os.major(device)} {os.minor(device)}'


def _attributes(entry: TreeEntry, owner: str) -> Iterator[str]:
    """Commands for mode, owner and times, as some commands set times from the clock."""
    place = entry.place or "/"
    yield f'sif "{place}" mode 0{entry.status.st_mode:o}'
    yield f'sif "{place}" uid {entry.status.st_uid if owner == "keep" else 0}'
    yield f'sif "{place}" gid {entry.status.st_gid if owner == "keep" else 0}'
    for moment in ("atime", "ctime", "mtime", "crtime"):
        yield f'sif "{place}" {moment} @1'


def _run(command: list[str], tree: Path) -> str:
    """Run a tool on trusted files; returns its standard error."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC", **EPOCH}
    try:
        done = subprocess.run(command, capture_output=True, check=False, env=environment)
    except FileNotFoundError as exc:
        raise Unavailable(f"{command[0]} is not installed; install e2fsprogs and erofs-utils") from exc
    errors = done.stderr.decode("utf-8", "replace").strip()
    if done.returncode:
        last = (errors or done.stdout.decode("utf-8", "replace").strip()).splitlines()
        raise DiskRefused(f"{tree}: {command[0]} failed: {last[-1][:200] if last else done.returncode}")
    return errors
