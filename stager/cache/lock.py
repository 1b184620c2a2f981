"""One owner per cache directory: a lock that the kernel releases when its process ends."""

import os
from pathlib import Path

from signer.runtime import files
from stager.cache.recovery import make_directories
from stager.errors import CacheBusy, CacheUnusable


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
        make_directories(root)
        return files.lock(root / "lock")
    except files.LockHeld as exc:
        raise CacheBusy(f"{root}: {exc.strerror}; ask the node's service, or stop it first") from exc
    except OSError as exc:
        raise CacheUnusable(f"{root}: cannot be used as a cache: {exc.strerror}") from exc
