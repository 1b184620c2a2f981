"""What the cache does to its filesystem, one method for each step that can fail.

Tests hand the cache a Disk that fails, or kills, at the n-th step; nothing else in this package writes to the cache.
"""

import errno
import os
import shutil
from pathlib import Path

from signer.runtime import files

NO_COPY = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""What copy_file_range says where a filesystem, or a pair of them, has no such thing."""

COPY = 1 << 20
"""Bytes copied at once where the kernel cannot do it by itself."""

SEALED = 0o444
OPEN = 0o600


class DiskOperations:
    """The steps of the write protocol. All raise OSError."""

    def create(self, path: Path, size: int) -> int:
        """Open a file for reading and writing, make it if need be, and give it its size; returns the descriptor."""
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
        """Have the filesystem set blocks aside, so that it is full now or not at all."""
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
        """Write a small file in one step; whether it lasts does not matter."""
        files.write(path, data, sync=None)

    def empty(self, descriptor: int) -> None:
        """Forget all bytes of a file, keep its size."""
        size = os.fstat(descriptor).st_size
        os.ftruncate(descriptor, 0)
        os.ftruncate(descriptor, size)

    def seal(self, descriptor: int) -> None:
        """Make a file read-only."""
        os.fchmod(descriptor, SEALED)

    def sync(self, descriptor: int) -> None:
        """Demand that a file's bytes are on the disk."""
        os.fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Move a file within the cache's filesystem, replacing what the target was."""
        source.rename(target)

    def sync_directory(self, path: Path) -> None:
        """Demand that a directory's names are on the disk."""
        files.sync_path(path)

    def remove(self, path: Path) -> None:
        """Unlink what is there, a directory that somebody put there included; nothing is fine."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def allocated_bytes(path: Path) -> int:
    """Bytes that a file takes on its disk; 0 if it is not there."""
    try:
        return path.lstat().st_blocks * 512
    except FileNotFoundError:
        return 0
