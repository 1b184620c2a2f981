"""Room in the cache: promised before it is used, taken back from what nobody holds, never more than the quota.

What counts is bytes on the disk: of entries what they take, of what is arriving what is reserved for it. All decisions
are made under the lock with which leases are taken.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from stager.cache import sidecars as beside
from stager.cache.disk import DiskOperations, allocated_bytes
from stager.cache.entries import CacheEntry, CacheKey, TrashedEntry, find_difference
from stager.cache.eviction import EvictionCandidate, EvictionPlan, choose_victims
from stager.cache.index import CacheIndex
from stager.cache.recovery import INCOMING, TRASH, entry_path
from stager.errors import DiskFull, QuotaExceeded, StagerError

_THROWN = "trash/"
"""Before the names of what lies in the trash, where they stand among keys."""

RESERVE = 8 << 20
"""Bytes of the filesystem that are never promised to content: the ledger and the directories need some."""


class CacheQuota:
    """The quota of one cache, and who of this process works with what."""

    def __init__(
        self,
        root: Path,
        quota: int,
        ledger: CacheIndex,
        disk: DiskOperations,
        clock: Callable[[], float],
        shares: Mapping[str, int] | None = None,
    ) -> None:
        self._root, self._quota, self._ledger, self._disk, self._clock = root, quota, ledger, disk, clock
        self._shares = dict(shares or {})
        self._users: Counter[CacheKey] = Counter()
        self._gone: Callable[[CacheKey], None] = _nobody

    def on_gone(self, listener: Callable[[CacheKey], None]) -> None:
        """See `Cache.on_gone`."""
        self._gone = listener

    def enter(self, keys: Iterable[CacheKey]) -> None:
        """This process begins to work with those: they are not evicted, leased or not."""
        self._users.update(list(keys))  # of a mapping, a Counter would add the values

    def leave(self, keys: Iterable[CacheKey]) -> None:
        """It no longer does; what came to nothing keeps only the room that it takes."""
        keys = list(keys)
        self._users.subtract(keys)
        reserved = self._ledger.reserved()
        for key in keys:
            if self.busy(key):
                continue
            del self._users[key]
            if key in reserved:
                taken = allocated_bytes(self._root / INCOMING / key)
                if taken:
                    self._ledger.put_reservation(key, taken, reserved[key][1])
                else:
                    self._disk.remove(self._root / INCOMING / key)
                    self._ledger.drop_reservation(key)

    def busy(self, key: CacheKey) -> bool:
        """Whether this process works with it."""
        return self._users[key] > 0

    def make_room(self, wants: Mapping[CacheKey, int], vo: str = "") -> None:
        """Reserve for each key as many bytes as wanted (never less than now), evicting what it takes, for a VO's need.

        Raises:
            QuotaExceeded, DiskFull: not even evicting everything that nobody holds would do; nothing is evicted then.
        """
        with self._ledger.exclusive():
            now = self._clock()
            with self._ledger.transaction():
                wants, victims = self._decide(wants, now, vo)
            self.remove(victims)
            with self._ledger.transaction():
                for key, count in wants.items():
                    self._ledger.put_reservation(key, count, now)

    def _decide(
        self, wants: Mapping[CacheKey, int], now: float, vo: str
    ) -> tuple[dict[CacheKey, int], tuple[CacheKey, ...]]:
        """What each key is to have reserved, and what has to go for it."""
        entries = {entry.key: entry for entry in self._ledger.entries()}
        reserved = {key: count for key, (count, _) in self._ledger.reserved().items()}
        rows = {key: max(count, reserved.get(key, 0)) for key, count in wants.items() if count and key not in entries}
        extra = sum(count - reserved.get(key, 0) for key, count in rows.items())
        if not extra:
            return rows, ()
        trash = sum(one.entry.allocated for one in self._ledger.trash())
        used = sum(entry.allocated for entry in entries.values()) + sum(reserved.values()) + trash
        unwritten = sum(max(0, count - allocated_bytes(self._root / INCOMING / key)) for key, count in reserved.items())
        over_quota = used + extra - self._quota
        over_disk = unwritten + extra + RESERVE - _free(self._root)
        need = max(over_quota, over_disk)
        if need <= 0:
            return rows, ()
        choice = choose_victims(self._candidates(list(entries.values())), need, now, self._shares, vo)
        if choice.freed < need:
            raise self._no_room(extra, choice, over_disk=over_disk > choice.freed)
        return rows, choice.victims

    def _candidates(self, entries: list[CacheEntry]) -> list[EvictionCandidate]:
        until, claims = self._ledger.leased_until(), self._ledger.claims()
        thrown = [
            EvictionCandidate(_THROWN + one.name, one.entry.allocated, one.since, trashed=True)
            for one in self._ledger.trash()
        ]
        rows = [(entry.key, entry.allocated, entry.last_used) for entry in entries]
        rows += [(key, count, last_used) for key, (count, last_used) in self._ledger.reserved().items()]
        return thrown + [
            EvictionCandidate(key, count, last_used, until.get(key), self.busy(key), claims.get(key, frozenset()))
            for key, count, last_used in rows
        ]

    def _no_room(self, extra: int, choice: EvictionPlan, *, over_disk: bool) -> StagerError:
        if over_disk:
            return DiskFull(
                f"{self._root}: {extra} bytes are needed; the filesystem has {_free(self._root)} bytes free, some of them "
                f"promised already, and {choice.freed} bytes could be evicted; free some of it"
            )
        return QuotaExceeded(
            f"{self._root}: {extra} bytes are needed; of the quota of {self._quota} bytes {choice.held} are leased, "
            f"being written or within another VO's share, and {choice.freed} could be evicted; end machines, or raise the setting node.cache_quota"
        )

    def remove(self, keys: Iterable[CacheKey]) -> None:
        """Out of the ledger, then into the trash and off the disk. To be called outside a transaction: a row must be gone
        before its file is. Killed in between, the next start finds the file, and keeps or removes it.

        Raises:
            OSError: a file would not go; its row has gone, and the next start tries again.
        """
        keys = list(keys)
        thrown = [key.removeprefix(_THROWN) for key in keys if key.startswith(_THROWN)]
        keys = [key for key in keys if not key.startswith(_THROWN)]
        with self._ledger.transaction():
            for key in keys:
                self._ledger.drop_entry(key)
                self._ledger.drop_reservation(key)
                self._ledger.drop_claims(key)
            for name in thrown:
                self._ledger.drop_trash(name)
        failure: OSError | None = None
        paths = [path for key in keys for path in (entry_path(self._root, key), self._root / INCOMING / key)]
        for path in paths + [self._root / TRASH / name for name in thrown]:
            try:
                if os.path.lexists(path):
                    trash = self._root / TRASH / path.name
                    if path != trash:
                        self._disk.rename(path, trash)
                    self._disk.remove(trash)
            except OSError as exc:
                failure = failure or exc
        for key in keys:
            self._gone(key)
            with suppress(OSError):
                beside.remove_sidecars(self._disk, self._root, key)
        if failure is not None:
            raise failure

    def throw(self, entry: CacheEntry, name: str, reason: str) -> None:
        """Into the trash under a name: out of the entries first, then the file moves; errors and crashes as :meth:`remove`."""
        with self._ledger.transaction():
            self._ledger.drop_entry(entry.key)
            self._ledger.put_trash(TrashedEntry(name, entry, self._clock(), reason))
        self._gone(entry.key)
        self._disk.rename(entry_path(self._root, entry.key), self._root / TRASH / name)

    def restore(self, key: CacheKey) -> bool:
        """Take something out of the trash again if it is there and the file that was verified; part of a transaction."""
        one = self._ledger.trashed(key)
        path = self._root / TRASH / key
        if one is None:
            return False
        self._ledger.drop_trash(key)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                right = find_difference(descriptor, one.entry) is None
            finally:
                os.close(descriptor)
            if right:
                self._disk.rename(path, entry_path(self._root, key))
            else:
                self._disk.remove(path)
        except OSError:
            return False
        if right:
            self._ledger.put_entry(one.entry)
        return right

    def tidy(self, before: float) -> int:
        """Remove for good what lies in the trash since before an instant; returns how many things."""
        with self._ledger.exclusive():
            with self._ledger.transaction():
                old = [one.name for one in self._ledger.trash() if one.since <= before]
            self.remove([_THROWN + name for name in old])
        return len(old)


def _nobody(_key: CacheKey) -> None:
    """Nobody wants to know."""


def _free(root: Path) -> int:
    found = os.statvfs(root)
    return found.f_bavail * found.f_frsize
