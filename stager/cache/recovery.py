"""Recovery when a cache is opened: makes directory and index agree again, however and whenever the last owner ended.

No file is trusted because it exists. A row without its file is dropped (the content is fetched again); a file without a
row (after a crash between the rename and the commit) is hashed again and adopted, or removed; a partial file is kept if
the index has its reservation, since its pieces are verified one by one when the transfer continues; everything else is
removed.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from catalog.content.indexing import verify_content
from catalog.errors import CatalogError
from catalog.image.address import Address
from signer.runtime import files
from stager.cache import sidecars
from stager.cache.directory import BLANKS, INCOMING, PARTITIONS, TRASH, entry_path
from stager.cache.disk import DiskOperations, allocated_bytes
from stager.cache.entries import CacheEntry, CacheKey, sample
from stager.cache.index import CacheIndex
from stager.cache.sidecars import SIDECARS


@dataclass(frozen=True, slots=True)
class CacheRecovery:
    """Counts of what recovery did: entries adopted, rows dropped, partial files kept, files removed, leases expired."""

    adopted: int
    dropped: int
    resumable: int
    removed: int
    expired: int


def make_entry(descriptor: int, key: CacheKey, what: str, *, data_bytes: int, digest: bytes, now: float) -> CacheEntry:
    """Make the index's row for a file that has just been verified."""
    found = os.fstat(descriptor)
    return CacheEntry(
        key=key,
        what=what,
        size=found.st_size,
        data_bytes=data_bytes,
        allocated=found.st_blocks * 512,
        inode=found.st_ino,
        mtime_ns=found.st_mtime_ns,
        sample=sample(descriptor, key, found.st_size),
        digest=digest,
        verified_at=now,
        last_used=now,
    )


def recover_cache(root: Path, index: CacheIndex, disk: DiskOperations, now: float) -> CacheRecovery:
    """Make directory and index agree, as the module's docstring says."""
    removed = _sort_trash(root, index, disk)
    with index.transaction():
        expired = index.expire(now)
        lost = [entry.key for entry in index.entries() if not _is_file(entry_path(root, entry.key), entry.size)]
        for key in lost:
            index.drop_entry(key)
        known = {entry.key for entry in index.entries()}
    adopted = 0
    for path in _strays(root, known):
        if _adopt(root, index, disk, path, now):
            adopted += 1
        else:
            removed += _remove(disk, path)
    resumable, discarded = _arriving(root, index, disk, known)
    with index.transaction():
        here = {entry.key for entry in index.entries()} | set(index.reserved())
        here |= {one.name for one in index.trash()}
    for path in (root / SIDECARS).iterdir():
        if sidecars.key_of_file(path.name) not in here:
            disk.remove(path)
    return CacheRecovery(adopted, len(lost), resumable, removed + discarded, expired)


def _sort_trash(root: Path, index: CacheIndex, disk: DiskOperations) -> int:
    """Keep the files in the trash that the index knows; returns how many others were removed."""
    with index.transaction():
        known = {one.name for one in index.trash()}
        for name in known:
            if not _is_file(root / TRASH / name, None):
                index.drop_trash(name)
    return sum(_remove(disk, path) for path in (root / TRASH).iterdir() if path.name not in known)


def _strays(root: Path, known: set[CacheKey]) -> list[Path]:
    """Find files among the entries that have no row. Files outside the cache's own directories are ignored."""
    strays = [path for path in (root / BLANKS).iterdir() if f"blank-{path.name}" not in known]
    for directory in (root / PARTITIONS).iterdir():
        if len(directory.name) != 2 or directory.is_symlink() or not directory.is_dir():
            strays.append(directory)
        else:
            strays += [
                path for path in directory.iterdir() if path.name not in known or path != entry_path(root, path.name)
            ]
    return sorted(strays)


def _arriving(root: Path, index: CacheIndex, disk: DiskOperations, known: set[CacheKey]) -> tuple[int, int]:
    """Keep the partial files that can be resumed, and reserve the space that they allocate; returns (kept, removed)."""
    kept = removed = 0
    with index.transaction():
        reserved = index.reserved()
        for path in sorted((root / INCOMING).iterdir()):
            if path.name in reserved and path.name not in known and allocated_bytes(path) and _is_file(path, None):
                kept += 1
                index.put_reservation(path.name, allocated_bytes(path), reserved.pop(path.name)[1])
            else:
                removed += _remove(disk, path)
        for key in reserved:
            index.drop_reservation(key)
    return kept, removed


def _is_file(path: Path, size: int | None) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and size in (None, found.st_size)


def _adopt(root: Path, index: CacheIndex, disk: DiskOperations, path: Path, now: float) -> bool:
    try:
        address = Address.parse(path.name)
        if path != entry_path(root, path.name) or not _is_file(path, address.size):
            return False
        measured = verify_content(path, address)
        with files.opened(path, os.O_RDONLY | os.O_NOFOLLOW) as descriptor:
            disk.seal(descriptor)
            disk.sync(descriptor)
            disk.sync_directory(path.parent)
            entry = make_entry(descriptor, path.name, path.name, data_bytes=measured.data_bytes, digest=b"", now=now)
    except (ValueError, CatalogError, OSError):
        return False
    with index.transaction():
        index.put_entry(entry)
    sidecars.write_sidecars(disk, root, entry.key, measured.layer, measured.hints)
    return True


def _remove(disk: DiskOperations, path: Path) -> int:
    disk.remove(path)
    return 1
