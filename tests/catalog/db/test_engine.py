"""The database: migrations and tables agree, commits are durable, writers wait for each other, ranges stay merged."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text

from catalog.db import images as registry
from catalog.db import migrations, publications
from catalog.db.engine import CatalogDatabase
from catalog.db.tables import metadata
from catalog.errors import Unavailable
from catalog.image.address import Address

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def scripts() -> Config:
    """Alembic's view of the migrations."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return config


def test_migrations_end_at_the_tables(database: CatalogDatabase) -> None:
    """Nothing is in the tables that a migrated database has not, and the other way round."""
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        inspector = inspect(connection)
        for table in metadata.sorted_tables:
            unique = {tuple(one["column_names"]) for one in inspector.get_unique_constraints(table.name)}
            wanted = {
                tuple(column.name for column in one.columns)
                for one in table.constraints
                if type(one).__name__ == "UniqueConstraint"
            }
            assert unique == wanted, table.name
    assert ScriptDirectory.from_config(scripts()).get_current_head() == migrations.HEAD


def test_migrations_go_up_and_down_and_up_again(database: CatalogDatabase) -> None:
    """Down to nothing, and back."""
    config = scripts()
    with database.writing() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        assert set(inspect(connection).get_table_names()) <= {"alembic_version", "sqlite_sequence"}
        assert migrations.MIGRATOR.upgrade(connection)
    with database.writing() as connection:
        assert not migrations.MIGRATOR.upgrade(connection)
        registry.register_vo(connection, "star", NOW)


def test_a_database_of_revision_0006_keeps_its_contents(tmp_path: Path) -> None:
    """Rows of `parts` and `blobs` are those of `image_contents` and `contents`."""
    path, address = tmp_path / "catalog.db", Address(bytes(range(32)), 5)
    engine, config = create_engine(f"sqlite:///{path}"), scripts()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0006")
        connection.execute(text("INSERT INTO parts VALUES ('sha256:1', 0, :it)"), {"it": str(address)})
        connection.execute(
            text("INSERT INTO blobs VALUES (:it, 3, '2026-11-22 12:00:00.000000')"), {"it": str(address)}
        )
    engine.dispose()
    database = CatalogDatabase(path)
    assert database.migrated
    with database.reading() as connection:
        assert publications.all_contents(connection) == [address]
        assert publications.image_has_content(connection, "sha256:1", address)
        assert not {"parts", "blobs"} & set(inspect(connection).get_table_names())
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    database.close()
    assert not CatalogDatabase(path).migrated


def test_a_migration_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """It happens in one transaction."""
    database = CatalogDatabase(tmp_path / "catalog.db")
    config = scripts()

    def fail() -> None:
        with database.writing() as connection:
            config.attributes["connection"] = connection
            command.downgrade(config, "base")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.reading() as connection:
        assert registry.list_vos(connection, "", 10) == []


def test_many_processes_may_open_a_fresh_directory_at_once(tmp_path: Path) -> None:
    """`vo register` beside a service that is just starting: one migrates, the others wait."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            CatalogDatabase(tmp_path / "catalog.db").close()
        except BaseException as exc:  # noqa: BLE001 - whatever it is, the test shows it
            errors.append(exc)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_every_commit_is_durable(database: CatalogDatabase) -> None:
    """A write-ahead log, and a sync per commit."""
    for transaction in (database.reading, database.writing):
        with transaction() as connection:
            assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
            assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
            assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1


def test_writers_wait_for_each_other(database: CatalogDatabase) -> None:
    """No update is lost between a reading and a writing of the same transaction."""
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE counter (n INTEGER)"))
        connection.execute(text("INSERT INTO counter VALUES (0)"))

    def count() -> None:
        for _ in range(25):
            with database.writing() as connection:
                n = connection.execute(text("SELECT n FROM counter")).scalar_one()
                connection.execute(text("UPDATE counter SET n = :n"), {"n": n + 1})

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.reading() as connection:
        assert connection.execute(text("SELECT n FROM counter")).scalar() == 100


def test_what_raises_is_undone(database: CatalogDatabase) -> None:
    """Nothing of a transaction that fails is visible."""

    def fail() -> None:
        with database.writing() as connection:
            registry.register_vo(connection, "star", NOW)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with database.reading() as connection:
        assert not registry.has_vo(connection, "star")


def test_a_database_of_a_newer_release_is_refused(database: CatalogDatabase) -> None:
    """Whoever goes back to an older release is told what to do, and nothing is changed."""
    with database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Unavailable, match="a newer release upgraded it to revision 9999, but this release supports"):
        CatalogDatabase(database.path)
    with database.reading() as connection:
        assert migrations.MIGRATOR.revision(connection) == "9999"


def test_a_database_that_is_none_is_unavailable(tmp_path: Path) -> None:
    """With its place; a file that is no database is not touched."""
    path = tmp_path / "catalog.db"
    path.mkdir()
    with pytest.raises(Unavailable, match=r"catalog\.db: the catalog's database cannot be used"):
        CatalogDatabase(path)
    other = tmp_path / "other.db"
    other.write_bytes(b"This is a letter to my grandmother. " * 100)
    with pytest.raises(Unavailable, match="is not a database"):
        CatalogDatabase(other)
    assert other.read_bytes().startswith(b"This is a letter")
