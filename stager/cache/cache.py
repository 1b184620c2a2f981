"""The node's cache: verified contents by address, blanks by recipe; one owner, leases, a hard quota.

    partitions/<first two hex digits>/<address>    verified, read-only, sparse where zero
    blanks/<recipe digest>                         made here, read-only, sparse
    incoming/<key>                                 partial files; the bytes on the disk are the progress
    trash/                                         removed entries whose files are kept for a while
    beside/                                        piece layers and hints of the contents in partitions/
    ledger.db                                      the index
    lock

A content gets its name by one protocol: reserve, allocate, fill, seal, fsync, verify by re-reading, rename, fsync the
directory, commit the row. Presence is decided, and the lease taken, in one transaction, and eviction chooses under the
same lock, so an entry that was reported present stays while the lease lasts (docs/adr/0003-cache-write-protocol.md).
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from catalog.content.indexing import verify_content
from catalog.errors import CatalogError
from catalog.image.address import Address
from catalog.image.blanks import blank_digest
from signer.runtime.closing import Closable
from signer.runtime.progress import Advance, ignore_progress
from stager.cache.commit import Committer
from stager.cache.directory import INCOMING, check_quota, entry_path, lock_cache
from stager.cache.disk import DiskOperations
from stager.cache.entries import (
    FOREVER,
    AcquireResult,
    CacheEntry,
    CacheItem,
    CacheKey,
    CacheLease,
    CacheUsage,
    Donor,
    TrashedEntry,
    cache_key,
    find_difference,
)
from stager.cache.index import CacheIndex
from stager.cache.partial_file import PartialFile
from stager.cache.quota import CacheQuota
from stager.cache.recovery import recover_cache
from stager.content.piece_map import PieceMap
from stager.errors import DISK_FULL_ERRNOS, EntryChanged, InUse, NotCached, to_stager_error, translate_os_errors

WRONG = "wrong-"
"""Prefix, in the trash, of the names of entries that failed a check; they are never restored."""


class Cache(Closable):
    """A cache directory and its index, owned by this process until closed.

    Attributes:
        root: the directory.
        quota: bytes that entries may allocate, including reservations for entries to come.
        recovered: the repairs that were made when the cache was opened.
    """

    def __init__(
        self,
        root: Path,
        quota: int,
        clock: Callable[[], float],
        disk: DiskOperations | None = None,
        *,
        grace: float = 0.0,
        shares: Mapping[str, int] | None = None,
    ) -> None:
        """Open or make a cache.

        Args:
            root: a directory that nothing else writes to.
            quota: bytes.
            clock: the time in seconds since the epoch; leases outlive the process, so it is wall-clock time.
            disk: the operations that write to the directory; tests pass one that fails.
            grace: seconds for which entries that were evicted by hand, or failed a check, stay in the trash.
            shares: bytes reserved for each VO (see `eviction`).

        Raises:
            CacheBusy: another process owns the cache.
            CacheUnusable: the directory cannot be used, or the quota is larger than its filesystem.
        """
        self.root, self.quota, self.grace = root.absolute(), quota, grace
        self._clock, self._disk = clock, disk or DiskOperations()
        self._fills: dict[CacheKey, threading.Lock] = {}
        self._owned = lock_cache(self.root)
        try:
            check_quota(self.root, quota)
            self._index = CacheIndex(self.root / "ledger.db")
            try:
                self.recovered = recover_cache(self.root, self._index, self._disk, clock())
            except BaseException:
                self._index.close()
                raise
            self._committer = Committer(self.root, self._index, self._disk, clock)
            self._cache_quota = CacheQuota(self.root, quota, self._index, self._disk, clock, shares)
        except OSError as exc:
            os.close(self._owned)
            raise to_stager_error(self.root, exc) from exc
        except BaseException:
            os.close(self._owned)
            raise

    def close(self) -> None:
        """Close the cache and release its lock. Leases stay."""
        if self._owned >= 0:
            self._index.close()
            os.close(self._owned)
            self._owned = -1

    def on_removal(self, listener: Callable[[CacheKey], None]) -> None:
        """Set the listener that is called with the key of each removed entry, under the cache's lock: it must not wait."""
        self._cache_quota.removed = listener

    # Leases

    def acquire(self, wanted: Iterable[CacheItem], holder: str, ttl: float) -> AcquireResult:
        """Lease items, present or not, for `ttl` seconds from now, and report which of them are present.

        Missing items are leased too, so that they are held from the moment they are committed.
        """
        present, missing, fresh = [], [], []
        now = self._clock()
        with self._index.transaction():
            for item in dict.fromkeys(wanted):
                key = cache_key(item)
                if self._index.lease(holder, key, min(now + ttl, FOREVER)):
                    fresh.append(item)
                if self._present(key):
                    self._index.used(key, now)
                    present.append(item)
                else:
                    missing.append(item)
        return AcquireResult(tuple(present), tuple(missing), tuple(fresh))

    def renew(self, holder: str, ttl: float) -> int:
        """Let all leases of a holder end `ttl` seconds from now; returns the number of leases."""
        with self._index.transaction():
            return self._index.renew(holder, self._clock() + ttl)

    def release(self, holder: str, only: Iterable[CacheItem] | None = None) -> int:
        """End a holder's leases, all or `only` those on some items; returns how many."""
        with self._index.transaction():
            return self._index.release(holder, None if only is None else [cache_key(item) for item in only])

    def leases(self) -> list[CacheLease]:
        """Return the leases that have not ended."""
        now = self._clock()
        with self._index.transaction():
            return [lease for lease in self._index.leases() if lease.expires_at > now]

    def holders(self) -> dict[str, float]:
        """Return the holders of leases, and when the first lease of each ends, in seconds since the epoch."""
        first: dict[str, float] = {}
        for lease in self.leases():
            first[lease.holder] = min(lease.expires_at, first.get(lease.holder, lease.expires_at))
        return first

    # Entries

    def entries(self) -> list[CacheEntry]:
        """Return all entries, ordered by key."""
        with self._index.transaction():
            return self._index.entries()

    def entry(self, item: CacheItem | CacheKey) -> CacheEntry:
        """Return the row of an entry; NotCached if there is none."""
        with self._index.transaction():
            entry = self._index.entry(key := cache_key(item))
        if entry is None:
            raise NotCached(f"{self.root}: {key} is not in the cache; stage an image that uses it")
        return entry

    def path(self, item: CacheItem) -> Path:
        """Return the absolute path of an entry's file; NotCached if there is none."""
        return entry_path(self.root, self.entry(item).key)

    def donors(self) -> list[Donor]:
        """Return all contents, the last used first: new contents may be filled from them."""
        contents = sorted((one for one in self.entries() if not one.digest), key=lambda one: -one.last_used)
        return [Donor(Address.parse(one.key), entry_path(self.root, one.key)) for one in contents]

    def usage(self) -> CacheUsage:
        """Return how full the cache is."""
        now = self._clock()
        with self._index.transaction():
            trash = sum(one.entry.allocated for one in self._index.trash())
            entries = self._index.entries()
            until = self._index.leased_until()
            reserved = sum(count for count, _ in self._index.reserved().values())
        leased = sum(entry.allocated for entry in entries if until.get(entry.key, 0) > now)
        return CacheUsage(self.quota, sum(entry.allocated for entry in entries), reserved, leased, trash)

    def check(self, item: CacheItem | CacheKey, *, full: bool = False, advance: Advance = ignore_progress) -> None:
        """Check that an entry is the file that was verified: size, inode, mtime and a sample of its bytes.

        Args:
            item: content or a blank, or the key of one.
            full: also hash all of it again.
            advance: called with the number of bytes just hashed, when `full`.

        Raises:
            NotCached: there is no such entry.
            EntryChanged: it is another file, or has other bytes. The entry is dropped then; leases stay, and staging
                fetches it again.
        """
        entry = self.entry(item)
        path = entry_path(self.root, entry.key)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as exc:
            self.reject(entry, f"cannot be opened ({exc.strerror})")
        try:
            reason = find_difference(descriptor, entry)
            if reason is None and full:
                reason = _content_difference(path, descriptor, entry, advance)
        except OSError as exc:
            reason = f"cannot be read ({exc.strerror})"
        finally:
            os.close(descriptor)
        if reason is not None:
            self.reject(entry, reason)
        if full:
            with self._index.transaction():
                self._index.verified(entry.key, self._clock())

    def evict(self, key: CacheKey) -> int:
        """Remove an entry without leases; returns the bytes freed.

        Raises:
            NotCached: there is no such entry.
            InUse: it is leased, or being staged.
        """
        entry = self.entry(key)
        with self._index.lock:
            holders = sorted({lease.holder for lease in self.leases() if lease.key == entry.key})
            if holders or self._cache_quota.busy(entry.key):
                who = ", ".join(holders[:3]) or "a staging in progress"
                raise InUse(f"{self.root}: {entry.what} is in use by {who}; end that first")
            with translate_os_errors(self.root):
                if self.grace:
                    self._cache_quota.move_to_trash(entry, entry.key, "was evicted by hand")
                else:
                    self._cache_quota.remove([entry.key])
        return entry.allocated

    def trash(self) -> list[TrashedEntry]:
        """Return the entries in the trash, the oldest first."""
        with self._index.transaction():
            return self._index.trash()

    def clean_trash(self, *, everything: bool = False) -> int:
        """Delete entries from the trash after their grace time, or all of them; returns how many."""
        with translate_os_errors(self.root):
            return self._cache_quota.clean_trash(self._clock() - (0.0 if everything else self.grace))

    # Scrubbing

    def scrubbed(self, key: CacheKey) -> int:
        """Return the scrubber's position in an entry, in bytes."""
        with self._index.transaction():
            return self._index.scrubbed(key)

    def put_scrubbed(self, key: CacheKey, position: int, *, whole: bool = False) -> None:
        """Store the scrubber's position; `whole` when all of the entry was found correct."""
        with self._index.transaction():
            self._index.put_scrubbed(key, 0 if whole else position)
            if whole:
                self._index.verified(key, self._clock())

    def reject(self, entry: CacheEntry, reason: str) -> None:
        """Remove an entry that failed a check; its file stays in the trash for the grace time, for inspection.

        Raises:
            EntryChanged: always.
        """
        with self._index.lock:
            with self._index.transaction():
                now = self._index.entry(entry.key)
            if now is not None and now.inode == entry.inode and now.verified_at == entry.verified_at:
                with translate_os_errors(self.root):
                    if self.grace and entry_path(self.root, entry.key).is_file():
                        self._cache_quota.move_to_trash(entry, WRONG + entry.key, reason)
                    else:
                        self._cache_quota.remove([entry.key])
        raise EntryChanged(
            f"{entry_path(self.root, entry.key)}: {reason} since it was verified; entry dropped, stage the image again"
        )

    # Filling

    @contextmanager
    def reserve(self, sizes: Mapping[CacheItem, int], vo: str = "") -> Iterator[None]:
        """Reserve space, and protect items from eviction while the block runs.

        Args:
            sizes: for each item the bytes that it will allocate; 0 for an item that is present and only has to stay.
            vo: the VO whose image needs them.

        Raises:
            QuotaExceeded, DiskFull: evicting everything without a lease would not be enough; nothing was evicted.
            CacheDegraded: the disk has failed before.
        """
        keys = {cache_key(item): count for item, count in sizes.items()}
        with self._index.transaction():
            self._committer.check_usable()
            self._cache_quota.enter(keys)
            if vo:
                self._index.claim(vo, keys)
        try:
            with translate_os_errors(self.root):
                self._cache_quota.make_space(keys, vo)
            yield
        finally:
            with translate_os_errors(self.root), self._index.transaction():
                self._cache_quota.leave(keys)

    def grow(self, item: CacheItem, extra: int) -> None:
        """Reserve `extra` bytes more for an item that is being filled; errors as :meth:`reserve`."""
        key = cache_key(item)
        with self._index.transaction():
            reserved = self._index.reserved().get(key, (0, 0.0))[0]
        with translate_os_errors(self.root):
            self._cache_quota.make_space({key: reserved + extra})

    @contextmanager
    def fill(self, item: CacheItem) -> Iterator[PartialFile | None]:
        """Open the partial file of an item, with the bytes that an earlier attempt left; one thread at a time.

        Yields None when the item is present, perhaps because another thread has just committed it. If the block ends
        without a commit, the file stays for the next attempt, in this process or another.
        """
        key, size = cache_key(item), item.size
        with self._index.transaction():
            lock = self._fills.setdefault(key, threading.Lock())
        with lock:
            with self._index.transaction():
                present = self._present(key)
            if present:
                yield None
                return
            with translate_os_errors(self.root):
                incoming = PartialFile(self._disk, key, self.root / INCOMING / key, size)
            try:
                yield incoming
            except OSError as exc:
                if exc.errno in DISK_FULL_ERRNOS:
                    incoming.empty()  # free the space of a file that cannot be completed
                raise to_stager_error(self.root, exc) from exc
            finally:
                incoming.close()

    def commit(self, incoming: PartialFile, item: CacheItem, piece_map: PieceMap | None = None) -> CacheEntry:
        """Verify a filled file and make it an entry; see `Committer.commit`."""
        return self._committer.commit(incoming, item, piece_map)

    # Internals

    def _present(self, key: CacheKey) -> bool:
        """Whether there is an entry with its file, perhaps in the trash; a row whose file was removed is dropped."""
        if self._index.entry(key) is None:
            return self._cache_quota.restore(key)
        if entry_path(self.root, key).is_file():
            return True
        self._index.drop_entry(key)
        return False


def _content_difference(path: Path, descriptor: int, entry: CacheEntry, advance: Advance) -> str | None:
    if entry.digest:
        advance(entry.size)
        return None if blank_digest(descriptor) == entry.digest else "has other bytes"
    try:
        verify_content(path, Address.parse(entry.key), advance)
    except CatalogError as exc:
        return f"has other bytes ({exc})"
    return None
