"""What the broker remembers, on SQLite and on PostgreSQL; and that an idle node's question costs it one query."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import event

from deployer.site.db import contexts as book
from deployer.site.db import documents
from deployer.site.db.engine import SiteDatabase
from deployer.site.db.machines import desired_state
from deployer.site.model.contact import BrokerContact
from tests.support.site.context_broker import World

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ONE, TWO, THREE = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2, 3))


def test_contacts_and_what_was_published_are_kept_changed_and_forgotten(database: SiteDatabase) -> None:
    first = BrokerContact(ONE, "node", 1, "5" * 64)
    with database.writing() as connection:
        book.put_contact(connection, first, NOW)
        book.put_contact(connection, BrokerContact(TWO, "node", 1, "6" * 64), NOW + timedelta(days=1))
        book.put_value(connection, ONE, "address", b"10.0.0.1", NOW)
        book.put_value(connection, ONE, "address", b"10.0.0.22", NOW)
        book.put_value(connection, ONE, "binary", bytes(range(256)), NOW)
        book.put_value(connection, TWO, "address", b"10.0.0.3", NOW)
    used = replace(first, used=NOW, nonce="a", session="b" * 64, expires=NOW, alarmed=NOW)
    with database.writing() as connection:
        book.update_contact(connection, used)
    with database.reading() as connection:
        assert book.get_contact(connection, ONE) == used
        assert book.get_contact(connection, THREE) is None
        assert set(book.get_contacts(connection, [ONE, TWO, THREE])) == {ONE, TWO}
        assert book.published_sizes(connection, [ONE, TWO, THREE]) == {
            ONE: {"address": 9, "binary": 256},
            TWO: {"address": 8},
        }
        assert book.published_values(connection, [ONE, TWO], "address") == {ONE: b"10.0.0.22", TWO: b"10.0.0.3"}
        assert book.published_values(connection, [ONE], "binary") == {ONE: bytes(range(256))}
        assert book.expired_contacts(connection, NOW + timedelta(seconds=1), 10) == [ONE]
    again = BrokerContact(ONE, "other", 2, "7" * 64)
    with database.writing() as connection:
        book.put_contact(connection, again, NOW + timedelta(days=2))
        book.delete_values(connection, ONE)
        book.postpone_expiry(connection, TWO, NOW)
    with database.reading() as connection:
        assert book.get_contact(connection, ONE) == again
        assert book.published_sizes(connection, [ONE]) == {}
        assert book.expired_contacts(connection, NOW + timedelta(seconds=1), 10) == [TWO]
    with database.writing() as connection:
        book.delete_contact(connection, TWO)
    with database.reading() as connection:
        assert set(book.get_contacts(connection, [ONE, TWO])) == {ONE}
        assert book.published_sizes(connection, [TWO]) == {}


def test_more_machines_than_one_query_takes(database: SiteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "AT_ONCE", 10)
    many = [f"00000000-0000-4000-8000-{number:012x}" for number in range(2 * documents.AT_ONCE + 1)]
    with database.writing() as connection:
        for uuid in many:
            book.put_contact(connection, BrokerContact(uuid, "node", 1, "5" * 64), NOW)
            book.put_value(connection, uuid, "address", b"10.0.0.1", NOW)
    with database.reading() as connection:
        assert list(book.get_contacts(connection, many)) == many
        assert (
            len(book.published_sizes(connection, many))
            == len(book.published_values(connection, many, "address"))
            == len(many)
        )


def test_a_node_that_is_told_the_same_again_costs_one_reading_query(database: SiteDatabase, tmp_path: Path) -> None:
    world = World(tmp_path, database=database)
    (first, *_) = world.machines(20)
    assert first.node is not None
    state = world.store.read(desired_state, first.node)
    told = world.broker.introduce(first.node, state)
    queries: list[str] = []
    event.listen(world.database._engine, "before_cursor_execute", lambda *found: queries.append(found[2]))
    assert world.broker.introduce(first.node, state) == told
    assert [query.split()[0] for query in queries if query != "BEGIN"] == ["SELECT"]
