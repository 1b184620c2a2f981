"""The cache's quota: space is reserved before it is used, and freed by evicting entries that are not held.

Bytes on the disk count: those that entries allocate, and those reserved for partial files. All decisions are made under
the same lock as leases.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from signer.runtime import files
from stager.cache import sidecars
from stager.cache.directory import INCOMING, TRASH, entry_path
from stager.cache.disk import DiskOperations, allocated_bytes
from stager.cache.entries import CacheEntry, CacheKey, TrashedEntry, find_difference
from stager.cache.eviction import EvictionCandidate, EvictionPlan, choose_victims
from stager.cache.index import CacheIndex
from stager.errors import DiskFull, QuotaExceeded, StagerError

_TRASHED = "trash/"
"""Prefix of the names of files in the trash, where they are listed among keys."""

RESERVE = 8 << 20
"""Bytes of the filesystem that are never reserved for content: the index and the directories need some."""


class CacheQuota:
    """The quota of one cache, and the keys that this process is working with."""

    def __init__(
        self,
        root: Path,
        quota: int,
        index: CacheIndex,
        disk: DiskOperations,
        clock: Callable[[], float],
        shares: Mapping[str, int] | None = None,
    ) -> None:
        self._root, self._quota, self._index, self._disk, self._clock = root, quota, index, disk, clock
        self._shares = dict(shares or {})
        self._users: Counter[CacheKey] = Counter()
        self.removed: Callable[[CacheKey], None] = lambda _: None

    def enter(self, keys: Iterable[CacheKey]) -> None:
        """Begin to work with these keys: they are not evicted, leased or not."""
        self._users.update(list(keys))  # of a mapping, a Counter would add the values

    def leave(self, keys: Iterable[CacheKey]) -> None:
        """End working with these keys; partial files that were not committed keep only the space that they allocate."""
        keys = list(keys)
        self._users.subtract(keys)
        reserved = self._index.reserved()
        for key in keys:
            if self.busy(key):
                continue
            del self._users[key]
            if key in reserved:
                taken = allocated_bytes(self._root / INCOMING / key)
                if taken:
                    self._index.put_reservation(key, taken, reserved[key][1])
                else:
                    self._disk.remove(self._root / INCOMING / key)
                    self._index.drop_reservation(key)

    def busy(self, key: CacheKey) -> bool:
        """Whether this process is working with the key."""
        return self._users[key] > 0

    def make_space(self, sizes: Mapping[CacheKey, int], vo: str = "") -> None:
        """Reserve bytes for each key (never less than now), for a VO, evicting as much as needed.

        Raises:
            QuotaExceeded, DiskFull: evicting everything that is not held would not be enough; nothing is evicted then.
        """
        with self._index.lock:
            now = self._clock()
            with self._index.transaction():
                sizes, victims = self._decide(sizes, now, vo)
            self.remove(victims)
            with self._index.transaction():
                for key, count in sizes.items():
                    self._index.put_reservation(key, count, now)

    def _decide(
        self, sizes: Mapping[CacheKey, int], now: float, vo: str
    ) -> tuple[dict[CacheKey, int], tuple[CacheKey, ...]]:
        """Decide the reservation of each key, and the entries to evict."""
        entries = {entry.key: entry for entry in self._index.entries()}
        reserved = {key: count for key, (count, _) in self._index.reserved().items()}
        rows = {key: max(count, reserved.get(key, 0)) for key, count in sizes.items() if count and key not in entries}
        extra = sum(count - reserved.get(key, 0) for key, count in rows.items())
        if not extra:
            return rows, ()
        trash = sum(one.entry.allocated for one in self._index.trash())
        used = sum(entry.allocated for entry in entries.values()) + sum(reserved.values()) + trash
        unwritten = sum(max(0, count - allocated_bytes(self._root / INCOMING / key)) for key, count in reserved.items())
        over_quota = used + extra - self._quota
        over_disk = unwritten + extra + RESERVE - _free(self._root)
        need = max(over_quota, over_disk)
        if need <= 0:
            return rows, ()
        choice = choose_victims(self._candidates(list(entries.values())), need, now, self._shares, vo)
        if choice.freed < need:
            raise self._no_space(extra, choice, over_disk=over_disk > choice.freed)
        return rows, choice.victims

    def _candidates(self, entries: list[CacheEntry]) -> list[EvictionCandidate]:
        until, claims = self._index.leased_until(), self._index.claims()
        trashed = [
            EvictionCandidate(_TRASHED + one.name, one.entry.allocated, one.since, trashed=True)
            for one in self._index.trash()
        ]
        rows = [(entry.key, entry.allocated, entry.last_used) for entry in entries]
        rows += [(key, count, last_used) for key, (count, last_used) in self._index.reserved().items()]
        return trashed + [
            EvictionCandidate(key, count, last_used, until.get(key), self.busy(key), claims.get(key, frozenset()))
            for key, count, last_used in rows
        ]

    def _no_space(self, extra: int, choice: EvictionPlan, *, over_disk: bool) -> StagerError:
        if over_disk:
            return DiskFull(
                f"{self._root}: {extra} bytes are needed; the filesystem has {_free(self._root)} bytes free, some of them "
                f"already reserved, and {choice.freed} bytes could be evicted; free some space"
            )
        return QuotaExceeded(
            f"{self._root}: {extra} bytes are needed; of the quota of {self._quota} bytes {choice.held} are leased, "
            f"being written or within another VO's share, and {choice.freed} could be evicted; end machines, or raise the "
            "setting node.cache_quota"
        )

    def remove(self, keys: Iterable[CacheKey]) -> None:
        """Drop rows from the index, then move the files to the trash and delete them. Must be called outside a transaction:
        the row must be dropped before the file. After a crash in between, the next start keeps or removes the file.

        Raises:
            OSError: a file could not be removed; its row is dropped, and the next start tries again.
        """
        keys = list(keys)
        trashed = [key.removeprefix(_TRASHED) for key in keys if key.startswith(_TRASHED)]
        keys = [key for key in keys if not key.startswith(_TRASHED)]
        with self._index.transaction():
            for key in keys:
                self._index.drop_entry(key)
                self._index.drop_reservation(key)
                self._index.drop_claims(key)
            for name in trashed:
                self._index.drop_trash(name)
        failure: OSError | None = None
        paths = [path for key in keys for path in (entry_path(self._root, key), self._root / INCOMING / key)]
        for path in paths + [self._root / TRASH / name for name in trashed]:
            try:
                if os.path.lexists(path):
                    trash = self._root / TRASH / path.name
                    if path != trash:
                        self._disk.rename(path, trash)
                    self._disk.remove(trash)
            except OSError as exc:
                failure = failure or exc
        for key in keys:
            self.removed(key)
            with suppress(OSError):
                sidecars.remove_sidecars(self._disk, self._root, key)
        if failure is not None:
            raise failure

    def move_to_trash(self, entry: CacheEntry, name: str, reason: str) -> None:
        """Move an entry to the trash under a name: its row first, then the file; errors and crashes as :meth:`remove`."""
        with self._index.transaction():
            self._index.drop_entry(entry.key)
            self._index.put_trash(TrashedEntry(name, entry, self._clock(), reason))
        self.removed(entry.key)
        self._disk.rename(entry_path(self._root, entry.key), self._root / TRASH / name)

    def restore(self, key: CacheKey) -> bool:
        """Restore an entry from the trash if its file is the one that was verified; part of a transaction."""
        one = self._index.trashed(key)
        path = self._root / TRASH / key
        if one is None:
            return False
        self._index.drop_trash(key)
        try:
            with files.opened(path, os.O_RDONLY | os.O_NOFOLLOW) as descriptor:
                right = find_difference(descriptor, one.entry) is None
            if right:
                self._disk.rename(path, entry_path(self._root, key))
            else:
                self._disk.remove(path)
        except OSError:
            return False
        if right:
            self._index.put_entry(one.entry)
        return right

    def clean_trash(self, before: float) -> int:
        """Delete entries that have been in the trash since before an instant; returns how many."""
        with self._index.lock:
            with self._index.transaction():
                old = [one.name for one in self._index.trash() if one.since <= before]
            self.remove([_TRASHED + name for name in old])
        return len(old)


def _free(root: Path) -> int:
    found = os.statvfs(root)
    return found.f_bavail * found.f_frsize
