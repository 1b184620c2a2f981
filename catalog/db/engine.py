"""The door to databases: SQLite with a write-ahead log and a sync per commit, or PostgreSQL.

On both, one transaction writes at a time and many read: rows are numbered in the order in which they become visible, and
two requests never take the last of a resource. An advisory lock on PostgreSQL corresponds to BEGIN IMMEDIATE on SQLite.
Errors of the libraries are translated here.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from catalog.db.migrations import MIGRATOR
from catalog.db.migrator import Migrator
from catalog.errors import Conflict, Unavailable
from signer.errors import PartitaError
from signer.runtime.closing import Closable

Transaction = Connection
"""An open transaction, the first argument of every query."""

BUSY_MILLISECONDS = 20_000
"""How long a transaction waits for one of another process; an operator's command takes far less."""

READERS = 64
"""Concurrent connections; below the 100 that PostgreSQL allows all clients by default."""

POOL: dict[str, Any] = {"pool_size": 8, "max_overflow": READERS - 8, "pool_timeout": 60.0}
"""The options of the pool: a thread waits so many seconds for a connection, so that a service with more threads is slow,
but works."""


@dataclass(frozen=True)
class DatabaseKind:
    """The kind of a database.

    Attributes:
        name: the service, for messages.
        migrator: upgrades it to the newest schema.
        unavailable: raised if the database cannot be used.
        lock: the key of PostgreSQL's advisory lock, which a writer holds until its transaction ends.
    """

    name: str
    migrator: Migrator
    unavailable: type[PartitaError]
    lock: int


class Database(Closable):
    """A service's database, upgraded to the newest schema when it is opened.

    Args:
        url: `sqlite:///PATH`, or `postgresql+psycopg://USER:PASSWORD@HOST/NAME`; the latter must exist.
        kind: of the database.

    Attributes:
        migrated: whether opening it changed the schema.

    Raises:
        PartitaError: the kind's `unavailable`: it cannot be opened, made or migrated, or a newer release has migrated it.
            The message never contains the password.
    """

    def __init__(self, url: str | URL, kind: DatabaseKind) -> None:
        parsed = parse_url(url, kind)
        self.kind, self.name = kind, parsed.render_as_string(hide_password=True)
        self._engine = _sqlite(parsed, kind) if parsed.get_backend_name() == "sqlite" else _postgresql(parsed, kind)
        self._reader = self._engine.execution_options(
            **({} if self.is_sqlite else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True})
        )
        self._writer = self._engine.execution_options(writes=True)
        self._writing = threading.Lock()
        try:
            with self.writing() as connection:
                self._check_revision(connection)
                self.migrated = kind.migrator.upgrade(connection)
        except BaseException:
            self.close()
            raise

    @property
    def is_sqlite(self) -> bool:
        """Whether it is an SQLite file."""
        return self._engine.dialect.name == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read transaction: one consistent view."""
        with self._translated(), self._reader.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A write transaction, the only one; durable when the block ends, undone if it raises."""
        # Threads of one process queue here; otherwise they would poll for the database's lock, and starve.
        with self._writing, self._translated(), self._writer.connect() as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _check_revision(self, connection: Connection) -> None:
        revision, head = self.kind.migrator.revision(connection), self.kind.migrator.head
        if revision is not None and revision > head:
            raise self.kind.unavailable(
                f"{self.name}: a newer release upgraded it to revision {revision}, but this release supports at most {head}; "
                "use the newer release, or restore a backup"
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError as exc:
            raise Conflict(f"the {self.kind.name} already uses that name otherwise ({_first(exc.orig)})") from exc
        except (DatabaseError, InterfaceError) as exc:
            raise self.kind.unavailable(
                f"{self.name}: the {self.kind.name}'s database cannot be used now ({_first(exc.orig)}); try again later"
            ) from exc
        except PoolTimeout as exc:
            raise self.kind.unavailable(
                f"{self.name}: the {self.kind.name}'s database is too busy; try again later"
            ) from exc


CATALOG = DatabaseKind("catalog", MIGRATOR, Unavailable, 0x7061727469746163)
"""The lock is "partitac"."""


class CatalogDatabase(Database):
    """A catalog's database file."""

    def __init__(self, path: Path) -> None:
        super().__init__(URL.create("sqlite", database=str(path)), CATALOG)
        self.path = path


def libpq_environment(url: str, kind: DatabaseKind) -> dict[str, str]:
    """The environment variables with which PostgreSQL's tools find a database; errors as for `parse_url`."""
    parsed = parse_url(url, kind)
    host = parsed.host or parsed.query.get("host", "")
    found = {
        "PGHOST": host if isinstance(host, str) else host[0],
        "PGPORT": str(parsed.port or ""),
        "PGUSER": parsed.username or "",
        "PGPASSWORD": parsed.password if isinstance(parsed.password, str) else "",
        "PGDATABASE": parsed.database or "",
    }
    return {name: value for name, value in found.items() if value}


def _first(error: object) -> str:
    """The first line of a driver's message; the rest repeats the query."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def parse_url(url: str | URL, kind: DatabaseKind) -> URL:
    """Parse a database URL; raises the kind's `unavailable` if it names no supported database."""
    try:
        parsed = make_url(url)
    except ArgumentError as exc:
        raise kind.unavailable(
            f"the {kind.name}'s database is not a valid URL; write sqlite:///PATH or postgresql+psycopg://..."
        ) from exc
    if parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed
    if parsed.drivername == "postgresql+psycopg":
        return parsed
    raise kind.unavailable(
        f"{parsed.drivername} with {parsed.database or 'no database'} cannot be the {kind.name}'s database; write "
        "sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME"
    )


def _sqlite(url: URL, kind: DatabaseKind) -> Engine:
    assert url.database is not None  # noqa: S101 - `parse_url` ensures it
    path = Path(url.database)
    try:
        # Only its owner may read it, as it contains secrets. SQLite's other files get the same mode.
        path.touch(mode=0o600)
        path.chmod(0o600)
    except OSError as exc:
        raise kind.unavailable(
            f"{path}: the {kind.name}'s database cannot be created, or made private ({exc.strerror})"
        ) from exc
    engine = create_engine(url, **POOL)

    @event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # else sqlite3 begins transactions itself, late and without IMMEDIATE
        for pragma in (
            f"busy_timeout = {BUSY_MILLISECONDS}",
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(url: URL, kind: DatabaseKind) -> Engine:
    # Plan each query for its parameters: a generic plan reads far more of a large table.
    engine = create_engine(url, **POOL, pool_pre_ping=True, connect_args={"prepare_threshold": None})

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if connection.get_execution_options().get("writes", False):
            connection.execute(text(f"SET LOCAL lock_timeout = {BUSY_MILLISECONDS}"))
            connection.execute(text(f"SELECT pg_advisory_xact_lock({kind.lock})"))

    return engine
