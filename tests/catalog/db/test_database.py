"""The database: migrations and tables agree, commits are durable, writers wait for each other, ranges stay merged."""

import threading
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import inspect, text

from catalog.db import images as registry
from catalog.db import migrations
from catalog.db import publications as holdings
from catalog.db.engine import Database
from catalog.db.tables import metadata
from catalog.errors import Conflict, Unavailable
from catalog.image.address import Address
from signer.verification.trust import Anchor
from tests.support.factories import manifest

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
FINGERPRINT = "A" * 40
ADDRESS = Address(bytes(32), 1 << 30)
IMAGE = "sha256:" + "1" * 64


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """An empty database of the newest shape."""
    return Database(tmp_path / "catalog.db")


def scripts() -> Config:
    """Alembic's view of the migrations."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return config


def test_migrations_end_at_the_tables(database: Database) -> None:
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


def test_migrations_go_up_and_down_and_up_again(database: Database) -> None:
    """Down to nothing, and back."""
    config = scripts()
    with database.writing() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        assert set(inspect(connection).get_table_names()) <= {"alembic_version", "sqlite_sequence"}
        assert migrations.upgrade(connection)
    with database.writing() as connection:
        assert not migrations.upgrade(connection)
        registry.register_vo(connection, "star", NOW)


def test_a_migration_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """It happens in one transaction."""
    database = Database(tmp_path / "catalog.db")
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
            Database(tmp_path / "catalog.db").close()
        except BaseException as exc:  # noqa: BLE001 - whatever it is, the test shows it
            errors.append(exc)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_every_commit_is_durable(database: Database) -> None:
    """A write-ahead log, and a sync per commit."""
    for transaction in (database.reading, database.writing):
        with transaction() as connection:
            assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
            assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
            assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1


def test_writers_wait_for_each_other(database: Database) -> None:
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


def test_what_raises_is_undone(database: Database) -> None:
    """Nothing of a transaction that fails is visible."""

    def fail() -> None:
        with database.writing() as connection:
            registry.register_vo(connection, "star", NOW)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with database.reading() as connection:
        assert not registry.has_vo(connection, "star")


def test_a_database_that_is_none_is_unavailable(tmp_path: Path) -> None:
    """With its place; a file that is no database is not touched."""
    path = tmp_path / "catalog.db"
    path.mkdir()
    with pytest.raises(Unavailable, match=r"catalog\.db: the catalog's database cannot be used"):
        Database(path)
    other = tmp_path / "other.db"
    other.write_bytes(b"This is a letter to my grandmother. " * 100)
    with pytest.raises(Unavailable, match="is not a database"):
        Database(other)
    assert other.read_bytes().startswith(b"This is a letter")


def test_a_key_has_one_role_per_vo_and_can_be_removed(database: Database) -> None:
    """Registering again changes role and key; another VO's is another registration."""
    with database.writing() as connection:
        for vo in ("star", "atlas", "star"):
            registry.register_vo(connection, vo, NOW)
        registry.register_key(connection, Anchor("star", "reviewer", FINGERPRINT, b"old"), NOW)
        registry.register_key(connection, Anchor("star", "image-administrator", FINGERPRINT, b"new"), NOW)
        registry.register_key(connection, Anchor("atlas", "reviewer", FINGERPRINT, b"new"), NOW)
        (anchor,) = registry.list_anchors(connection, "star")
        assert (anchor.role, anchor.key) == ("image-administrator", b"new")
        assert [(vo.name, vo.keys) for vo in registry.list_vos(connection, "", 10)] == [("atlas", 1), ("star", 1)]
        assert registry.remove_key(connection, "star", FINGERPRINT)
        assert registry.list_anchors(connection, "star") == []
        assert len(registry.list_anchors(connection, "atlas")) == 1
    with pytest.raises(Conflict), database.writing() as connection:
        registry.register_key(connection, Anchor("cms", "reviewer", FINGERPRINT, b"new"), NOW)


def test_instants_come_back_as_they_went_in(database: Database) -> None:
    """Whatever zone they were given in."""
    elsewhere = NOW.astimezone(timezone(timedelta(hours=-5)))
    with database.writing() as connection:
        registry.register_vo(connection, "star", elsewhere)
        assert registry.list_vos(connection, "", 1)[0].registered == NOW


def test_one_name_and_version_cannot_be_there_twice(database: Database) -> None:
    """The database itself refuses it, whatever the use case forgot."""
    with database.writing() as connection:
        registry.add_image(connection, manifest([Address.of(b"a")]), NOW)
    with pytest.raises(Conflict), database.writing() as connection:
        registry.add_image(connection, manifest([Address.of(b"b")]), NOW)


def test_a_blob_is_served_only_for_a_published_image(database: Database) -> None:
    """Verified content of a pending publication is invisible."""
    image = manifest([ADDRESS])
    with database.writing() as connection:
        holdings.put_publication(connection, image, NOW)
        assert holdings.missing_contents(connection, image.image_id) == [ADDRESS]
        holdings.add_content(connection, ADDRESS, 5, NOW)
        assert holdings.missing_contents(connection, image.image_id) == []
        assert not holdings.is_served(connection, ADDRESS)
        registry.add_image(connection, image, NOW)
        holdings.end_publication(connection, image.image_id)
        assert holdings.is_served(connection, ADDRESS)
        assert holdings.unreferenced_contents(connection) == []
        holdings.forget_publication(connection, image.image_id)  # a published image keeps its parts
        assert holdings.is_served(connection, ADDRESS)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=14))
def test_received_ranges_are_a_set_of_bytes(database: Database, pieces: list[tuple[int, int]]) -> None:
    """In whatever order and overlap they come, they are kept sorted, apart, and hold exactly what came."""
    came: set[int] = set()
    with database.writing() as connection:
        holdings.drop_ranges(connection, IMAGE, ADDRESS)
        for start, length in pieces:
            holdings.add_range(connection, IMAGE, ADDRESS, start, start + length)
            came |= set(range(start, start + length))
        found = holdings.received_ranges(connection, IMAGE, ADDRESS)
    assert {n for start, end in found for n in range(start, end)} == came
    assert all(before[1] < after[0] for before, after in pairwise(found))
