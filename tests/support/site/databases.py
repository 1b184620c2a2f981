"""Databases for the site's tests: SQLite files, and one real PostgreSQL for each test process, on a Unix socket only.

A database is migrated once. SQLite's file is then copied for each test; of PostgreSQL's, which takes longer to copy than to
empty, there is one that is emptied for each test, and copies for tests that need their own.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

import psycopg
import pytest

from deployer.site.db.engine import SiteDatabase
from deployer.site.db.tables import metadata
from tests.support.node.service_process import wait_for
from tests.support.site import values
from tests.support.site.values import World

KINDS = ("sqlite", "postgresql")
TEMPLATE, SCRATCH = "site_template", "site_scratch"


class Postgresql:
    """A server of the Debian package's binaries, run as its own user; it ends with the block."""

    def __init__(self, binaries: Path, place: Path) -> None:
        self.place = place
        shutil.chown(place, "postgres", "postgres")
        self._run(
            [binaries / "initdb", "-D", place / "data", "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8"]
        )
        options = {"listen_addresses": "", "unix_socket_directories": place, "fsync": "off", "max_connections": 150}
        command = [binaries / "postgres", "-D", place / "data"]
        command += [text for name, value in options.items() for text in ("-c", f"{name}={value}")]
        with (place / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                user="postgres",
                group="postgres",
                extra_groups=(),
                cwd=place,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            )

    def _run(self, command: list[object]) -> None:
        subprocess.run(
            [str(part) for part in command],
            user="postgres",
            group="postgres",
            extra_groups=(),
            cwd=self.place,
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        )

    def url(self, name: str) -> str:
        """Of a database, as the site is told of it."""
        return f"postgresql+psycopg://postgres@/{name}?host={self.place}"

    def execute(self, statement: str) -> None:
        """One statement, outside a transaction."""
        with psycopg.connect(f"host={self.place} user=postgres dbname=postgres", autocommit=True) as connection:
            connection.execute(statement.encode())

    def answers(self) -> bool:
        """Whether it takes connections."""
        with suppress(psycopg.OperationalError):
            self.execute("SELECT 1")
            return True
        return False

    def copy(self) -> str:
        """A new database of the newest shape; its name."""
        name = f"site_{token_hex(6)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return name

    def empty(self, name: str) -> None:
        """Make one of the newest shape empty; one that a test left in another shape is made anew."""
        tables = ", ".join(f'"{table.name}"' for table in metadata.sorted_tables)
        try:
            with psycopg.connect(f"host={self.place} user=postgres dbname={name}", autocommit=True) as connection:
                connection.execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE".encode())
        except psycopg.Error:
            self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            self.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")

    def drop(self, name: str) -> None:
        """It is needed no more."""
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def cut(self, name: str) -> None:
        """End all its connections, as a restart of the server would."""
        with psycopg.connect(f"host={self.place} user=postgres dbname=postgres", autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])

    def stop(self) -> None:
        """Kill it: nothing in it is worth a checkpoint."""
        self._process.kill()
        self._process.wait(60)


def server_binaries() -> Path | None:
    """Where the newest server of the Debian packages is, if one is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return found[-1].parent if found else None


@contextmanager
def running_postgresql() -> Iterator[Postgresql]:
    """A server with an empty template; skips where there are no binaries, or nobody to run them as."""
    binaries = server_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's server is not installed (Debian package postgresql)")
    if os.geteuid() != 0:
        pytest.skip("PostgreSQL is run as its own user, which needs root")
    place = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    try:
        server = Postgresql(binaries, place)
        try:
            wait_for(server.answers, 60)
            server.execute(f"CREATE DATABASE {TEMPLATE}")
            SiteDatabase(server.url(TEMPLATE)).close()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(place)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgresql]:
    """The server of this test process, started when the first test asks for it."""
    with running_postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file without anything in it."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    SiteDatabase(f"sqlite:///{path}").close()
    return path


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, on each kind."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "site.db")
        yield f"sqlite:///{tmp_path / 'site.db'}"
        return
    server: Postgresql = request.getfixturevalue("postgresql")
    server.empty(SCRATCH)
    yield server.url(SCRATCH)


@pytest.fixture
def make_database(database_url: str) -> Iterator[Callable[[], SiteDatabase]]:
    """Opens the same database, as often as asked: each is another process's as far as it can tell."""
    opened: list[SiteDatabase] = []

    def make() -> SiteDatabase:
        opened.append(SiteDatabase(database_url))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def database(make_database: Callable[[], SiteDatabase]) -> SiteDatabase:
    """An empty database, open."""
    return make_database()


@pytest.fixture
def world(database: SiteDatabase) -> World:
    """A store with an empty database."""
    return values.world(database)
