"""A site that was run by an earlier release opens with this one, on both databases, and means the same."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Boolean, Connection, MetaData, text

from catalog.image.manifest import Blank
from deployer.machine.state import MachineState
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.site.db import migrations
from deployer.site.db.clusters import list_clusters
from deployer.site.db.engine import SiteDatabase
from deployer.site.db.machines import desired_state, due_machines, get_deployment, get_machine, machines_of, usage_of
from deployer.site.lifecycle.verb_rules import resize_machine
from deployer.site.model.quota import ResourceUsage
from deployer.site.scheduling.placement import place_machines
from deployer.site.store.admission import find_ordered
from deployer.site.store.deadlines import place_waiting
from signer.documents import validate
from tests.deployer.site.db.test_engine import scripts
from tests.support.site.values import ALICE, BOB, GIB, MIB, NOW, World
from tests.support.site.values import world as make_world

BEFORE = Path(__file__).parents[3] / "vectors" / "state_of_5e5eede" / "site.json"
"""All rows of a site's database but its secrets, as commit 5e5eede wrote them (revision 0006)."""

GROWS, GROWS_TOO, WAITS = (
    "f7c1bd87-4da5-4709-9471-3d60c8a70639",
    "e443df78-9558-467f-9ba9-1faf7a024204",
    "12e0c8b2-bad6-40fb-9948-8dec4f65d4d9",
)


def rows() -> dict[str, list[dict[str, Any]]]:
    """The rows of each table."""
    found: dict[str, list[dict[str, Any]]] = json.loads(BEFORE.read_text())
    return found


def go(connection: Connection, revision: str) -> None:
    """Bring a database to an earlier revision."""
    config = scripts()
    config.attributes["connection"] = connection
    command.downgrade(config, revision)


def command_to(connection: Connection, revision: str) -> None:
    """Bring a database to a later revision."""
    config = scripts()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def fill(connection: Connection) -> None:
    """Put the rows into an empty database of that revision."""
    tables = MetaData()
    tables.reflect(connection)
    order = {table.name: table for table in tables.sorted_tables}
    for name in (name for name in order if name != "alembic_version" and rows().get(name)):
        table = order[name]
        times = {column.name for column in table.columns if column.type.python_type is datetime}
        flags = {column.name for column in table.columns if isinstance(column.type, Boolean)}
        for row in rows()[name]:
            values = {
                key: datetime.fromisoformat(value).replace(tzinfo=None)
                if key in times and value
                else bool(value)
                if key in flags
                else value
                for key, value in row.items()
            }
            connection.execute(table.insert().values(values))


@pytest.fixture
def old(make_database: Callable[[], SiteDatabase]) -> Callable[[], World]:
    """Opens the site with this release."""
    database = make_database()
    with database.writing() as connection:
        go(connection, rows()["alembic_version"][0]["version_num"])
        fill(connection)
    return lambda: make_world(make_database())


def test_machines_are_as_they_were(old: Callable[[], World]) -> None:
    """What they have, how far they may grow, and what was settled about them."""
    site = old()
    store = site.store
    assert store.database.migrated
    grown, other = store.read(machines_of, store.read(get_machine, GROWS).deployment)
    assert (grown.memory, grown.cores, grown.max_memory, grown.max_cores) == (2 * GIB, 2, 4 * GIB, 4)
    assert (other.uuid, other.memory, other.cores, other.max_memory) == (GROWS_TOO, GIB, 1, 4 * GIB)
    assert grown.blanks == (Blank(size=64 * MIB, filesystem="ext4", label="scratch"),)
    assert (grown.verify, str(grown.network)) == ("full", "user")
    assert (grown.created, grown.expires) == (NOW, NOW + timedelta(hours=1))
    assert resize_machine(grown, 4 * GIB, 4) is not None
    told = {one.uuid: one for one in store.read(desired_state, grown.node or "").machines}[GROWS]
    assert (told.properties(), told.public_keys) == (grown.properties(), ("ssh-ed25519 AAAA alice",))
    assert told.user_data_bytes() == b"#cloud-config\n{}\n"


def test_quotas_and_keys_count_as_before(old: Callable[[], World]) -> None:
    """Nobody gets more for an upgrade, and nobody's order is carried out twice."""
    store = old().store
    assert store.read(usage_of, owner=ALICE) == ResourceUsage(2, 8, 8 * GIB)
    assert store.read(usage_of, owner=BOB) == ResourceUsage(1, 2, GIB)
    for who, key, number in ((ALICE, "key-grow", 2), (BOB, "key-plain", 1)):
        request = store.read(find_ordered, who, key, _request(who.subject))
        assert request is not None
        assert len(request[1]) == number


def test_deployments_and_clusters_expire_when_they_did(old: Callable[[], World]) -> None:
    """And so do the machines of both, by the database's own index."""
    store = old().store
    deployment = store.read(get_deployment, store.read(get_machine, GROWS).deployment)
    assert deployment.expires == NOW + timedelta(hours=1)
    (cluster,) = store.read(list_clusters)[0]
    assert (cluster.name, cluster.expires, cluster.document.roles["worker"].max_memory) == (
        "star",
        NOW + timedelta(hours=12),
        2 * GIB,
    )
    due = store.read(due_machines, NOW + timedelta(hours=1), NOW + timedelta(hours=1))
    assert [one.uuid for one in due] == [GROWS, GROWS_TOO]


