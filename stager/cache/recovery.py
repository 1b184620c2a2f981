"""What a cache does when it is opened: make directory and ledger agree again, whatever killed the last owner and when.

Nothing is believed for being there. A row without its file is dropped (the content is fetched again); a file without a
row (killed between the rename and the commit) is hashed again and adopted, or removed; what was arriving is kept if the
ledger knows it, for its pieces are proved one by one when the transfer goes on; everything else is litter.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from catalog.content.indexing import verify_content
from catalog.errors import CatalogError
from catalog.image.address import Address
from stager.cache import sidecars as beside
from stager.cache.disk import DiskOperations, allocated_bytes
from stager.cache.entries import CacheEntry, CacheKey, sample
from stager.cache.index import CacheIndex
from stager.cache.sidecars import SIDECARS

PARTITIONS, BLANKS, INCOMING, TRASH = "partitions", "blanks", "incoming", "trash"


@dataclass(frozen=True, slots=True)
class CacheRecovery:
    """What recovery did: counts of entries adopted and rows dropped, of transfers that can go on, of litter removed, of
    leases that had ended."""

    adopted: int
    dropped: int
    resumable: int
    removed: int
    expired: int


def entry_path(root: Path, key: CacheKey) -> Path:
    """Where the file of an entry is: by the first two hex digits of its root, or by its recipe's digest."""
    if key.startswith("blank-"):
        return root / BLANKS / key.removeprefix("blank-")
    return root / PARTITIONS / key[:2] / key


def make_directories(root: Path) -> None:
    """The cache's directories, for its owner only to change."""
    for name in (PARTITIONS, BLANKS, INCOMING, TRASH, SIDECARS):
        (root / name).mkdir(parents=True, exist_ok=True)


def make_entry(descriptor: int, key: CacheKey, what: str, *, data_bytes: int, digest: bytes, now: float) -> CacheEntry:
    """The ledger's row for a file that has just been verified."""
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


def recover_cache(root: Path, ledger: CacheIndex, disk: DiskOperations, now: float) -> CacheRecovery:
    """Make directory and ledger agree; see the module's text."""
    removed = _sort_trash(root, ledger, disk)
    with ledger.transaction():
        expired = ledger.expire(now)
        lost = [entry.key for entry in ledger.entries() if not _is_file(entry_path(root, entry.key), entry.size)]
        for key in lost:
            ledger.drop_entry(key)
        known = {entry.key for entry in ledger.entries()}
    adopted = 0
    for path in _strays(root, known):
        if _adopt(root, ledger, disk, path, now):
            adopted += 1
        else:
            removed += _remove(disk, path)
    resumable, litter = _arriving(root, ledger, disk, known)
    with ledger.transaction():
        here = {entry.key for entry in ledger.entries()} | set(ledger.reserved())
        here |= {one.name for one in ledger.trash()}
    for path in (root / SIDECARS).iterdir():
        if beside.key_of_file(path.name) not in here:
            disk.remove(path)
    return CacheRecovery(adopted, len(lost), resumable, removed + litter, expired)


def _sort_trash(root: Path, ledger: CacheIndex, disk: DiskOperations) -> int:
    """Keep in the trash what the ledger knows; returns how many things were removed."""
    with ledger.transaction():
        known = {one.name for one in ledger.trash()}
        for name in known:
            if not _is_file(root / TRASH / name, None):
                ledger.drop_trash(name)
    return sum(_remove(disk, path) for path in (root / TRASH).iterdir() if path.name not in known)


def _strays(root: Path, known: set[CacheKey]) -> list[Path]:
    """What lies among the entries and is none. What people keep beside the cache's own directories is not looked at."""
    strays = [path for path in (root / BLANKS).iterdir() if f"blank-{path.name}" not in known]
    for shelf in (root / PARTITIONS).iterdir():
        if len(shelf.name) != 2 or shelf.is_symlink() or not shelf.is_dir():
            strays.append(shelf)
        else:
            strays += [
                path for path in shelf.iterdir() if path.name not in known or path != entry_path(root, path.name)
            ]
    return sorted(strays)


def _arriving(root: Path, ledger: CacheIndex, disk: DiskOperations, known: set[CacheKey]) -> tuple[int, int]:
    """Keep the incoming files that can go on, with room for what they hold; (kept, removed)."""
    kept = removed = 0
    with ledger.transaction():
        reserved = ledger.reserved()
        for path in sorted((root / INCOMING).iterdir()):
            if path.name in reserved and path.name not in known and allocated_bytes(path) and _is_file(path, None):
                kept += 1
                ledger.put_reservation(path.name, allocated_bytes(path), reserved.pop(path.name)[1])
            else:
                removed += _remove(disk, path)
        for key in reserved:
            ledger.drop_reservation(key)
    return kept, removed


def _is_file(path: Path, size: int | None) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and size in (None, found.st_size)


def _adopt(root: Path, ledger: CacheIndex, disk: DiskOperations, path: Path, now: float) -> bool:
    try:
        address = Address.parse(path.name)
        if path != entry_path(root, path.name) or not _is_file(path, address.size):
            return False
        measured = verify_content(path, address)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            disk.seal(descriptor)
            disk.sync(descriptor)
            disk.sync_directory(path.parent)
            entry = make_entry(descriptor, path.name, path.name, data_bytes=measured.data_bytes, digest=b"", now=now)
        finally:
            os.close(descriptor)
    except (ValueError, CatalogError, OSError):
        return False
    with ledger.transaction():
        ledger.put_entry(entry)
    beside.write_sidecars(disk, root, entry.key, measured.layer, measured.hints)
    return True


def _remove(disk: DiskOperations, path: Path) -> int:
    disk.remove(path)
    return 1
