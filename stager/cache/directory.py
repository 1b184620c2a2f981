"""The directory of a cache: its paths, the lock of its one owner, and contents that another cache lends.

The kernel releases the lock when the owner's process ends. Lent contents are hard links on the same filesystem, which
allocate no space: a content gets its final path when it is verified, and is never written to from then on
(docs/adr/0003-cache-write-protocol.md). So the directory of a new cache may be filled with links to the contents of one
that is in use; the new cache hashes all of them again when it is opened (`recovery`), and keeps them when the other cache
removes its own names.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from catalog.image.address import Address
from signer.runtime import files
from stager.cache.entries import CacheKey
from stager.cache.sidecars import SIDECARS
from stager.errors import CacheBusy, CacheUnusable

PARTITIONS, BLANKS, INCOMING, TRASH = "partitions", "blanks", "incoming", "trash"


def entry_path(root: Path, key: CacheKey) -> Path:
    """Return the path of an entry's file: by the first two hex digits of its root, or by its recipe's digest."""
    if key.startswith("blank-"):
        return root / BLANKS / key.removeprefix("blank-")
    return root / PARTITIONS / key[:2] / key


def check_quota(root: Path, quota: int) -> None:
    """Refuse a quota larger than the filesystem, which would otherwise go unnoticed until the filesystem is full."""
    found = os.statvfs(root)
    if quota > (total := found.f_blocks * found.f_frsize):
        raise CacheUnusable(
            f"{root}: the quota of {quota} bytes is larger than its filesystem of {total} bytes; lower the setting "
            "node.cache_quota (70 % of the filesystem is a good value) or choose another node.directory"
        )


def lock_cache(root: Path) -> int:
    """Make the directories and take the lock of the owner; returns its descriptor."""
    try:
        _make_directories(root)
        return files.lock(root / "lock")
    except files.LockHeld as exc:
        raise CacheBusy(f"{root}: {exc.strerror}; ask the node's service, or stop it first") from exc
    except OSError as exc:
        raise CacheUnusable(f"{root}: cannot be used as a cache: {exc.strerror}") from exc


def link_contents(lender: Path, borrower: Path, wanted: Iterable[Address]) -> int:
    """Link contents of one cache into the directory of another that is not open; returns how many.

    Contents that the lender does not have (any more), or that the borrower already has, are left out.

    Raises:
        CacheUnusable: the borrower's directory cannot be written.
    """
    lent = 0
    try:
        _make_directories(borrower)
        for address in dict.fromkeys(wanted):
            target = entry_path(borrower, str(address))
            target.parent.mkdir(exist_ok=True)
            with suppress(FileNotFoundError, FileExistsError):
                os.link(entry_path(lender, str(address)), target, follow_symlinks=False)
                lent += 1
    except OSError as exc:
        raise CacheUnusable(f"{borrower}: cannot be used as a cache: {exc.strerror}") from exc
    return lent


def _make_directories(root: Path) -> None:
    for name in (PARTITIONS, BLANKS, INCOMING, TRASH, SIDECARS):
        (root / name).mkdir(parents=True, exist_ok=True)
