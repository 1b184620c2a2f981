"""A site that was run by an earlier release opens with this one, on both databases, and means the same."""

import json
from collections.abc import Callable
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
    return validate(DeploymentRequest, asked, "request")
