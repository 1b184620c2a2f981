"""One owner per cache directory: a lock that the kernel takes back from whoever dies."""

import os
from pathlib import Path

from signer.runtime import files
from stager.cache.recovery import make_directories
from stager.errors import CacheBusy, CacheUnusable


def check_quota(root: Path, quota: int) -> None:
    """Demand a quota that the filesystem could hold; a larger one would only be found out when it is full."""
    found = os.statvfs(root)
    if quota > (total := found.f_blocks * found.f_frsize):
        raise CacheUnusable(
            f"{root}: the quota of {quota} bytes is more than the {total} bytes of its filesystem; lower the setting "
            "node.cache_quota (70 % of the filesystem is a good value) or choose another node.directory"
        )


def lock_cache(root: Path) -> int:
    """Make the directories and take the lock that makes this process the owner; returns its descriptor."""
    try:
        make_directories(root)
        return files.lock(root / "lock")
    except files.LockHeld as exc:
        raise CacheBusy(f"{root}: {exc.strerror}; ask the node's service, or stop it first") from exc
    except OSError as exc:
        raise CacheUnusable(f"{root}: cannot be used as a cache: {exc.strerror}") from exc
