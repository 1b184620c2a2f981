"""An image directory that is being made: all of it appears under its name at the end, or nothing of it ever does.

The draft lies beside its target, `.NAME.XXXXXXXX.draft`, locked as long as its maker lives. What a killed maker left is swept
away by the next one that makes the same target.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from catalog.content.indexing import ContentIndex, index_file
from catalog.content.sparse_files import copy_range
from catalog.errors import Conflict, Malformed, NotFound, Unavailable
from catalog.image.address import Address
from catalog.image.bundle import Bundle
from catalog.image.manifest import Manifest
from signer.runtime import files
from signer.runtime.progress import Advance, ignore_progress

_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


class BundleDraft:
    """A directory in the making; see :func:`drafting`.

    Attributes:
        root: where it lies until it is finished.
        scratch: a directory for intermediate files, gone at the end.
    """

    def __init__(self, root: Path, target: Path) -> None:
        self.root, self._target = root, target
        self.scratch = root / "scratch"
        self._contents = root / "blobs"
        self.scratch.mkdir()
        self._contents.mkdir()

    def add_range(self, source: int, offset: int, length: int, advance: Advance = ignore_progress) -> ContentIndex:
        """Copy a range of an open file in as content; zeros become holes."""
        path = self.scratch / "range"
        with path.open("xb") as file:
            copy_range(source, offset, length, file.fileno(), advance)
        return self.adopt(path)

    def add_file(self, path: Path, advance: Advance = ignore_progress) -> ContentIndex:
        """Copy a file in as content; NotFound if there is none, Malformed if it is empty."""
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size == 0:
                    raise Malformed(f"{path}: is empty; content has at least one byte")
                return self.add_range(file.fileno(), 0, size, advance)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as exc:
            raise NotFound(f"{path}: there is no such file") from exc

    def adopt(self, path: Path) -> ContentIndex:
        """Make a file that lies in `scratch` content under its address. Empty files are refused as Malformed."""
        measured = index_file(path)
        path.rename(self._contents / str(measured.address))
        return measured

    def discard(self, address: Address) -> None:
        """Forget content that turned out to be needless."""
        (self._contents / str(address)).unlink()

    def content(self, address: Address) -> Path:
        """Where content lies now."""
        return self._contents / str(address)

    def finish(self, manifest: Manifest) -> Bundle:
        """Write the manifest and give the directory its name.

        Raises:
            Conflict: something has come to lie there in the meantime.
        """
        shutil.rmtree(self.scratch)
        wanted = {str(address) for address in manifest.contents()}
        for blob in self._contents.iterdir():
            if blob.name not in wanted:
                blob.unlink()
        Bundle.create(self.root, manifest)
        for path in (*self._contents.iterdir(), self.root / "manifest.json", self._contents, self.root):
            files.sync_path(path)
        try:
            self.root.rename(self._target)
        except OSError as exc:
            raise Conflict(f"{self._target}: exists by now; choose another directory") from exc
        files.sync_path(self._target.parent)
        return Bundle(self._target, manifest)


@contextmanager
def draft_bundle(target: Path) -> Iterator[BundleDraft]:
    """Make an image directory. Whatever ends the block before `finish` leaves nothing behind.

    Raises:
        Conflict: the target exists and is not an empty directory.
        NotFound: its parent directory does not exist.
        Unavailable: it cannot be written, for want of space or permission.
    """
    target = target.absolute()
    _check_free(target)
    _sweep(target)
    try:
        with _locked_directory(target) as root:
            yield BundleDraft(root, target)
    except OSError as exc:
        if exc.errno not in _CANNOT_WRITE:
            raise
        raise Unavailable(f"{target}: cannot be written: {exc.strerror}; nothing was left there") from exc


@contextmanager
def _locked_directory(target: Path) -> Iterator[Path]:
    """A new directory beside `target`, locked, and removed at the end if it still has its name."""
    while True:
        root = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".draft", dir=target.parent))
        lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            files.lock_open(lock, wait=True)
            if not root.exists():  # another maker took it for one left behind, before it was locked
                continue
            root.chmod(0o755)
            yield root
            return
        finally:
            os.close(lock)
            shutil.rmtree(root, ignore_errors=True)


def _check_free(target: Path) -> None:
    try:
        taken = any(target.iterdir())
    except FileNotFoundError:
        taken = target.is_symlink()
    except NotADirectoryError:
        taken = True
    if taken:
        raise Conflict(f"{target}: exists and is not an empty directory; choose another one with -o")
    if not target.parent.is_dir():
        raise NotFound(f"{target.parent}: there is no such directory; make it first")


def _sweep(target: Path) -> None:
    """Remove drafts of the same target whose makers are gone."""
    for left in target.parent.glob(f".{_escaped(target.name)}.????????.draft"):
        try:
            lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            files.lock_open(lock)
        except OSError:  # its maker lives
            continue
        else:
            shutil.rmtree(left, ignore_errors=True)
        finally:
            os.close(lock)


def _escaped(name: str) -> str:
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)
