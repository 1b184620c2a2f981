"""Reading the cache again, slowly and for ever: what the disk spoilt is found, taken away and fetched again.

The oldest check comes first, no faster than a rate, and where a node stopped in a large content it goes on. What is wrong
leaves the cache and the swarm at once and lies in the trash for a while, to be looked at.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from catalog.image.address import Address
from signer.errors import PartitaError
from stager.cache import sidecars as beside
from stager.cache.cache import Cache
from stager.cache.entries import CacheEntry
from stager.cache.partial_file import READ_SIZE, READERS
from stager.cache.recovery import entry_path
from stager.content.piece_map import PieceMap
from stager.errors import EntryChanged, NotCached, StagerError

log = logging.getLogger("partita.node")

TURN = 60.0
"""Seconds between looks at what is due, and at the trash."""

STEP = 64 << 20
"""Bytes after which the place is remembered: what is read twice after a restart."""


def choose_next(entries: Iterable[CacheEntry], now: float, interval: float) -> CacheEntry | None:
    """The entry whose check is the oldest, if it is older than `interval` seconds; None when nothing is due."""
    due = [entry for entry in entries if now - entry.verified_at >= interval]
    return min(due, key=lambda entry: (entry.verified_at, entry.key), default=None)


class Scrubber:
    """Scrubs a cache in a thread of its own, as a context manager; or step by step.

    Args:
        restage: fetches a content again.
        throttle: called with bytes that were read; waits when they were too many.
        interval: seconds between two checks of one entry; 0 is never.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        cache: Cache,
        restage: Callable[[Address], None],
        throttle: Callable[[int], None],
        interval: float,
        clock: Callable[[], float],
    ) -> None:
        self._cache, self._restage, self._throttle = cache, restage, throttle
        self._interval, self._clock = interval, clock
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scrubber", daemon=True)

    def __enter__(self) -> "Scrubber":
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """End; the place is remembered."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                self._cache.tidy()
                if self.step():
                    continue
            except (StagerError, OSError) as exc:
                log.warning("scrubbing: %s", exc)
            self._ending.wait(TURN)

    def step(self) -> bool:
        """Check the entry that is due; returns whether there was one."""
        if not self._interval:
            return False
        entry = choose_next(self._cache.entries(), self._clock(), self._interval)
        if entry is None:
            return False
        self.scrub(entry)
        return not self._ending.is_set()

    def scrub(self, entry: CacheEntry) -> bool:
        """Check one entry from where it was left to its end; returns whether it is right, or was when we were told to end."""
        try:
            self._check(entry)
        except NotCached:
            return True  # it was evicted meanwhile
        except EntryChanged as exc:
            log.warning("%s", exc)
            self._again(entry)
            return False
        return True

    def _check(self, entry: CacheEntry) -> None:
        address = None if entry.digest else Address.parse(entry.key)
        layer = beside.read_layer(self._cache.root, address) if address is not None else None
        if address is None or layer is None:
            self._cache.check_key(entry.key, full=True, advance=self._throttle)
            return
        self._cache.check_key(entry.key)
        guide = PieceMap.of(address, layer)
        path = entry_path(self._cache.root, entry.key)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            raise NotCached(f"{path}: has gone") from None
        try:
            wrong = self._read(descriptor, guide, entry)
        except OSError as exc:
            wrong = f"cannot be read ({exc.strerror})"
        finally:
            os.close(descriptor)
        if wrong is not None:
            self._cache.condemn(entry, wrong)

    def _read(self, descriptor: int, guide: PieceMap, entry: CacheEntry) -> str | None:
        """What is wrong with the pieces from the remembered place on; None for nothing."""
        step = max(1, READ_SIZE // guide.piece)
        position = self._cache.scrubbed(entry.key) // guide.piece
        with ThreadPoolExecutor(READERS, thread_name_prefix="scrub") as pool:
            while position < guide.count:
                if self._ending.is_set():
                    self._cache.put_scrubbed(entry.key, guide.bounds(position)[0])
                    return None
                last = min(guide.count, position + max(step, STEP // guide.piece))
                runs = [(at, min(at + step, last)) for at in range(position, last, step)]
                for wrong in pool.map(lambda run: self._wrong(descriptor, guide, *run), runs):
                    if wrong is not None:
                        return wrong
                if self._ending.is_set():
                    continue  # perhaps not all of these were read
                position = last
                if position < guide.count:
                    self._cache.put_scrubbed(entry.key, guide.bounds(position)[0])
        self._cache.put_scrubbed(entry.key, 0, whole=True)
        return None

    def _wrong(self, descriptor: int, guide: PieceMap, first: int, last: int) -> str | None:
        if self._ending.is_set():
            return None
        start, end = guide.bounds(first)[0], guide.bounds(last - 1)[1]
        if all(guide.zero(piece) for piece in range(first, last)):
            try:
                if os.lseek(descriptor, start, os.SEEK_DATA) >= end:
                    return None
            except OSError:  # ENXIO: only holes remain
                return None
        self._throttle(end - start)
        content = os.pread(descriptor, end - start, start)
        for piece in range(first, last):
            low, high = guide.bounds(piece)
            if guide.judge(piece, low, content[low - start : high - start]) is None:
                return f"has other bytes in piece {piece} (bytes {low}-{high})"
        return None

    def _again(self, entry: CacheEntry) -> None:
        """Fetch what somebody still needs."""
        if entry.digest or not any(lease.key == entry.key for lease in self._cache.leases()):
            return
        try:
            self._restage(Address.parse(entry.key))
        except PartitaError as exc:
            log.warning("%s was found wrong and could not be fetched again: %s", entry.what, exc)
