"""The node's cache: verified content under its address, blanks under their recipe; one owner, leases, a hard quota.

    partitions/<first two hex digits>/<address>    verified, read-only, sparse where zero
    blanks/<recipe digest>                         made here, read-only, sparse
    incoming/<key>                                 arriving; what is on the disk is the progress
    trash/                                         left, and not removed yet
    beside/                                        piece layers and hints of what is in partitions/
    ledger.db, lock

Content gets its name by one protocol: reserve, allocate, fill, seal, fsync, verify by re-reading, rename, fsync the
directory, commit the row. "Present" is decided, and the lease taken, in one transaction, and eviction chooses under the
same lock, so nothing that somebody was told is present goes away while the lease lasts
(docs/adr/0003-cache-write-protocol.md).
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from catalog.content.indexing import verify_content
from catalog.errors import CatalogError
from catalog.image.address import Address
from catalog.image.blanks import blank_digest
from signer.runtime.progress import Advance, ignore_progress
from stager.cache.commit import Committer
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
from stager.cache.lock import check_quota, lock_cache
from stager.cache.os_errors import DISK_FULL_ERRNOS, to_stager_error, translate_os_errors
from stager.cache.partial_file import PartialFile
from stager.cache.quota import CacheQuota
from stager.cache.recovery import INCOMING, entry_path, recover_cache
from stager.content.piece_map import PieceMap
from stager.errors import EntryChanged, InUse, NotCached

WRONG = "wrong-"
"""Before the name, in the trash, of what was found to have other bytes; it never comes back from there."""


class Cache:
    """A cache directory and its ledger, owned by this process until closed.

    Attributes:
        root: the directory.
        quota: bytes that entries may allocate, together with what is reserved for those to come.
        recovered: what was found and mended when the cache was opened.
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
            disk: what writes to the directory; tests hand in one that fails.
            grace: seconds for which what somebody evicted, or what was found wrong, stays in the trash.
            shares: by VO, the bytes that are its own (see `eviction`).

        Raises:
            CacheBusy: another process owns it.
            CacheUnusable: it cannot be used, or the quota is more than its filesystem has.
        """
        self.root, self.quota, self.grace = root.absolute(), quota, grace
        self._clock, self._disk = clock, disk or DiskOperations()
        self._fills: dict[CacheKey, threading.Lock] = {}
        self._owned = lock_cache(self.root)
        try:
            check_quota(self.root, quota)
            self._ledger = CacheIndex(self.root / "ledger.db")
            try:
                self.recovered = recover_cache(self.root, self._ledger, self._disk, clock())
            except BaseException:
                self._ledger.close()
                raise
            self._committing = Committer(self.root, self._ledger, self._disk, clock)
            self._allowance = CacheQuota(self.root, quota, self._ledger, self._disk, clock, shares)
        except OSError as exc:
            os.close(self._owned)
            raise to_stager_error(self.root, exc) from exc
        except BaseException:
            os.close(self._owned)
            raise

    def close(self) -> None:
        """Give the cache up. Leases stay."""
        if self._owned >= 0:
            self._ledger.close()
            os.close(self._owned)
            self._owned = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def on_gone(self, listener: Callable[[CacheKey], None]) -> None:
        """Have a listener called with the key of each entry that leaves, under the cache's lock: it must not wait."""
        self._allowance.on_gone(listener)

    # Leases

    def acquire(self, wanted: Iterable[CacheItem], holder: str, ttl: float) -> AcquireResult:
        """Lease things, present or not, for `ttl` seconds from now, and learn which of them are present.

        What is missing is leased too, so it is held from the moment that it is committed.
        """
        present, missing, fresh = [], [], []
        now = self._clock()
        with self._ledger.transaction():
            for thing in dict.fromkeys(wanted):
                key = cache_key(thing)
                if self._ledger.lease(holder, key, min(now + ttl, FOREVER)):
                    fresh.append(thing)
                if self._present(key):
                    self._ledger.used(key, now)
                    present.append(thing)
                else:
                    missing.append(thing)
        return AcquireResult(tuple(present), tuple(missing), tuple(fresh))

    def renew(self, holder: str, ttl: float) -> int:
        """Let all leases of a holder end `ttl` seconds from now; returns how many there are, 0 if none is left."""
        with self._ledger.transaction():
            return self._ledger.renew(holder, self._clock() + ttl)

    def release(self, holder: str, only: Iterable[CacheItem] | None = None) -> int:
        """End a holder's leases, all or `only` those on some things; returns how many."""
        with self._ledger.transaction():
            return self._ledger.release(holder, None if only is None else [cache_key(thing) for thing in only])

    def leases(self) -> list[CacheLease]:
        """The leases that have not ended."""
        now = self._clock()
        with self._ledger.transaction():
            return [lease for lease in self._ledger.leases() if lease.expires_at > now]

    def holders(self) -> dict[str, float]:
        """Who holds leases, and when the first of each holder's ends, in seconds since the epoch."""
        first: dict[str, float] = {}
        for lease in self.leases():
            first[lease.holder] = min(lease.expires_at, first.get(lease.holder, lease.expires_at))
        return first

    # What is there

    def entries(self) -> list[CacheEntry]:
        """All entries, by key."""
        with self._ledger.transaction():
            return self._ledger.entries()

    def entry(self, thing: CacheItem) -> CacheEntry:
        """The row of an entry; NotCached if there is none."""
        return self._entry(cache_key(thing))

    def path(self, thing: CacheItem) -> Path:
        """The absolute path of an entry's file; NotCached if there is none."""
        return entry_path(self.root, self.entry(thing).key)

    def donors(self) -> list[Donor]:
        """All contents, the last used first: what new contents may be filled from."""
        entries = sorted(self.entries(), key=lambda entry: -entry.last_used)
        return [
            Donor(Address.parse(entry.key), entry_path(self.root, entry.key)) for entry in entries if not entry.digest
        ]

    def usage(self) -> CacheUsage:
        """How full the cache is."""
        now = self._clock()
        with self._ledger.transaction():
            trash = sum(one.entry.allocated for one in self._ledger.trash())
            entries = self._ledger.entries()
            until = self._ledger.leased_until()
            reserved = sum(count for count, _ in self._ledger.reserved().values())
        leased = sum(entry.allocated for entry in entries if until.get(entry.key, 0) > now)
        return CacheUsage(self.quota, sum(entry.allocated for entry in entries), reserved, leased, trash)

    def check(self, thing: CacheItem, *, full: bool = False, advance: Advance = ignore_progress) -> None:
        """Demand that an entry is the file that was verified: size, inode, mtime and a sample of its bytes.

        Args:
            thing: content or a blank.
            full: hash all of it again too.
            advance: called with bytes just passed, when `full`.

        Raises:
            NotCached: there is no such entry.
            EntryChanged: it is another file, or has other bytes. The entry is dropped then; leases stay, and staging
                fetches it again.
        """
        self._check(self.entry(thing), full=full, advance=advance)

    def check_key(self, key: CacheKey, *, full: bool = False, advance: Advance = ignore_progress) -> None:
        """As :meth:`check`, by key."""
        self._check(self._entry(key), full=full, advance=advance)

    def _check(self, entry: CacheEntry, *, full: bool, advance: Advance) -> None:
        path = entry_path(self.root, entry.key)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as exc:
            self._condemn(entry, f"cannot be opened ({exc.strerror})")
        try:
            reason = find_difference(descriptor, entry)
            if reason is None and full:
                reason = _content_difference(path, descriptor, entry, advance)
        except OSError as exc:
            reason = f"cannot be read ({exc.strerror})"
        finally:
            os.close(descriptor)
        if reason is not None:
            self._condemn(entry, reason)
        if full:
            with self._ledger.transaction():
                self._ledger.verified(entry.key, self._clock())

    def evict(self, thing: CacheItem) -> int:
        """Remove an entry that nobody holds; returns the bytes freed.

        Raises:
            NotCached: there is no such entry.
            InUse: a lease holds it, or it is being staged.
        """
        return self.evict_key(cache_key(thing))

    def evict_key(self, key: CacheKey) -> int:
        """As :meth:`evict`, by key."""
        entry = self._entry(key)
        with self._ledger.exclusive():
            holders = sorted({lease.holder for lease in self.leases() if lease.key == entry.key})
            if holders or self._allowance.busy(entry.key):
                who = ", ".join(holders[:3]) or "a staging that is under way"
                raise InUse(f"{self.root}: {entry.what} is held by {who}; end that first")
            with translate_os_errors(self.root):
                if self.grace:
                    self._allowance.throw(entry, entry.key, "was evicted by hand")
                else:
                    self._allowance.remove([entry.key])
        return entry.allocated

    def trash(self) -> list[TrashedEntry]:
        """What lies in the trash, the oldest first."""
        with self._ledger.transaction():
            return self._ledger.trash()

    def tidy(self, *, everything: bool = False) -> int:
        """Remove from the trash what has been there for its grace time, or everything; returns how many things."""
        with translate_os_errors(self.root):
            return self._allowance.tidy(self._clock() - (0.0 if everything else self.grace))

    # Scrubbing

    def scrubbed(self, key: CacheKey) -> int:
        """How far the scrubber is in an entry, in bytes."""
        with self._ledger.transaction():
            return self._ledger.scrubbed(key)

    def put_scrubbed(self, key: CacheKey, position: int, *, whole: bool = False) -> None:
        """Note how far the scrubber is; `whole` when it has found all of it right."""
        with self._ledger.transaction():
            self._ledger.put_scrubbed(key, 0 if whole else position)
            if whole:
                self._ledger.verified(key, self._clock())

    def condemn(self, entry: CacheEntry, reason: str) -> None:
        """An entry was found wrong: it leaves at once and is kept in the trash for its grace time, to be looked at.

        Raises:
            EntryChanged: always.
        """
        self._condemn(entry, reason)

    # Filling

    @contextmanager
    def reserve(self, wants: Mapping[CacheItem, int], vo: str = "") -> Iterator[None]:
        """Promise room, and protect things from eviction while the block runs.

        Args:
            wants: for each thing the bytes that it will allocate; 0 for what is present and only has to stay.
            vo: whose image needs them.

        Raises:
            QuotaExceeded, DiskFull: there is no room even when everything that nobody holds goes; nothing was evicted.
            CacheDegraded: the disk has failed before.
        """
        keys = {cache_key(thing): count for thing, count in wants.items()}
        with self._ledger.transaction():
            self._committing.demand_sound()
            self._allowance.enter(keys)
            if vo:
                self._ledger.claim(vo, keys)
        try:
            with translate_os_errors(self.root):
                self._allowance.make_room(keys, vo)
            yield
        finally:
            with translate_os_errors(self.root), self._ledger.transaction():
                self._allowance.leave(keys)

    def grow(self, thing: CacheItem, extra: int) -> None:
        """Promise a thing that is being filled `extra` bytes more; errors as :meth:`reserve`."""
        key = cache_key(thing)
        with self._ledger.transaction():
            reserved = self._ledger.reserved().get(key, (0, 0.0))[0]
        with translate_os_errors(self.root):
            self._allowance.make_room({key: reserved + extra})

    @contextmanager
    def fill(self, thing: CacheItem) -> Iterator[PartialFile | None]:
        """Open the incoming file of a thing, with what an earlier attempt left in it; one thread at a time.

        Yields None when the thing is present, perhaps because the thread that was waited for committed it. What is in
        the file when the block ends without a commit stays for the next attempt, in this process or another.
        """
        key, size = cache_key(thing), thing.size
        with self._ledger.transaction():
            lock = self._fills.setdefault(key, threading.Lock())
        with lock:
            with self._ledger.transaction():
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
                    incoming.empty()  # a full disk is not made better by what cannot be finished on it
                raise to_stager_error(self.root, exc) from exc
            finally:
                incoming.close()

    def commit(self, incoming: PartialFile, thing: CacheItem, guide: PieceMap | None = None) -> CacheEntry:
        """Verify a filled file and give it its name; see `Committer.commit`."""
        return self._committing.commit(incoming, thing, guide)

    # Underneath

    def _entry(self, key: CacheKey) -> CacheEntry:
        with self._ledger.transaction():
            entry = self._ledger.entry(key)
        if entry is None:
            raise NotCached(f"{self.root}: does not hold {key}; stage an image that has it")
        return entry

    def _present(self, key: CacheKey) -> bool:
        """Whether there is an entry, with its file, perhaps in the trash; a row whose file somebody removed is dropped."""
        if self._ledger.entry(key) is None:
            return self._allowance.restore(key)
        if entry_path(self.root, key).is_file():
            return True
        self._ledger.drop_entry(key)
        return False

    def _condemn(self, entry: CacheEntry, reason: str) -> None:
        with self._ledger.exclusive():
            with self._ledger.transaction():
                now = self._ledger.entry(entry.key)
            if now is not None and now.inode == entry.inode and now.verified_at == entry.verified_at:
                with translate_os_errors(self.root):
                    if self.grace and entry_path(self.root, entry.key).is_file():
                        self._allowance.throw(entry, WRONG + entry.key, reason)
                    else:
                        self._allowance.remove([entry.key])
        raise EntryChanged(
            f"{entry_path(self.root, entry.key)}: {reason} since it was verified; it has been dropped, stage the image again"
        )


def _content_difference(path: Path, descriptor: int, entry: CacheEntry, advance: Advance) -> str | None:
    if entry.digest:
        advance(entry.size)
        return None if blank_digest(descriptor) == entry.digest else "has other bytes"
    try:
        verify_content(path, Address.parse(entry.key), advance)
    except CatalogError as exc:
        return f"has other bytes ({exc})"
    return None
