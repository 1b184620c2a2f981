"""Commits a filled file: it is verified and renamed to its final path, in an order that is safe against a crash at any step.

Seal, fsync, verify by re-reading, rename, fsync the directory, commit the row. If the disk fails at that, the cache
accepts nothing more (docs/adr/0003-cache-write-protocol.md).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from catalog.errors import CatalogError
from catalog.image.address import Address
from catalog.image.blanks import blank_digest
from signer.documents import canonical
from stager.cache import sidecars
from stager.cache.directory import entry_path
from stager.cache.disk import DiskOperations
from stager.cache.entries import CacheEntry, CacheItem
from stager.cache.index import CacheIndex
from stager.cache.partial_file import PartialFile, read_back
from stager.cache.recovery import make_entry
from stager.content.piece_map import PieceMap
from stager.errors import CacheDegraded, ContentCorrupt


class Committer:
    """Commits files to one cache.

    Args:
        root: the cache's directory.
        index: the cache's index.
        disk: the operations that write.
        clock: seconds since the epoch.
    """

    def __init__(self, root: Path, index: CacheIndex, disk: DiskOperations, clock: Callable[[], float]) -> None:
        self._root, self._index, self._disk, self._clock = root, index, disk, clock
        self._degraded: str | None = None

    def commit(self, incoming: PartialFile, item: CacheItem, piece_map: PieceMap | None = None) -> CacheEntry:
        """Verify a filled file and make it an entry.

        Args:
            incoming: from `Cache.fill`, within its block.
            item: the item that it must be. A blank has no address to be checked against.
            piece_map: the content's piece map, to verify it faster; its layer is proved by the root.

        Raises:
            ContentCorrupt: the file does not match the address; it has been emptied.
            CacheDegraded: the disk failed to make it durable; it has been removed.
        """
        self.check_usable()
        with self._durable(incoming.path):
            self._disk.seal(incoming.descriptor)
            self._disk.sync(incoming.descriptor)
        digest, what, proved, data_bytes = b"", incoming.key, None, 0
        if isinstance(item, Address):
            try:
                proved = read_back(incoming, piece_map if piece_map is not None else PieceMap.of(item))
                data_bytes = proved.data_bytes
            except CatalogError as exc:
                incoming.empty()
                raise ContentCorrupt(f"the file staged as {item} does not match its address: {exc}") from exc
        else:
            what = canonical(item).decode()
            digest = blank_digest(incoming.descriptor)
        target = entry_path(self._root, incoming.key)
        now = self._clock()
        entry = make_entry(incoming.descriptor, incoming.key, what, data_bytes=data_bytes, digest=digest, now=now)
        if not target.parent.is_dir():
            target.parent.mkdir(exist_ok=True)
            with self._durable(incoming.path):
                self._disk.sync_directory(target.parent.parent)
        self._disk.rename(incoming.path, target)
        with self._durable(target):
            self._disk.sync_directory(target.parent)
        with self._index.transaction():
            self._index.put_entry(entry)
        if proved is not None:
            sidecars.write_sidecars(self._disk, self._root, incoming.key, proved.layer, proved.hints)
        return entry

    @contextmanager
    def _durable(self, path: Path) -> Iterator[None]:
        """Make bytes or names durable in the block. After a failed fsync the kernel may consider lost pages clean, so it is
        never tried again: the file is removed, and the cache accepts nothing more."""
        try:
            yield
        except OSError as exc:
            self._degraded = f"{path}: could not be made durable ({exc.strerror})"
            with self._index.transaction():
                self._disk.remove(path)
            self.check_usable(exc)

    def check_usable(self, cause: BaseException | None = None) -> None:
        """Raise CacheDegraded once the disk has failed to make something durable."""
        if self._degraded is not None:
            raise CacheDegraded(
                f"{self._degraded}; staging is disabled: check the disk, then restart the node"
            ) from cause
