"""The cache's operations on its filesystem, one method for each step that can fail.

Tests pass the cache operations that fail, or kill, at the n-th step; nothing else in this package writes to the cache.
"""

import errno
import os
import shutil
from pathlib import Path

from signer.runtime import files

NO_COPY = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""Errors of copy_file_range on a filesystem, or a pair of them, that does not support it."""

COPY = 1 << 20
"""Bytes copied at once where the kernel cannot copy by itself."""

SEALED = 0o444
OPEN = 0o600


class DiskOperations:
    """The steps of the write protocol. All raise OSError."""

    def create(self, path: Path, size: int) -> int:
        """Open a file for reading and writing, make it if need be, and set its size; returns the descriptor."""
        if path.exists():
            path.chmod(OPEN)  # sealed by a process that died before the rename
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, OPEN)
        try:
            os.ftruncate(descriptor, size)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def allocate(self, descriptor: int, offset: int, length: int) -> None:
        """Allocate blocks, so that a full filesystem is noticed now and not later."""
        os.posix_fallocate(descriptor, offset, length)

    def write(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        """Write all of the data at an offset."""
        rest = memoryview(data)
        while rest:
            done = os.pwrite(descriptor, rest, offset)
            rest, offset = rest[done:], offset + done

    def copy(self, source: int, descriptor: int, offset: int, target: int, length: int) -> int:
        """Copy bytes of one open file into another, sharing blocks where the filesystem can; returns how many."""
        done = 0
        while done < length:
            try:
                came = os.copy_file_range(source, descriptor, length - done, offset + done, target + done)
            except OSError as exc:
                if exc.errno not in NO_COPY:
                    raise
                came = os.pwrite(descriptor, os.pread(source, min(COPY, length - done), offset + done), target + done)
            if not came:
                break  # the source is shorter than it was
            done += came
        return done

    def put(self, path: Path, data: bytes) -> None:
        """Write a small file in one step; it need not be durable."""
        files.write(path, data, sync=None)

    def empty(self, descriptor: int) -> None:
        """Drop all bytes of a file, and keep its size."""
        size = os.fstat(descriptor).st_size
        os.ftruncate(descriptor, 0)
        os.ftruncate(descriptor, size)

    def seal(self, descriptor: int) -> None:
        """Make a file read-only."""
        os.fchmod(descriptor, SEALED)

    def sync(self, descriptor: int) -> None:
        """Make a file's bytes durable."""
        os.fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Move a file within the cache's filesystem, replacing the target."""
        source.rename(target)

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable."""
        files.sync_path(path)

    def remove(self, path: Path) -> None:
        """Remove a file or directory; a missing one is not an error."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def has_data(descriptor: int, start: int, end: int) -> bool:
    """Whether any byte of a file between two offsets is outside a hole."""
    try:
        return os.lseek(descriptor, start, os.SEEK_DATA) < end
    except OSError:  # ENXIO: only holes remain
        return False


def allocated_bytes(path: Path) -> int:
    """Return the bytes that a file allocates on its disk; 0 if it does not exist."""
    try:
        return path.lstat().st_blocks * 512
    except FileNotFoundError:
        return 0
