"""Contents on the catalog's disk. Nothing enters unverified, and what has entered is never written again.

DIRECTORY/
  blobs/ab/<address>          content, sparse where it is zero, mode 0444; ab are the first two digits of the root
  blobs/ab/<address>.map      data map, piece layer and hint index: what `measuring` found in it
  blobs/ab/<address>.layer
  blobs/ab/<address>.hints
  uploads/<image>/<address>   what is arriving (`uploads`)
  quarantine/                 what was found and cannot be explained, for the operator to look at

The write protocol: the file lies in the same filesystem, is synced, verified by reading it again, made read-only, and
renamed after its accelerators; then the directory is synced, and only then may the database name it.
"""

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from catalog.content import indexing as measuring
from catalog.content.indexing import ContentIndex
from catalog.errors import NotFound, Unavailable
from catalog.image.address import Address, piece_length
from signer.runtime import files

ACCELERATORS = ("map", "layer", "hints")
"""The accelerators beside each content, in the order in which they are written."""


@dataclass(frozen=True)
class StoredFile:
    """A file in the store: the content's address if its name is one, and its path."""

    address: Address | None
    path: Path


class ContentStore:
    """The directory of contents."""

    def __init__(self, root: Path, sync: files.Sync = files.fsync) -> None:
        self.root, self._sync = root, sync
        self.broken: str | None = None
        self._entering = threading.Lock()
        for part in ("blobs", "uploads", "quarantine"):
            (root / part).mkdir(parents=True, exist_ok=True)
        self.sync_directory(root)

    def path(self, address: Address) -> Path:
        """Where the content is or would be."""
        text = str(address)
        return self.root / "blobs" / text[:2] / text

    def open(self, address: Address) -> int:
        """A descriptor of the content, for reading; NotFound if it is not there."""
        try:
            return os.open(self.path(address), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError as exc:
            raise NotFound(f"the content {address} is not here") from exc

    def beside(self, address: Address, kind: str) -> bytes:
        """One of the content's accelerators, by its kind."""
        try:
            return self.path(address).with_name(f"{address}.{kind}").read_bytes()
        except FileNotFoundError as exc:
            raise NotFound(f"the {kind} of the content {address} is not here") from exc

    def sync_file(self, path: Path) -> None:
        """Make a file's content durable. After a failure the kernel may have forgotten what it could not write: the
        store then takes nothing more until it is restarted and has checked itself.
        """
        files.sync_path(path, self.sync)

    def sync(self, descriptor: int) -> None:
        """As :meth:`sync_file`, on an open file or directory."""
        try:
            self._sync(descriptor)
        except OSError as exc:
            self.broken = f"{self.root}: writing to the disk failed ({exc.strerror})"
            raise Unavailable(f"{self.broken}; look at the disk, then start the catalog again") from exc

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable."""
        self.sync_file(path)

    def check_writable(self) -> None:
        """Unavailable if an earlier sync failed."""
        if self.broken:
            raise Unavailable(f"{self.broken}; look at the disk, then start the catalog again")

    def enter(self, file: Path, address: Address) -> ContentIndex:
        """Verify a file of this filesystem and make it the content of its address; the file is gone from its old place.

        Raises:
            ContentMismatch: it has another address; the file stays where it is.
        """
        self.check_writable()
        self.sync_file(file)
        measured = measuring.verify_content(file, address)
        file.chmod(0o444)
        final = self.path(address)
        with self._entering:  # two images may bring the same content at the same time
            self._make(final.parent)
            for kind, data in zip(ACCELERATORS, (measured.data_map, measured.layer, measured.hints), strict=True):
                files.write(final.with_name(f"{address}.{kind}"), data, sync=self.sync, sync_name=False)
            file.replace(final)
            self.sync_directory(final.parent)
        return measured

    def remove(self, address: Address) -> None:
        """Delete a content that nothing names, the content first: without it, accelerators are strays."""
        final = self.path(address)
        for path in (final, *(final.with_name(f"{address}.{kind}") for kind in ACCELERATORS)):
            path.unlink(missing_ok=True)
        if final.parent.is_dir():
            self.sync_directory(final.parent)

    def is_whole(self, address: Address) -> bool:
        """Whether content and accelerators are there, with the sizes that the address implies."""
        final = self.path(address)
        try:
            sizes = {kind: final.with_name(f"{address}.{kind}").stat().st_size for kind in ACCELERATORS}
            return final.stat().st_size == address.size and sizes == accelerator_sizes(address)
        except FileNotFoundError:
            return False

    def files(self) -> Iterator[StoredFile]:
        """Every file among the contents. An accelerator belongs to its content: it is found only where that is missing."""
        for path in sorted((self.root / "blobs").glob("*/*")):
            if path.suffix.removeprefix(".") in ACCELERATORS and path.with_suffix("").is_file():
                continue
            try:
                address = Address.parse(path.name)
            except ValueError:
                yield StoredFile(None, path)
                continue
            yield StoredFile(address if path == self.path(address) and path.is_file() else None, path)

    def quarantine(self, path: Path) -> Path:
        """Put a file aside, out of everyone's way; returns where it is now."""
        for number in range(1, 1_000_000):
            target = self.root / "quarantine" / f"{path.name}.{number}"
            if not target.exists():
                path.rename(target)
                self.sync_directory(target.parent)
                return target
        raise Unavailable(f"{self.root / 'quarantine'}: is full; look at what lies there and remove it")

    def _make(self, directory: Path) -> None:
        if not directory.is_dir():
            directory.mkdir(exist_ok=True)
            self.sync_directory(directory.parent)


def accelerator_sizes(address: Address) -> dict[str, int]:
    """Bytes of each accelerator of a content: pure functions of its size."""
    return {
        "map": -(-address.leaves // 8),
        "layer": 32 * -(-address.size // piece_length(address.size)),
        "hints": 8 * -(-address.size // measuring.HINT_BLOCK),
    }
