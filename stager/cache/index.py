"""The cache's index: entries, leases and reservations in one SQLite file (WAL, synchronous FULL).

The index records which files are verified, who leases them and what is reserved; recovery makes index and directory agree.
All methods must be called inside a `transaction`, which also serialises the threads of this process.
"""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, fields
from pathlib import Path

from stager.cache.entries import CacheEntry, CacheKey, CacheLease, TrashedEntry
from stager.errors import CacheUnusable, DiskFull, StagerError

VERSION = 2
"""The version of the tables below; a file with a newer one is refused."""

_TABLES = """
CREATE TABLE entries (
    key TEXT PRIMARY KEY, what TEXT NOT NULL, size INTEGER NOT NULL, data_bytes INTEGER NOT NULL,
    allocated INTEGER NOT NULL, inode INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sample BLOB NOT NULL,
    digest BLOB NOT NULL, verified_at REAL NOT NULL, last_used REAL NOT NULL
) STRICT;
CREATE TABLE leases (
    holder TEXT NOT NULL, key TEXT NOT NULL, expires_at REAL NOT NULL, PRIMARY KEY (holder, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX leases_by_key ON leases (key, expires_at);
CREATE TABLE reservations (key TEXT PRIMARY KEY, reserved INTEGER NOT NULL, last_used REAL NOT NULL) STRICT;
"""
_SECOND = """
CREATE TABLE trash (
    name TEXT PRIMARY KEY, entry TEXT NOT NULL, allocated INTEGER NOT NULL, since REAL NOT NULL, reason TEXT NOT NULL
) STRICT;
CREATE TABLE claims (vo TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (vo, key)) STRICT, WITHOUT ROWID;
CREATE TABLE scrubbing (key TEXT PRIMARY KEY, position INTEGER NOT NULL) STRICT;
PRAGMA user_version = 2;
"""


def _pack(entry: CacheEntry) -> str:
    return json.dumps([value.hex() if isinstance(value, bytes) else value for value in astuple(entry)])


def _unpack(text: str) -> CacheEntry:
    values = dict(zip((field.name for field in fields(CacheEntry)), json.loads(text), strict=True))
    return CacheEntry(**values | {name: bytes.fromhex(values[name]) for name in ("sample", "digest")})


_COLUMNS = ", ".join(field.name for field in fields(CacheEntry))


