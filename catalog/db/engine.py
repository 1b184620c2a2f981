"""The database: SQLite with a write-ahead log and a sync per commit, one writer at a time, many readers.

Its errors end here: a full disk or a lock that is not given back in time is Unavailable.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, IntegrityError

from catalog.db import migrations
from catalog.errors import Conflict, Unavailable

Transaction = Connection
"""An open transaction: what every query takes."""

BUSY_MILLISECONDS = 20_000
"""How long a transaction waits for another process's: a command of the operator beside the service takes far less."""


class Database:
    """A catalog's database file, brought to the newest shape when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        _keep_private(path)
        self._engine = _engine(path)
        self._writer = self._engine.execution_options(writes=True)
        with self.writing() as connection:
            self.migrated = migrations.upgrade(connection)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read transaction: one consistent view."""
        with _translated(self.path), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A write transaction: taken at once (BEGIN IMMEDIATE), durable when the block ends, undone if it raises."""
        with _translated(self.path), self._writer.connect() as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()


def _keep_private(path: Path) -> None:
    """Nobody else on this machine reads the database, which holds secrets; SQLite's other files take its mode over."""
    try:
        path.touch(mode=0o600)
        path.chmod(0o600)
    except OSError as exc:
        raise Unavailable(f"{path}: the catalog's database cannot be made or kept private ({exc.strerror})") from exc


def _engine(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}", pool_size=8, max_overflow=56)

    @event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # sqlite3 would begin transactions by itself, late and without IMMEDIATE
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


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except IntegrityError as exc:
        raise Conflict(f"the catalog holds something else under that name ({exc.orig})") from exc
    except DatabaseError as exc:
        raise Unavailable(f"{path}: the catalog's database cannot be used now ({exc.orig}); try again later") from exc
