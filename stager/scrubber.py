"""Reads the cache again, slowly and continuously: contents that the disk has damaged are found, removed and fetched again.

The entry whose last check is the oldest comes first, no faster than a rate limit, and a large content is continued after
a restart. A damaged entry is removed from the cache and the swarm at once, and stays in the trash for inspection.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from catalog.image.address import Address
from signer.errors import PartitaError
from stager.cache import sidecars
from stager.cache.cache import Cache
from stager.cache.directory import entry_path
from stager.cache.disk import has_data
from stager.cache.entries import CacheEntry
from stager.cache.partial_file import READ_SIZE, READERS
from stager.content.piece_map import PieceMap
from stager.errors import EntryChanged, NotCached, StagerError

log = logging.getLogger("partita.node")

TURN = 60.0
"""Seconds between looks for due entries, and at the trash."""

STEP = 64 << 20
"""Bytes after which the position is stored: at most so many are read twice after a restart."""


def choose_next(entries: Iterable[CacheEntry], now: float, interval: float) -> CacheEntry | None:
    """Return the entry with the oldest check, if that is older than `interval` seconds; None if no entry is due."""
    due = [entry for entry in entries if now - entry.verified_at >= interval]
    return min(due, key=lambda entry: (entry.verified_at, entry.key), default=None)


class Scrubber:
    """Scrubs a cache in a thread of its own, as a context manager; or step by step.

    Args:
        restage: fetches a content again.
        throttle: called with the number of bytes read; waits to keep a rate limit.
        interval: seconds between two checks of one entry; 0 disables scrubbing.
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
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """End the thread; the position is stored."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                self._cache.clean_trash()
                if self.step():
                    continue
            except (StagerError, OSError) as exc:
                log.warning("scrubbing the cache failed; retrying in %.0f s: %s", TURN, exc)
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
        """Check one entry from the stored position to its end; returns whether it is correct as far as it was read."""
        try:
            self._check(entry)
        except NotCached:
            return True  # it has been evicted
        except EntryChanged as exc:
            log.warning("%s", exc)
            self._restage_leased(entry)
            return False
        return True

    def _check(self, entry: CacheEntry) -> None:
        address = None if entry.digest else Address.parse(entry.key)
        layer = sidecars.read_layer(self._cache.root, address) if address is not None else None
        if address is None or layer is None:
            self._cache.check(entry.key, full=True, advance=self._throttle)
            return
        self._cache.check(entry.key)
        piece_map = PieceMap.of(address, layer)
        path = entry_path(self._cache.root, entry.key)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            raise NotCached(f"{path}: removed meanwhile") from None
        try:
            wrong = self._read(descriptor, piece_map, entry)
        except OSError as exc:
            wrong = f"cannot be read ({exc.strerror})"
        finally:
            os.close(descriptor)
        if wrong is not None:
            self._cache.reject(entry, wrong)

    def _read(self, descriptor: int, piece_map: PieceMap, entry: CacheEntry) -> str | None:
        """Read the pieces from the stored position on; returns what is wrong, or None."""
        step = max(1, READ_SIZE // piece_map.piece)
        position = self._cache.scrubbed(entry.key) // piece_map.piece
        with ThreadPoolExecutor(READERS, thread_name_prefix="scrub") as pool:
            while position < piece_map.count:
                if self._ending.is_set():
                    self._cache.put_scrubbed(entry.key, piece_map.bounds(position)[0])
                    return None
                last = min(piece_map.count, position + max(step, STEP // piece_map.piece))
                runs = [(at, min(at + step, last)) for at in range(position, last, step)]
                for wrong in pool.map(lambda run: self._find_damage(descriptor, piece_map, *run), runs):
                    if wrong is not None:
                        return wrong
                if self._ending.is_set():
                    continue  # some of these runs may not have been read
                position = last
                if position < piece_map.count:
                    self._cache.put_scrubbed(entry.key, piece_map.bounds(position)[0])
        self._cache.put_scrubbed(entry.key, 0, whole=True)
        return None

    def _find_damage(self, descriptor: int, piece_map: PieceMap, first: int, last: int) -> str | None:
        if self._ending.is_set():
            return None
        start, end = piece_map.bounds(first)[0], piece_map.bounds(last - 1)[1]
        if all(piece_map.zero(piece) for piece in range(first, last)) and not has_data(descriptor, start, end):
            return None
        self._throttle(end - start)
        content = os.pread(descriptor, end - start, start)
        for piece in range(first, last):
            low, high = piece_map.bounds(piece)
            if piece_map.verify_piece(piece, low, content[low - start : high - start]) is None:
                return f"has other bytes in piece {piece} (bytes {low}-{high})"
        return None

    def _restage_leased(self, entry: CacheEntry) -> None:
        """Fetch a leased content again."""
        if entry.digest or not any(lease.key == entry.key for lease in self._cache.leases()):
            return
        try:
            self._restage(Address.parse(entry.key))
        except PartitaError as exc:
            log.warning("damaged content %s could not be fetched again: %s", entry.what, exc)
