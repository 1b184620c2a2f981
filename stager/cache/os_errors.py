"""What an error of the system means for a cache: a full disk, or one that has to be looked at."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stager.errors import CacheUnusable, DiskFull, StagerError

DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a disk that is full, for everybody, for this user, or for one file."""


def to_stager_error(root: Path, exc: OSError) -> StagerError:
    """The error to raise for a cache in that directory."""
    if exc.errno in DISK_FULL_ERRNOS:
        return DiskFull(f"{root}: the disk is full ({exc.strerror}); free some of it and stage again")
    return CacheUnusable(f"{root}: {exc.strerror or exc}; look at the directory and its disk")


@contextmanager
def translate_os_errors(root: Path) -> Iterator[None]:
    """Within the block the system's errors become a cache's: DiskFull or CacheUnusable."""
    try:
        yield
    except OSError as exc:
        raise to_stager_error(root, exc) from exc
