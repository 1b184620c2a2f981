"""The contents on the catalog's disk. A content is verified before it is stored, and is never written again.

DIRECTORY/
  blobs/ab/<address>          content, sparse where it is zero, mode 0444; ab are the first two digits of the root
  blobs/ab/<address>.map      data map, piece layer and hint index, as computed by `indexing`
  blobs/ab/<address>.layer
  blobs/ab/<address>.hints
  uploads/<image>/<address>   contents that are being uploaded (`upload_store`)
  quarantine/                 unexpected files, for the operator to inspect

The write protocol: a file of the same filesystem is synced, verified by reading it again, made read-only, and renamed
after its accelerators have been written; then the directory is synced. Only then may the database refer to the content.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args

from catalog.content.indexing import HINT_BLOCK, ContentIndex, verify_content
from catalog.errors import NotFound, Unavailable
from catalog.image.address import Address, piece_length
from signer.runtime import files

AcceleratorKind = Literal["map", "layer", "hints"]
"""The accelerators of a content.

map: the data map, one bit per 16 KiB of the content, most significant first, set where it is not zero. An unsigned hint.
layer: the piece layer; check it with `address.root_of_layer`.
hints: XXH3-64 of every 4 KiB of the content, 8 bytes each. An unsigned hint.
"""

ACCELERATORS = get_args(AcceleratorKind)
"""In the order in which they are written."""


class ContentStore:
    """The directory of contents."""

    def __init__(self, root: Path, sync: files.Sync = files.fsync) -> None:
        self.root, self._sync = root, sync
        self.broken: str | None = None
        self._entering = threading.Lock()
        for part in ("blobs", "uploads", "quarantine"):
            (root / part).mkdir(parents=True, exist_ok=True)
        self.sync_path(root)

    def path(self, address: Address) -> Path:
        """The path of a content, present or not."""
        text = str(address)
        return self.root / "blobs" / text[:2] / text

    def open(self, address: Address) -> int:
        """Open a content for reading; returns the descriptor, or raises NotFound."""
        try:
            return os.open(self.path(address), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError as exc:
            raise NotFound(f"the catalog does not have the content {address}") from exc

    def accelerator(self, address: Address, kind: AcceleratorKind) -> bytes:
        """Read an accelerator of a content; NotFound if it is missing."""
        try:
            return self.path(address).with_name(f"{address}.{kind}").read_bytes()
        except FileNotFoundError as exc:
            raise NotFound(f"the catalog does not have the {kind} of the content {address}") from exc

    def sync_path(self, path: Path) -> None:
        """Make a file's content, or the names in a directory, durable.

        After a failure the kernel may have dropped the data that it could not write; the store then accepts no more
        contents until the catalog is restarted and has checked its files.
        """
        files.sync_path(path, self.sync)

    def sync(self, descriptor: int) -> None:
        """As :meth:`sync_path`, for an open file or directory."""
        try:
            self._sync(descriptor)
        except OSError as exc:
            self.broken = f"{self.root}: writing to the disk failed ({exc.strerror})"
            self.check_writable()

    def check_writable(self) -> None:
        """Raise Unavailable if an earlier sync failed."""
        if self.broken:
            raise Unavailable(f"{self.broken}; check the disk, then restart the catalog")

    def enter(self, file: Path, address: Address) -> ContentIndex:
        """Verify a file of the same filesystem and move it into the store as the content of its address.

        Raises:
            ContentMismatch: it has another address; the file is not moved.
        """
        self.check_writable()
        self.sync_path(file)
        index = verify_content(file, address)
        file.chmod(0o444)
        final = self.path(address)
        with self._entering:  # two images may contain the same content
            if not final.parent.is_dir():
                final.parent.mkdir(exist_ok=True)
                self.sync_path(final.parent.parent)
            for kind, data in zip(ACCELERATORS, (index.data_map, index.layer, index.hints), strict=True):
                files.write(final.with_name(f"{address}.{kind}"), data, sync=self.sync, sync_name=False)
            file.replace(final)
            self.sync_path(final.parent)
        return index

    def remove(self, address: Address) -> None:
        """Delete an unreferenced content before its accelerators, which are removed at recovery if they are left alone."""
        final = self.path(address)
        for path in (final, *(final.with_name(f"{address}.{kind}") for kind in ACCELERATORS)):
            path.unlink(missing_ok=True)
        if final.parent.is_dir():
            self.sync_path(final.parent)

    def is_whole(self, address: Address) -> bool:
        """Whether a content and its accelerators exist, with the sizes that the address implies."""
        final = self.path(address)
        try:
            sizes = {kind: final.with_name(f"{address}.{kind}").stat().st_size for kind in ACCELERATORS}
            return final.stat().st_size == address.size and sizes == accelerator_sizes(address)
        except FileNotFoundError:
            return False

    def files(self) -> Iterator[tuple[Address | None, Path]]:
        """The address (None for a file that is not a content) and path of each file; accelerators only without content."""
        for path in sorted((self.root / "blobs").glob("*/*")):
            if path.suffix.removeprefix(".") in ACCELERATORS and path.with_suffix("").is_file():
                continue
            with suppress(ValueError):
                address = Address.parse(path.name)
                if path == self.path(address) and path.is_file():
                    yield address, path
                    continue
            yield None, path

    def quarantine(self, path: Path) -> Path:
        """Move a file to the quarantine; returns its new path."""
        for number in range(1, 1_000_000):
            target = self.root / "quarantine" / f"{path.name}.{number}"
            if not target.exists():
                path.rename(target)
                self.sync_path(target.parent)
                return target
        raise Unavailable(f"{self.root / 'quarantine'}: is full; inspect its files and remove them")


def accelerator_sizes(address: Address) -> dict[str, int]:
    """Bytes of each accelerator of a content: pure functions of its size."""
    return {
        "map": -(-address.leaves // 8),
        "layer": 32 * -(-address.size // piece_length(address.size)),
        "hints": 8 * -(-address.size // HINT_BLOCK),
    }
