"""Resumable uploads: one sparse file per publication and content, filled range by range in any order.

A range is acknowledged only after it is synced. A file is not written to while it is verified, so that the verified bytes
are those that enter the store.
"""

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from catalog.content.content_store import ContentStore
from catalog.errors import Unavailable
from catalog.image.address import Address
from signer.runtime import files

KEEP_FREE = 256 << 20
"""Bytes of the filesystem that uploads leave free for the database to write, and for repairs."""

SEAL_SECONDS = 30.0
"""Seconds for which verification waits for ranges that are being received."""


class UploadStore:
    """The files of all uploads. An upload is identified by (image ID, address)."""

    def __init__(
        self, contents: ContentStore, free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
    ) -> None:
        self._contents, self._free = contents, free
        self._root = contents.root / "uploads"
        self._changed = threading.Condition()
        self._writers: Counter[tuple[str, Address]] = Counter()
        self._sealed: set[tuple[str, Address]] = set()

    def path(self, image_id: str, address: Address) -> Path:
        """The path of an upload's file."""
        return self._directory(image_id) / str(address)

    @contextmanager
    def arriving(self, image_id: str, address: Address, start: int, end: int) -> Iterator["UploadRange"]:
        """Receive a range: the block writes its bytes, and then calls `keep`.

        Raises:
            Unavailable: the content is being verified, or the disk is too full.
        """
        key = (image_id, address)
        with self._changed:
            if key in self._sealed:
                raise Unavailable(f"the content {address} is being verified; retry in a moment")
            self._writers[key] += 1
        try:
            with self._opened(image_id, address, end - start) as descriptor:
                yield UploadRange(self._contents, descriptor, start, end)
        finally:
            with self._changed:
                self._writers[key] -= 1
                if not self._writers[key]:
                    del self._writers[key]
                self._changed.notify_all()

    @contextmanager
    def sealed(self, image_id: str, address: Address) -> Iterator[Path]:
        """Exclude writers during the block; yields the upload's file, which is created (zeros) if nothing was sent."""
        key = (image_id, address)
        deadline = time.monotonic() + SEAL_SECONDS
        with self._changed:
            while key in self._sealed or self._writers[key]:
                if not self._changed.wait(deadline - time.monotonic()):
                    raise Unavailable(
                        f"ranges of the content {address} are still being received; retry when all are sent"
                    )
            self._sealed.add(key)
        try:
            with self._opened(image_id, address, 0):
                pass
            yield self.path(image_id, address)
        finally:
            with self._changed:
                self._sealed.discard(key)
                self._changed.notify_all()

    def is_busy(self, image_id: str) -> bool:
        """Whether any content of the image is being received or verified."""
        with self._changed:
            return any(key[0] == image_id for key in (*self._sealed, *(+self._writers)))

    def drop(self, image_id: str, address: Address) -> None:
        """Delete the upload of a content."""
        self.path(image_id, address).unlink(missing_ok=True)

    def drop_image(self, image_id: str) -> None:
        """Delete all uploads of an image."""
        shutil.rmtree(self._directory(image_id), ignore_errors=True)

    def files(self) -> Iterator[tuple[str, Path]]:
        """(image ID, path) of each file; the image ID is empty if the directory's name is not one."""
        for directory in sorted(self._root.iterdir()):
            image_id = f"sha256:{directory.name}" if len(directory.name) == 64 else ""
            for path in sorted(directory.iterdir()) if directory.is_dir() else (directory,):
                yield image_id, path

    def tidy(self) -> None:
        """Remove empty directories."""
        for directory in self._root.iterdir():
            if directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()

    def _directory(self, image_id: str) -> Path:
        return self._root / image_id.removeprefix("sha256:")

    @contextmanager
    def _opened(self, image_id: str, address: Address, length: int) -> Iterator[int]:
        self._contents.check_writable()
        if self._free(self._root) < length + KEEP_FREE:
            raise Unavailable(
                f"the catalog's disk is full: less than {KEEP_FREE >> 20} MiB would be left; try again later"
            )
        path = self.path(image_id, address)
        fresh = not path.exists()
        path.parent.mkdir(exist_ok=True)
        with files.opened(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW) as descriptor:
            if fresh:
                os.ftruncate(descriptor, address.size)
                # The file names must survive a crash of the machine, as acknowledged ranges depend on them.
                self._contents.sync_path(path.parent)
                self._contents.sync_path(self._root)
            yield descriptor


class UploadRange:
    """A range that is being received: write its bytes in order, then call `keep`."""

    def __init__(self, contents: ContentStore, descriptor: int, start: int, end: int) -> None:
        self._contents, self._descriptor = contents, descriptor
        self.start, self.end, self._position = start, end, start

    def write(self, data: bytes) -> None:
        """Write the next bytes; ValueError past the end of the range."""
        view = memoryview(data)
        if self._position + len(view) > self.end:
            raise ValueError("more bytes than the range has")
        try:
            while view:
                written = os.pwrite(self._descriptor, view, self._position)
                self._position += written
                view = view[written:]
        except OSError as exc:
            raise Unavailable(f"the catalog cannot store more data ({exc.strerror}); try again later") from exc

    def keep(self) -> None:
        """Make the range durable; ValueError if bytes are missing."""
        if self._position != self.end:
            raise ValueError("fewer bytes than the range has")
        self._contents.sync(self._descriptor)
