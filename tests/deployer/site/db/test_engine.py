"""The site's database on both kinds: migrations, errors that end here, and what a lost connection means."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from deployer.errors import MachineConflict, SiteUnavailable
from deployer.site.db import migrations
from deployer.site.db.engine import SiteDatabase
from deployer.site.db.events import last_event
from deployer.site.db.machines import get_machine
from deployer.site.db.nodes import get_node
from deployer.site.db.tables import metadata
from deployer.site.model.records import SiteMachine
from deployer.site.store.changes import change_machine
from tests.support.site.databases import Postgresql
from tests.support.site.values import World, telling
from tests.support.site.values import world as make_world


def scripts() -> Config:
    """Alembic's view of the migrations."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return config


def test_migrations_end_at_the_tables(database: SiteDatabase) -> None:
    """Nothing is in the tables that a migrated database has not, and the other way round."""
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    assert ScriptDirectory.from_config(scripts()).get_current_head() == migrations.HEAD


def test_migrations_go_down_and_up_again(database: SiteDatabase) -> None:
    """Down to nothing, and back."""
    config = scripts()
    with database.writing() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        assert set(inspect(connection).get_table_names()) <= {"alembic_version", "sqlite_sequence"}
        assert migrations.MIGRATOR.upgrade(connection)
        assert not migrations.MIGRATOR.upgrade(connection)
    assert make_world(database).join("n1")


def test_a_write_that_fails_leaves_nothing(database: SiteDatabase, world: World) -> None:
    """Neither its rows nor its events."""

    def broken(_machine: SiteMachine) -> SiteMachine:
        raise MachineConflict("no")

    world.join("n1")
    machine, events = world.machine(), world.store.read(last_event)
    with pytest.raises(MachineConflict):
        world.store.write(change_machine, machine.uuid, telling(broken, "paused", ""))
    assert world.store.read(get_machine, machine.uuid) == machine
    assert world.store.read(last_event) == events


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "is not a valid URL"),
        ("sqlite://", "write sqlite:///PATH"),
        ("sqlite:///:memory:", "write sqlite:///PATH"),
        ("mysql+pymysql://root:hunter2@db/site", "write sqlite:///PATH"),
        ("postgresql://root:hunter2@db/site", "write sqlite:///PATH"),
        ("sqlite:////nowhere/at/all/site.db", "cannot be created, or made private"),
        ("postgresql+psycopg://root:hunter2@/site?host=/nowhere", "cannot be used now"),
    ],
)
def test_a_database_that_cannot_be_opened(url: str, sentence: str) -> None:
    """Says so, and never its password."""
    with pytest.raises(SiteUnavailable) as failed:
        SiteDatabase(url)
    assert sentence in str(failed.value)
    assert "hunter2" not in str(failed.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """Is left alone, and said to be none."""
    (tmp_path / "site.db").write_text("my diary, which is long enough not to be taken for a header " * 20)
    with pytest.raises(SiteUnavailable, match="file is not a database"):
        SiteDatabase(f"sqlite:///{tmp_path / 'site.db'}")
    assert (tmp_path / "site.db").read_text().startswith("my diary")


def test_only_its_owner_reads_a_database_file(tmp_path: Path) -> None:
    """It holds the key of the CA."""
    database = SiteDatabase(f"sqlite:///{tmp_path / 'site.db'}")
    make_world(database).join("n1")
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir() if path.name.startswith("site.db")}
    assert set(modes.values()) == {0o600}, modes
    database.close()


def test_many_may_open_a_fresh_database_at_once(tmp_path: Path) -> None:
    """One migrates, the others wait."""
    errors = list[BaseException]()

    def run() -> None:
        try:
            SiteDatabase(f"sqlite:///{tmp_path / 'site.db'}").close()
        except BaseException as exc:  # noqa: BLE001 - shown by the assertion
            errors.append(exc)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []


def test_a_transaction_that_waits_too_long_gives_up(
    make_database: Callable[[], SiteDatabase], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else writes and does not come to an end; whoever asks is told to try again."""
    monkeypatch.setattr("catalog.db.engine.BUSY_MILLISECONDS", 200)
    here, there = make_database(), make_world(make_database())
    with here.writing(), pytest.raises(SiteUnavailable, match="try again later"):
        there.join("n1")
    assert there.join("n1")


def test_a_server_that_ended_its_connections_is_asked_again(postgresql: Postgresql) -> None:
    """After a restart of PostgreSQL the site goes on by itself."""
    name = postgresql.copy()
    database = SiteDatabase(postgresql.url(name))
    site = make_world(database)
    node = site.join("n1")
    postgresql.cut(name)
    assert site.store.read(get_node, node).name == "n1"
    postgresql.cut(name)
    assert site.machine().node == node
    database.close()
    postgresql.drop(name)
