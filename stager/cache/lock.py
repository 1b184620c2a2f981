"""One owner per cache directory: a lock that the kernel takes back from whoever dies."""

import fcntl
import os
from pathlib import Path

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
        descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise CacheUnusable(f"{root}: cannot be used as a cache: {exc.strerror}") from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise CacheBusy(
            f"{root}: belongs to the running process {owner}; ask the node's service, or stop it first"
        ) from exc
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
