"""Files that outlive a power cut, and locks that end with their process.

A new file is written in the same directory, synced and renamed over the old one; then the directory is synced. Readers
see the old file or the new one, also after a crash (rename(2), fsync(2)). A process that is killed in between leaves a
hidden file `.NAME.<8 hex digits>.new` behind, which is never read.

All functions raise OSError if the filesystem fails. After a failed sync the contents of the disk are unknown: a caller
that relies on them must not simply try again.
"""

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from signer.errors import PartitaError

Sync = Callable[[int], None]
"""Makes what was written to a descriptor durable."""


def fsync(descriptor: int) -> None:
    """The usual Sync."""
    os.fsync(descriptor)


def read_file(path: Path, limit: int) -> bytes:
    """Read a file, or one byte more than the limit of it, so that a larger file is noticed."""
    with path.open("rb") as file:
        return file.read(limit + 1)


def read_bounded(path: Path, limit: int, error: type[PartitaError]) -> bytes:
    """As :func:`read_file`; the given error if the file cannot be read."""
    try:
        return read_file(path, limit)
    except OSError as exc:
        raise error(f"{path}: cannot be read: {exc.strerror}") from exc


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY, mode: int = 0o600) -> Iterator[int]:
    """Yield a descriptor of a file or directory, which is closed at the end of the block; `mode` is that of a new file."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sync_path(path: Path, sync: Sync = fsync) -> None:
    """Make the content of a file durable, or the names in a directory."""
    with opened(path) as descriptor:
        sync(descriptor)


def write(
    path: Path, data: bytes | str, *, mode: int = 0o666, sync: Sync | None = fsync, sync_name: bool = True
) -> None:
    """Replace a file by the data, text as UTF-8; arguments as for `writing`."""
    with writing(path, mode=mode, sync=sync, sync_name=sync_name) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def writing(path: Path, *, mode: int = 0o666, sync: Sync | None = fsync, sync_name: bool = True) -> Iterator[BinaryIO]:
    """Yield a file that replaces the one at `path` when the block ends well; otherwise nothing changes.

    Args:
        path: in a directory that exists.
        mode: of the file, less the process's umask.
        sync: makes it durable; None if it need not outlive a power cut.
        sync_name: whether to sync the directory; a caller that writes several files may do that once, at the end.

    Raises:
        OSError: the file is as it was, unless syncing the directory failed: then the new one is there, and may be lost.
    """
    with _new_file(path, mode) as (fresh, file):
        yield file
        _finish(file, sync)
        fresh.replace(path)
    if sync is not None and sync_name:
        sync_path(path.parent, sync)


def create(path: Path, data: bytes | str, *, mode: int = 0o600) -> None:
    """Write a file that nothing may replace, whole and durably; FileExistsError if something has that name already."""
    with _new_file(path, mode) as (fresh, file):
        file.write(data.encode() if isinstance(data, str) else data)
        _finish(file, fsync)
        os.link(fresh, path)  # unlike a rename, it demands that the name is free
        fresh.unlink()
    sync_path(path.parent)


class LockHeld(BlockingIOError):
    """Another process, or another part of this one, has the lock; `strerror` says which."""

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


def lock(path: Path, *, wait: bool = False) -> int:
    """Take the lock on the file of that name, made if need be, and write this process's number into it.

    The kernel releases the lock when the descriptor is closed, and so at the end of the process.

    Returns:
        The descriptor.

    Raises:
        LockHeld: the lock is taken and `wait` is false; the message names the process.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        lock_open(descriptor, wait=wait)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as exc:
        owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise LockHeld(exc.errno, f"in use by the running process {owner}", str(path)) from exc
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of `lock` during a block."""
    descriptor = lock(path, wait=wait)
    try:
        yield
    finally:
        os.close(descriptor)


def lock_open(descriptor: int, *, wait: bool = False) -> None:
    """Lock an open file or directory; BlockingIOError if it is locked and `wait` is false."""
    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def unlock_open(descriptor: int) -> None:
    """Release the lock of `lock_open`, and keep the file open."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextmanager
def _new_file(path: Path, mode: int) -> Iterator[tuple[Path, BinaryIO]]:
    """Yield a new file in the directory of `path`; it is removed if the block fails."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield fresh, file
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _finish(file: BinaryIO, sync: Sync | None) -> None:
    file.flush()
    if sync is not None:
        sync(file.fileno())