def test_what_waits_for_a_node_is_placed(old: Callable[[], World]) -> None:
    """With all that it may grow to, and where the policy's limit on one node lets it."""
    site = old()
    assert place_waiting(site.store, place_machines) == 1
    placed = site.store.read(get_machine, WAITS)
    assert placed.node is not None
    assert placed.state is MachineState.PENDING


def test_documents_have_the_names_of_the_glossary(make_database: Callable[[], SiteDatabase]) -> None:
    """A machine that migrates, one at EC2 that is gone, and a cluster; and back again, with nothing lost."""
    move = {"number": 2, "source": "a", "target": "b", "then": "running", "phase": "moving", "seen": False}
    database = make_database()
    with database.writing() as connection:
        go(connection, rows()["alembic_version"][0]["version_num"])
        fill(connection)
        command_to(connection, "0007")
        before = dict(documents(connection, "machines"))
        before[GROWS] |= {
            "move": move,
            "moves": 2,
            "moved": 1,
            "said": ["10.0.0.9"],
            "promise": {"gib": 8},
            "gone": True,
        }
        connection.execute(
            text("UPDATE machines SET document = :document, beside = 'b' WHERE uuid = :uuid"),
            {"document": json.dumps(before[GROWS]), "uuid": GROWS},
        )
        ((cluster, kept),) = documents(connection, "clusters")
        state = json.loads(kept["state"]) | {"over": False}
        connection.execute(
            text("UPDATE clusters SET document = :document"),
            {"document": json.dumps(kept | {"state": json.dumps(state)})},
        )
        insert = text(
            "INSERT INTO events (number, at, kind, subject, what, reason) "
            "VALUES (1000, '2026-11-22 12:00:00', 'machine', :uuid, 'moved', '')"
        )
        connection.execute(insert, {"uuid": GROWS})
        kinds = text("SELECT what FROM events WHERE number = 1000")
        asked = text("SELECT document FROM deployments ORDER BY sequence")
        orders = [json.loads(one)["request"] for one in connection.execute(asked).scalars()]
        assert migrations.MIGRATOR.upgrade(connection)
        after = dict(documents(connection, "machines"))[GROWS]
        assert after["migration"] == {key: move[key] for key in ("number", "source", "target", "seen")} | {
            "desired": "running",
            "phase": "migrating",
        }
        assert (after["migrations"], after["migrated"], after["guest_addresses"]) == (2, 1, ["10.0.0.9"])
        assert (after["reserved_cost"], after["removed_from_node"]) == ({"gib": 8}, True)
        assert (after["desired"], after["expires"]) == (before[GROWS]["want"], before[GROWS]["expires"])
        query = text(
            "SELECT other_node, desired, counts_for_quota, reserved, finished FROM machines WHERE uuid = :uuid"
        )
        row = connection.execute(query, {"uuid": GROWS}).one()
        assert tuple(row) == ("b", after["desired"], True, True, False)
        renamed = json.loads(dict(documents(connection, "clusters"))[cluster]["state"])
        assert renamed == {"finished" if key == "over" else key: value for key, value in state.items()}
        assert connection.execute(kinds).scalar_one() == "migrated"
        for old, new in zip(orders, connection.execute(asked).scalars(), strict=True):
            assert json.loads(new)["request"]["placement_options"] == old["wishes"]
        go(connection, "0007")
        assert dict(documents(connection, "machines")) == before
        assert [json.loads(one)["request"] for one in connection.execute(asked).scalars()] == orders
        assert connection.execute(kinds).scalar_one() == "moved"
        assert json.loads(dict(documents(connection, "clusters"))[cluster]["state"]) == state


def documents(connection: Connection, table: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The documents of a table by the UUIDs of their rows."""
    for uuid, document in connection.execute(text(f"SELECT uuid, document FROM {table}")):  # noqa: S608 - a test's own
        yield uuid, json.loads(document)


def test_the_way_back(old: Callable[[], World]) -> None:
    """Leaves what the earlier release wrote, but for what it can do without."""
    site = old()
    with site.store.database.writing() as connection:
        go(connection, "0006")
        found = connection.execute(text("SELECT uuid, memory, cores, document FROM machines")).all()
        asks = dict(connection.execute(text("SELECT uuid, ask FROM deployments")).all())  # type: ignore[arg-type]
        assert {row[0]: (row[1], row[2], json.loads(row[3])) for row in found} == {
            row["uuid"]: (row["memory"], row["cores"], json.loads(row["document"])) for row in rows()["machines"]
        }
        (cluster,) = connection.execute(text("SELECT document FROM clusters")).scalars()
        (before,) = rows()["clusters"]
        assert json.loads(cluster) == json.loads(before["document"])
        documents = connection.execute(text("SELECT uuid, document FROM deployments")).all()
        assert {row[0]: json.loads(row[1]) for row in documents} == {
            row["uuid"]: json.loads(row["document"]) for row in rows()["deployments"]
        }
        assert {uuid: json.loads(ask) for uuid, ask in asks.items()} == {
            row["uuid"]: json.loads(row["ask"]) for row in rows()["deployments"]
        }
        assert migrations.MIGRATOR.upgrade(connection)


def _request(owner: str) -> DeploymentRequest:
    """What somebody asked for, as the deployment had it then."""
    found = [json.loads(row["document"]) for row in rows()["deployments"]]
    asked = next(one["request"] for one in found if one["owner"]["subject"] == owner)
    return validate(DeploymentRequest, asked | {"placement_options": asked.pop("wishes")}, "request")