class CacheIndex:
    """One connection to the file, shared by the threads of the process that owns the cache.

    Attributes:
        lock: excludes other threads; for decisions that take more than one transaction.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lock = threading.RLock()
        self._depth = 0
        with self._translated():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            with self._translated():
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                (version,) = self._db.execute("PRAGMA user_version").fetchone()
                if version in (0, 1):
                    self._db.executescript("BEGIN IMMEDIATE;" + ("" if version else _TABLES) + _SECOND + "COMMIT;")
        except StagerError:
            self._db.close()
            raise
        if version not in (0, 1, VERSION):
            self._db.close()
            raise CacheUnusable(
                f"{path}: written by another version of Partita (tables {version}, this one has {VERSION}); "
                "use that version, or move the cache's directory aside"
            )

    def close(self) -> None:
        """Close the file."""
        with self.lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run a transaction, one thread at a time; an inner transaction is part of the outer one."""
        with self.lock:
            if self._depth:
                yield
                return
            with self._translated():
                self._db.execute("BEGIN IMMEDIATE")
                self._depth = 1
                try:
                    yield
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
                finally:
                    self._depth = 0

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            if "full" in str(exc):
                raise DiskFull(f"{self._path}: the disk is full; free some space and try again") from exc
            raise CacheUnusable(
                f"{self._path}: {exc}; if the error persists, move the file aside: the cache then re-hashes its contents"
            ) from exc

    def entry(self, key: CacheKey) -> CacheEntry | None:
        """Return the entry of a key."""
        row = self._db.execute(f"SELECT {_COLUMNS} FROM entries WHERE key = ?", (key,)).fetchone()  # noqa: S608 - our own column names
        return CacheEntry(*row) if row else None

    def entries(self) -> list[CacheEntry]:
        """Return all entries, ordered by key."""
        return [CacheEntry(*row) for row in self._db.execute(f"SELECT {_COLUMNS} FROM entries ORDER BY key")]  # noqa: S608 - our own column names

    def put_entry(self, entry: CacheEntry) -> None:
        """Add or replace an entry, and drop its reservation."""
        marks = ", ".join("?" * len(fields(CacheEntry)))
        self._db.execute(f"INSERT OR REPLACE INTO entries ({_COLUMNS}) VALUES ({marks})", astuple(entry))  # noqa: S608 - our own column names
        self.drop_reservation(entry.key)

    def drop_entry(self, key: CacheKey) -> None:
        """Drop an entry."""
        self._db.execute("DELETE FROM entries WHERE key = ?", (key,))
        self._db.execute("DELETE FROM scrubbing WHERE key = ?", (key,))

    def put_trash(self, one: TrashedEntry) -> None:
        """Record an entry in the trash."""
        self._db.execute(
            "INSERT OR REPLACE INTO trash VALUES (?, ?, ?, ?, ?)",
            (one.name, _pack(one.entry), one.entry.allocated, one.since, one.reason),
        )

    def trash(self) -> list[TrashedEntry]:
        """Return the entries in the trash, the oldest first."""
        rows = self._db.execute("SELECT name, entry, since, reason FROM trash ORDER BY since, name")
        return [TrashedEntry(name, _unpack(entry), since, reason) for name, entry, since, reason in rows]

    def trashed(self, name: str) -> TrashedEntry | None:
        """Return one entry in the trash."""
        row = self._db.execute("SELECT name, entry, since, reason FROM trash WHERE name = ?", (name,)).fetchone()
        return TrashedEntry(row[0], _unpack(row[1]), row[2], row[3]) if row else None

    def drop_trash(self, name: str) -> None:
        """Drop an entry of the trash."""
        self._db.execute("DELETE FROM trash WHERE name = ?", (name,))

    def claim(self, vo: str, keys: Iterable[CacheKey]) -> None:
        """Record that a VO's images use these keys."""
        self._db.executemany("INSERT OR IGNORE INTO claims VALUES (?, ?)", [(vo, key) for key in keys])

    def claims(self) -> dict[CacheKey, frozenset[str]]:
        """Return the VOs that claimed each key."""
        found: dict[CacheKey, set[str]] = {}
        for vo, key in self._db.execute("SELECT vo, key FROM claims"):
            found.setdefault(key, set()).add(vo)
        return {key: frozenset(vos) for key, vos in found.items()}

    def drop_claims(self, key: CacheKey) -> None:
        """Drop all claims on a key."""
        self._db.execute("DELETE FROM claims WHERE key = ?", (key,))

    def scrubbed(self, key: CacheKey) -> int:
        """Return the scrubber's position in an entry, in bytes."""
        row = self._db.execute("SELECT position FROM scrubbing WHERE key = ?", (key,)).fetchone()
        return int(row[0]) if row else 0

    def put_scrubbed(self, key: CacheKey, position: int) -> None:
        """Store the scrubber's position; 0 is the beginning."""
        if position:
            self._db.execute("INSERT OR REPLACE INTO scrubbing VALUES (?, ?)", (key, position))
        else:
            self._db.execute("DELETE FROM scrubbing WHERE key = ?", (key,))

    def used(self, key: CacheKey, now: float) -> None:
        """Record that an entry was used."""
        self._db.execute("UPDATE entries SET last_used = max(last_used, ?) WHERE key = ?", (now, key))

    def verified(self, key: CacheKey, now: float) -> None:
        """Record that an entry was hashed again and found correct."""
        self._db.execute("UPDATE entries SET verified_at = ? WHERE key = ?", (now, key))

    def lease(self, holder: str, key: CacheKey, expires_at: float) -> bool:
        """Lease a key or extend the lease; returns whether it is new."""
        known = self._db.execute("SELECT 1 FROM leases WHERE holder = ? AND key = ?", (holder, key)).fetchone()
        self._db.execute(
            "INSERT INTO leases VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET expires_at = max(expires_at, excluded.expires_at)",
            (holder, key, expires_at),
        )
        return known is None

    def renew(self, holder: str, expires_at: float) -> int:
        """Set the end of all leases of a holder; returns how many there are."""
        return self._db.execute("UPDATE leases SET expires_at = ? WHERE holder = ?", (expires_at, holder)).rowcount

    def release(self, holder: str, keys: list[CacheKey] | None = None) -> int:
        """End a holder's leases, all or those on some keys; returns how many there were."""
        if keys is None:
            return self._db.execute("DELETE FROM leases WHERE holder = ?", (holder,)).rowcount
        return sum(
            self._db.execute("DELETE FROM leases WHERE holder = ? AND key = ?", (holder, key)).rowcount for key in keys
        )

    def expire(self, now: float) -> int:
        """Delete leases that have ended; returns how many."""
        return self._db.execute("DELETE FROM leases WHERE expires_at <= ?", (now,)).rowcount

    def leases(self) -> list[CacheLease]:
        """Return all leases, ended ones included, ordered by holder and key."""
        rows = self._db.execute("SELECT holder, key, expires_at FROM leases ORDER BY 1, 2")
        return [CacheLease(*row) for row in rows]

    def leased_until(self) -> dict[CacheKey, float]:
        """Return when the last lease of each leased key ends."""
        return dict(self._db.execute("SELECT key, max(expires_at) FROM leases GROUP BY key").fetchall())

    def reserved(self) -> dict[CacheKey, tuple[int, float]]:
        """Return the bytes reserved for each key that is or was being filled, and when the reservation was last changed."""
        rows = self._db.execute("SELECT key, reserved, last_used FROM reservations ORDER BY key")
        return {key: (count, last_used) for key, count, last_used in rows}

    def put_reservation(self, key: CacheKey, reserved: int, now: float) -> None:
        """Set the reservation of a key."""
        self._db.execute("INSERT OR REPLACE INTO reservations VALUES (?, ?, ?)", (key, reserved, now))

    def drop_reservation(self, key: CacheKey) -> None:
        """Drop the reservation of a key."""
        self._db.execute("DELETE FROM reservations WHERE key = ?", (key,))
