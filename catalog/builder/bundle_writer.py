"""Atomic writing of bundles: a bundle appears under its name when it is complete, or not at all.

The draft is in the directory of its target, `.NAME.XXXXXXXX.draft`, locked while its process runs. The next process that makes the same
target removes the drafts of killed ones.
"""

import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    """A bundle that is being made; see :func:`draft_bundle`.

    Attributes:
        root: its directory until it is finished.
        scratch: a directory for intermediate files, removed at the end.
    """

    def __init__(self, root: Path, target: Path) -> None:
        self.root, self._target = root, target
        self.scratch = root / "scratch"
        self._contents = root / "blobs"
        self.scratch.mkdir()
        self._contents.mkdir()

    def add_range(self, source: int, offset: int, length: int, advance: Advance = ignore_progress) -> ContentIndex:
        """Copy a range of an open file into the bundle as a content; zeros become holes."""
        path = self.scratch / "range"
        with path.open("xb") as file:
            copy_range(source, offset, length, file.fileno(), advance)
        return self.adopt(path)

    def add_file(self, path: Path, advance: Advance = ignore_progress) -> ContentIndex:
        """Copy a file into the bundle as a content; NotFound if it does not exist, Malformed if it is empty."""
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size == 0:
                    raise Malformed(f"{path}: is empty; a content has at least one byte")
                return self.add_range(file.fileno(), 0, size, advance)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as exc:
            raise NotFound(f"{path}: no such file") from exc

    def adopt(self, path: Path) -> ContentIndex:
        """Move a file from `scratch` to the contents; Malformed if it is empty."""
        index = index_file(path)
        path.rename(self.content(index.address))
        return index

    def content(self, address: Address) -> Path:
        """The path of a content in the draft."""
        return self._contents / str(address)

    def finish(self, manifest: Manifest) -> Bundle:
        """Write the manifest and rename the directory to its target.

        Raises:
            Conflict: the target was created in the meantime.
        """
        shutil.rmtree(self.scratch)
        wanted = {str(address) for address in manifest.contents()}
        for path in self._contents.iterdir():
            if path.name not in wanted:
                path.unlink()
        Bundle.create(self.root, manifest)
        for path in (*self._contents.iterdir(), self.root / "manifest.json", self._contents, self.root):
            files.sync_path(path)
        try:
            self.root.rename(self._target)
        except OSError as exc:
            raise Conflict(f"{self._target}: was created in the meantime; choose another directory") from exc
        files.sync_path(self._target.parent)
        return Bundle(self._target, manifest)


@contextmanager
def draft_bundle(target: Path) -> Iterator[BundleDraft]:
    """Make a bundle. If the block ends before `finish`, nothing is left behind.

    Raises:
        Conflict: the target exists and is not an empty directory.
        NotFound: its parent directory does not exist.
        Unavailable: it cannot be written, for lack of space or permission.
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
        raise Unavailable(f"{target}: cannot be written: {exc.strerror}; no files were left") from exc


@contextmanager
def _locked_directory(target: Path) -> Iterator[Path]:
    """Make a locked directory with the same parent as `target`, which is removed at the end if it still has its name."""
    while True:
        root = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".draft", dir=target.parent))
        with files.opened(root, os.O_DIRECTORY) as lock:
            try:
                files.lock_open(lock, wait=True)
                if not root.exists():  # another process removed it as stale before it was locked
                    continue
                root.chmod(0o755)
                yield root
                return
            finally:
                shutil.rmtree(root, ignore_errors=True)


def _check_free(target: Path) -> None:
    try:
        taken = any(target.iterdir())
    except FileNotFoundError:
        taken = target.is_symlink()
    except NotADirectoryError:
        taken = True
    if taken:
        raise Conflict(f"{target}: exists and is not an empty directory; choose another with -o")
    if not target.parent.is_dir():
        raise NotFound(f"{target.parent}: no such directory; create it first")


def _sweep(target: Path) -> None:
    """Remove drafts of the same target whose processes have ended."""
    for stale in target.parent.glob(f".{glob.escape(target.name)}.????????.draft"):
        # A BlockingIOError means that its process is running.
        with suppress(OSError), files.opened(stale, os.O_DIRECTORY) as lock:
            files.lock_open(lock)
            shutil.rmtree(stale, ignore_errors=True)
