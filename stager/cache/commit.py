"""Committing: a filled file is verified and gets its name, in an order that no crash can get between.

Seal, fsync, verify by re-reading, rename, fsync the directory, commit the row. If the disk fails at that, the cache takes
nothing more (docs/adr/0003-cache-write-protocol.md).
"""

from collections.abc import Callable
from pathlib import Path

from catalog.errors import CatalogError
from catalog.image.address import Address
from catalog.image.blanks import blank_digest
from signer.documents import canonical
from stager.cache import sidecars as beside
from stager.cache.disk import DiskOperations
from stager.cache.entries import CacheEntry, CacheItem
from stager.cache.index import CacheIndex
from stager.cache.partial_file import PartialFile, read_back
from stager.cache.recovery import entry_path, make_entry
from stager.content.piece_map import PieceMap
from stager.errors import CacheDegraded, ContentCorrupt


class Committer:
    """What gives files their names in one cache.

    Args:
        root: the cache's directory.
        ledger: where it notes them.
        disk: what writes.
        clock: seconds since the epoch.
    """

    def __init__(self, root: Path, ledger: CacheIndex, disk: DiskOperations, clock: Callable[[], float]) -> None:
        self._root, self._ledger, self._disk, self._clock = root, ledger, disk, clock
        self._degraded: str | None = None

    def commit(self, incoming: PartialFile, thing: CacheItem, guide: PieceMap | None = None) -> CacheEntry:
        """Verify a filled file and give it its name.

        Args:
            incoming: from `Cache.fill`, within its block.
            thing: what it must be. A blank is what its maker made: it has no address to be checked against.
            guide: what is known of the content, to verify it faster; its layer proves itself.

        Raises:
            ContentCorrupt: the file does not have the address; it has been emptied.
            CacheDegraded: the disk failed to keep it; it has been removed.
        """
        self.demand_sound()
        self._durably(incoming.path, lambda: self._seal(incoming))
        digest, what, proved, data_bytes = b"", incoming.key, None, 0
        if isinstance(thing, Address):
            try:
                proved = read_back(incoming, guide if guide is not None else PieceMap.of(thing))
                data_bytes = proved.data_bytes
            except CatalogError as exc:
                incoming.empty()
                raise ContentCorrupt(f"what was staged as {thing} is something else: {exc}") from exc
        else:
            what = canonical(thing).decode()
            digest = blank_digest(incoming.descriptor)
        target = entry_path(self._root, incoming.key)
        entry = make_entry(
            incoming.descriptor, incoming.key, what, data_bytes=data_bytes, digest=digest, now=self._clock()
        )
        if not target.parent.is_dir():
            target.parent.mkdir(exist_ok=True)
            self._durably(incoming.path, lambda: self._disk.sync_directory(target.parent.parent))
        self._disk.rename(incoming.path, target)
        self._durably(target, lambda: self._disk.sync_directory(target.parent))
        with self._ledger.transaction():
            self._ledger.put_entry(entry)
        if proved is not None:
            beside.write_sidecars(self._disk, self._root, incoming.key, proved.layer, proved.hints)
        return entry

    def _seal(self, incoming: PartialFile) -> None:
        self._disk.seal(incoming.descriptor)
        self._disk.sync(incoming.descriptor)

    def _durably(self, path: Path, step: Callable[[], None]) -> None:
        """A step that makes bytes or names durable. After a failed fsync the kernel may call lost pages clean, so it is
        never tried again: the file goes, and the cache takes nothing more."""
        try:
            step()
        except OSError as exc:
            self._degraded = f"{path}: could not be made durable ({exc.strerror})"
            with self._ledger.transaction():
                self._disk.remove(path)
            self.demand_sound(exc)

    def demand_sound(self, cause: BaseException | None = None) -> None:
        """CacheDegraded once the disk has failed to keep something."""
        if self._degraded is not None:
            raise CacheDegraded(
                f"{self._degraded}; nothing more is staged: look at the disk, then start the node again"
            ) from cause
