"""The cache's book: entries, leases and reservations in one SQLite file (WAL, synchronous FULL).

The book says what is verified, who holds it and what is promised; the directory says what is there. Recovery makes the
two agree. All methods are to be called inside a `transaction`, which also serialises the threads of this process.
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
"""Of the tables below; another one in the file is refused."""

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
    """One connection to the file, shared by the threads of the process that owns the cache."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
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
                f"{path}: was written by another version of Partita (tables {version}, this one has {VERSION}); "
                "use that version, or move the cache's directory aside"
            )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """No other thread decides anything meanwhile; for what takes more than one transaction."""
        with self._lock:
            yield

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and one thread at a time; an inner transaction is part of the outer one."""
        with self._lock:
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
            raise self._error(exc) from exc

    def _error(self, exc: sqlite3.Error) -> StagerError:
        if "full" in str(exc):
            return DiskFull(f"{self._path}: the disk is full; free some of it and try again")
        return CacheUnusable(
            f"{self._path}: {exc}; if it stays so, move the file aside: the cache then re-hashes what it holds"
        )

    def entry(self, key: CacheKey) -> CacheEntry | None:
        """The entry of a key."""
        row = self._db.execute(f"SELECT {_COLUMNS} FROM entries WHERE key = ?", (key,)).fetchone()  # noqa: S608 - our own column names
        return CacheEntry(*row) if row else None

    def entries(self) -> list[CacheEntry]:
        """All entries, by key."""
        return [CacheEntry(*row) for row in self._db.execute(f"SELECT {_COLUMNS} FROM entries ORDER BY key")]  # noqa: S608 - our own column names

    def put_entry(self, entry: CacheEntry) -> None:
        """Add or replace an entry; what was reserved for it is now taken."""
        marks = ", ".join("?" * len(fields(CacheEntry)))
        self._db.execute(f"INSERT OR REPLACE INTO entries ({_COLUMNS}) VALUES ({marks})", astuple(entry))  # noqa: S608 - our own column names
        self.drop_reservation(entry.key)

    def drop_entry(self, key: CacheKey) -> None:
        """Forget an entry."""
        self._db.execute("DELETE FROM entries WHERE key = ?", (key,))
        self._db.execute("DELETE FROM scrubbing WHERE key = ?", (key,))

    def put_trash(self, one: TrashedEntry) -> None:
        """Note what lies in the trash."""
        self._db.execute(
            "INSERT OR REPLACE INTO trash VALUES (?, ?, ?, ?, ?)",
            (one.name, _pack(one.entry), one.entry.allocated, one.since, one.reason),
        )

    def trash(self) -> list[TrashedEntry]:
        """What lies in the trash, the oldest first."""
        rows = self._db.execute("SELECT name, entry, since, reason FROM trash ORDER BY since, name")
        return [TrashedEntry(name, _unpack(entry), since, reason) for name, entry, since, reason in rows]

    def trashed(self, name: str) -> TrashedEntry | None:
        """One thing in the trash."""
        row = self._db.execute("SELECT name, entry, since, reason FROM trash WHERE name = ?", (name,)).fetchone()
        return TrashedEntry(row[0], _unpack(row[1]), row[2], row[3]) if row else None

    def drop_trash(self, name: str) -> None:
        """It has left the trash."""
        self._db.execute("DELETE FROM trash WHERE name = ?", (name,))

    def claim(self, vo: str, keys: Iterable[CacheKey]) -> None:
        """Note that a VO's images have those."""
        self._db.executemany("INSERT OR IGNORE INTO claims VALUES (?, ?)", [(vo, key) for key in keys])

    def claims(self) -> dict[CacheKey, frozenset[str]]:
        """For each key that was claimed, the VOs that did."""
        found: dict[CacheKey, set[str]] = {}
        for vo, key in self._db.execute("SELECT vo, key FROM claims"):
            found.setdefault(key, set()).add(vo)
        return {key: frozenset(vos) for key, vos in found.items()}

    def drop_claims(self, key: CacheKey) -> None:
        """Nobody's images need it here any more."""
        self._db.execute("DELETE FROM claims WHERE key = ?", (key,))

    def scrubbed(self, key: CacheKey) -> int:
        """How far the scrubber is in an entry, in bytes."""
        row = self._db.execute("SELECT position FROM scrubbing WHERE key = ?", (key,)).fetchone()
        return int(row[0]) if row else 0

    def put_scrubbed(self, key: CacheKey, position: int) -> None:
        """Note how far the scrubber is; 0 is at the beginning."""
        if position:
            self._db.execute("INSERT OR REPLACE INTO scrubbing VALUES (?, ?)", (key, position))
        else:
            self._db.execute("DELETE FROM scrubbing WHERE key = ?", (key,))

    def used(self, key: CacheKey, now: float) -> None:
        """Note that an entry was asked for."""
        self._db.execute("UPDATE entries SET last_used = max(last_used, ?) WHERE key = ?", (now, key))

    def verified(self, key: CacheKey, now: float) -> None:
        """Note that an entry was hashed again and found right."""
        self._db.execute("UPDATE entries SET verified_at = ? WHERE key = ?", (now, key))

    def lease(self, holder: str, key: CacheKey, expires_at: float) -> bool:
        """Lease a key or prolong the lease; tells whether it is new."""
        known = self._db.execute("SELECT 1 FROM leases WHERE holder = ? AND key = ?", (holder, key)).fetchone()
        self._db.execute(
            "INSERT INTO leases VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET expires_at = max(expires_at, excluded.expires_at)",
            (holder, key, expires_at),
        )
        return known is None

    def renew(self, holder: str, expires_at: float) -> int:
        """Set the end of all of a holder's leases; returns how many there are."""
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
        """All leases, ended ones included, by holder and key."""
        return [
            CacheLease(*row) for row in self._db.execute("SELECT holder, key, expires_at FROM leases ORDER BY 1, 2")
        ]

    def leased_until(self) -> dict[CacheKey, float]:
        """For each leased key, when its last lease ends."""
        return dict(self._db.execute("SELECT key, max(expires_at) FROM leases GROUP BY key").fetchall())

    def reserved(self) -> dict[CacheKey, tuple[int, float]]:
        """For each key that is being filled, or was, the bytes reserved and when that was last touched."""
        rows = self._db.execute("SELECT key, reserved, last_used FROM reservations ORDER BY key")
        return {key: (count, last_used) for key, count, last_used in rows}

    def put_reservation(self, key: CacheKey, reserved: int, now: float) -> None:
        """Set what is reserved for a key."""
        self._db.execute("INSERT OR REPLACE INTO reservations VALUES (?, ?, ?)", (key, reserved, now))

    def drop_reservation(self, key: CacheKey) -> None:
        """Nothing is reserved for that key any more."""
        self._db.execute("DELETE FROM reservations WHERE key = ?", (key,))
