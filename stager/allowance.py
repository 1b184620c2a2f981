"""Room in the cache: promised before it is used, taken back from what nobody holds, never more than the quota.

What counts is bytes on the disk: of entries what they take, of what is arriving what is reserved for it. All decisions
are made under the lock with which leases are taken.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from stager.disk import Disk, allocated
from stager.entries import Entry, Key
from stager.errors import DiskFull, QuotaExceeded, StagerError
from stager.eviction import Candidate, Choice, choose_victims
from stager.ledger import Ledger
from stager.recovery import INCOMING, TRASH, place

RESERVE = 8 << 20
"""Bytes of the filesystem that are never promised to content: the ledger and the directories need some."""


class Allowance:
    """The quota of one cache, and who of this process works with what."""

    def __init__(self, root: Path, quota: int, ledger: Ledger, disk: Disk, clock: Callable[[], float]) -> None:
        self._root, self._quota, self._ledger, self._disk, self._clock = root, quota, ledger, disk, clock
        self._users: Counter[Key] = Counter()

    def enter(self, keys: Iterable[Key]) -> None:
        """This process begins to work with those: they are not evicted, leased or not."""
        self._users.update(list(keys))  # of a mapping, a Counter would add the values

    def leave(self, keys: Iterable[Key]) -> None:
        """It no longer does; what came to nothing keeps only the room that it takes."""
        keys = list(keys)
        self._users.subtract(keys)
        reserved = self._ledger.reserved()
        for key in keys:
            if self.busy(key):
                continue
            del self._users[key]
            if key in reserved:
                taken = allocated(self._root / INCOMING / key)
                if taken:
                    self._ledger.put_reservation(key, taken, reserved[key][1])
                else:
                    self._disk.remove(self._root / INCOMING / key)
                    self._ledger.drop_reservation(key)

    def busy(self, key: Key) -> bool:
        """Whether this process works with it."""
        return self._users[key] > 0

    def make_room(self, wants: Mapping[Key, int]) -> None:
        """Reserve for each key as many bytes as wanted (never less than now), evicting what it takes.

        Raises:
            QuotaExceeded, DiskFull: not even evicting everything that nobody holds would do; nothing is evicted then.
        """
        with self._ledger.exclusive():
            now = self._clock()
            with self._ledger.transaction():
                wants, victims = self._decide(wants, now)
            self.remove(victims)
            with self._ledger.transaction():
                for key, count in wants.items():
                    self._ledger.put_reservation(key, count, now)

    def _decide(self, wants: Mapping[Key, int], now: float) -> tuple[dict[Key, int], tuple[Key, ...]]:
        """What each key is to have reserved, and what has to go for it."""
        entries = {entry.key: entry for entry in self._ledger.entries()}
        reserved = {key: count for key, (count, _) in self._ledger.reserved().items()}
        rows = {key: max(count, reserved.get(key, 0)) for key, count in wants.items() if count and key not in entries}
        extra = sum(count - reserved.get(key, 0) for key, count in rows.items())
        if not extra:
            return rows, ()
        used = sum(entry.allocated for entry in entries.values()) + sum(reserved.values())
        unwritten = sum(max(0, count - allocated(self._root / INCOMING / key)) for key, count in reserved.items())
        over_quota = used + extra - self._quota
        over_disk = unwritten + extra + RESERVE - _free(self._root)
        need = max(over_quota, over_disk)
        if need <= 0:
            return rows, ()
        choice = choose_victims(self._candidates(list(entries.values())), need, now)
        if choice.freed < need:
            raise self._no_room(extra, choice, over_disk=over_disk > choice.freed)
        return rows, choice.victims

    def _candidates(self, entries: list[Entry]) -> list[Candidate]:
        until = self._ledger.leased_until()
        rows = [(entry.key, entry.allocated, entry.last_used) for entry in entries]
        rows += [(key, count, last_used) for key, (count, last_used) in self._ledger.reserved().items()]
        return [Candidate(key, count, last_used, until.get(key), self.busy(key)) for key, count, last_used in rows]

    def _no_room(self, extra: int, choice: Choice, *, over_disk: bool) -> StagerError:
        if over_disk:
            return DiskFull(
                f"{self._root}: {extra} bytes are needed; the filesystem has {_free(self._root)} bytes free, some of them "
                f"promised already, and {choice.freed} bytes could be evicted; free some of it"
            )
        return QuotaExceeded(
            f"{self._root}: {extra} bytes are needed; of the quota of {self._quota} bytes {choice.held} are leased or "
            f"being written, and {choice.freed} could be evicted; end machines, or raise the setting node.cache_quota"
        )

    def remove(self, keys: Iterable[Key]) -> None:
        """Out of the ledger, then into the trash and off the disk. To be called outside a transaction: a row must be gone
        before its file is. Killed in between, the next start finds the file, and keeps or removes it.

        Raises:
            OSError: a file would not go; its row has gone, and the next start tries again.
        """
        keys = list(keys)
        with self._ledger.transaction():
            for key in keys:
                self._ledger.drop_entry(key)
                self._ledger.drop_reservation(key)
        failure: OSError | None = None
        for path in (path for key in keys for path in (place(self._root, key), self._root / INCOMING / key)):
            try:
                if os.path.lexists(path):
                    trash = self._root / TRASH / path.name
                    self._disk.rename(path, trash)
                    self._disk.remove(trash)
            except OSError as exc:
                failure = failure or exc
        if failure is not None:
            raise failure


def _free(root: Path) -> int:
    found = os.statvfs(root)
    return found.f_bavail * found.f_frsize
