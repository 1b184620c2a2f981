"""A site forgets what is over for long, and nothing that something living refers to; in both databases, some at a time."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from deployer.errors import DeploymentNotFound, JoinRefused
from deployer.machine.state import MachineState
from deployer.site.db import contexts as broker_store
from deployer.site.db import tables
from deployer.site.db.engine import SiteDatabase
from deployer.site.db.events import last_event, list_events
from deployer.site.db.machines import get_deployment, get_machine
from deployer.site.lifecycle.verb_rules import Verb, apply_verb
from deployer.site.model.contact import BrokerContact
from deployer.site.model.records import SiteMachine
from deployer.site.operations import retention as pruning
from deployer.site.operations.retention import Pruner, RetentionPeriods
from deployer.site.store.changes import add_cluster, change_cluster, change_machine, new_join_token, redeem_join_token
from deployer.site.store.unit_of_work import UnitOfWork
from partita import app
from tests.support.commands import CliRunner
from tests.support.site.values import ALICE, NOW, World, cluster_of, look, observed
from tests.support.site.values import world as make_world

KEEP = RetentionPeriods(timedelta(days=90), timedelta(days=730))
LATER = NOW + timedelta(days=91)
MUCH_LATER = NOW + timedelta(days=800)


def rows(world: World) -> dict[str, int]:
    """How much is in each table."""
    with world.store.database.reading() as connection:
        every = tables.metadata.sorted_tables
        return {one.name: int(connection.execute(select(func.count()).select_from(one)).scalar_one()) for one in every}


def ended(world: World, node: str, machine: SiteMachine) -> None:
    """A machine ends, and its node has nothing of it."""
    world.store.write(change_machine, machine.uuid, lambda one: apply_verb(one, Verb.DESTROY, "", world.clock.at))
    world.report(node, observed(machine, MachineState.ENDED))
    assert world.store.read(get_machine, machine.uuid).removed_from_node


def pruner(world: World, *, dry: bool = False) -> Pruner:
    """Of that world's database."""
    return Pruner(world.store.database, KEEP, dry=dry)


def test_what_has_ended_goes_whole_when_its_time_is_long_over(world: World) -> None:
    node = world.join("n1")
    deployment, (one, two), _ = world.admit(key="k", count=2)
    for machine in (one, two):
        ended(world, node, machine)
    with world.store.database.writing() as connection:
        contact = BrokerContact(one.uuid, node, 1, "0" * 64)
        broker_store.put_contact(connection, contact, NOW + timedelta(days=1))
        broker_store.put_value(connection, one.uuid, "key", b"value", NOW)
    before = rows(world)
    assert not +pruner(world).everything(NOW + timedelta(days=90))  # its time was an hour
    assert rows(world) == before
    counted = pruner(world, dry=True).everything(LATER)
    assert (counted["deployments"], counted["machines"]) == (1, 2)
    assert rows(world) == before
    found = pruner(world).everything(LATER)
    assert (found["deployments"], found["machines"], found["keys"]) == (1, 2, 1)
    after = rows(world)
    assert {
        name: after[name] for name in ("deployments", "machines", "orders", "contexts", "published")
    } == dict.fromkeys(("deployments", "machines", "orders", "contexts", "published"), 0)
    with pytest.raises(DeploymentNotFound):
        world.store.read(get_deployment, deployment.uuid)
    assert world.admit(key="k", count=2)[2]  # a new order
    assert pruner(world).everything(LATER)["deployments"] == 0


def _running(world: World, node: str) -> None:
    world.report(node, observed(world.machine(), MachineState.RUNNING))


def _one_of_two(world: World, node: str) -> None:
    one, _ = world.admit(count=2)[1]
    ended(world, node, one)


def _not_gone(world: World, node: str) -> None:
    """It is over for the site; its node was lost, and may have it still."""
    world.report(node, observed(world.machine(), MachineState.RUNNING))
    world.clock.advance(days=1)
    look(world.store, world.clock.at, world.clock.at, "fail")


def _in_a_cluster(world: World, node: str) -> None:
    ended(world, node, world.machine(cluster=_cluster(world), role="worker"))


def _long_lived(world: World, node: str) -> None:
    ended(world, node, world.machine(lifetime=200 * 86400))


def _cluster(world: World, name: str = "star") -> str:
    return world.store.write(add_cluster, ALICE, *cluster_of(name)).uuid


@pytest.mark.parametrize(
    ("what", "make"),
    [
        ("a machine that runs", _running),
        ("a machine of a deployment of which another one lives", _one_of_two),
        ("a machine that its lost node may still have", _not_gone),
        ("a member of a cluster that is active", _in_a_cluster),
        ("a machine whose time was long", _long_lived),
    ],
)
def test_what_something_living_refers_to_stays(world: World, what: str, make: Callable[[World, str], None]) -> None:
    make(world, world.join("n1"))
    with world.store.database.reading() as connection:
        told = connection.execute(
            select(func.count()).select_from(tables.events).where(tables.events.c.deployment.is_not(None))
        ).scalar_one()
    before = rows(world)
    pruner(world).everything(LATER)
    after = rows(world)
    assert {name: count for name, count in after.items() if name != "events"} == {
        name: count for name, count in before.items() if name != "events"
    }, what
    assert after["events"] >= told, what


def test_a_cluster_goes_after_its_members(world: World) -> None:
    node, cluster = world.join("n1"), _cluster(world)
    lost = _cluster(world, "moon")  # one that was refused: it never had a member
    ended(world, node, world.machine(cluster=cluster, role="a"))
    for uuid in (cluster, lost):
        world.store.write(
            change_cluster, uuid, lambda one: one.state.model_copy(update={"finished": True}), "ended", "so it is"
        )
    found = pruner(world).everything(LATER)
    assert (found["clusters"], found["deployments"]) == (2, 1)
    assert rows(world)["clusters"] == 0


def test_stories_go_but_for_what_people_did_and_the_newest(world: World) -> None:
    """Numbers go on from the newest event, so that is never removed."""
    node = world.join("n1")
    ended(world, node, world.machine())
    with world.store.database.writing() as connection:
        # As if somebody had ordered it, and somebody else had drained the node.
        by = tables.events.update().where(tables.events.c.what.in_(["admitted", "joined"])).values(by="issuer alice")
        connection.execute(by)
    world.store.write(UnitOfWork.add_event, "node", node, "lost", "so it is")
    last = world.store.read(last_event)
    pruner(world).everything(LATER)
    assert set(world.told()) == {"admitted", "joined", "lost"}
    assert world.store.read(last_event) == last
    pruner(world).everything(MUCH_LATER)
    assert world.told() == ["lost"]
    world.store.write(UnitOfWork.add_event, "node", node, "ready", "")
    assert [event.number for event in world.store.read(list_events, last)] == [last + 1]


def test_join_tokens_go(world: World) -> None:
    for digest, days in (("a", 1), ("b", 100)):
        world.store.write(new_join_token, digest * 64, NOW + timedelta(days=days))
    world.store.write(redeem_join_token, "a" * 64, NOW)
    assert pruner(world).everything(LATER + timedelta(days=5))["tokens"] == 1
    world.store.write(redeem_join_token, "b" * 64, NOW)
    with pytest.raises(JoinRefused):
        world.store.write(redeem_join_token, "a" * 64, NOW)


def test_it_works_in_small_steps_and_rests(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot go does not keep what comes after it from going."""
    monkeypatch.setattr(pruning, "MACHINES_AT_ONCE", 2)
    monkeypatch.setattr(pruning, "STEPS_AT_ONCE", 1)
    node = world.join("n1", cores=64, memory=1 << 40)
    for _ in range(3):
        _one_of_two(world, node)  # the oldest of all, and they stay
    world.clock.advance(seconds=10)
    for _ in range(5):
        ended(world, node, world.machine())
    found = pruner(world)
    looks, removed = 0, 0
    while found._rest_until is None:
        removed += found.look(LATER)["deployments"]
        looks += 1
        assert looks < 50
    assert removed == 5
    assert looks > 5
    assert rows(world)["deployments"] == 3
    assert not found.look(LATER + timedelta(minutes=59))
    ended(world, node, world.machine())
    assert found.look(LATER + timedelta(days=2))["deployments"] == 0  # its first step sees those that stay
    assert sum(found.look(LATER + timedelta(days=2))["deployments"] for _ in range(20)) == 1


def test_the_command_counts_and_removes(tmp_path: Path) -> None:
    database = SiteDatabase(f"sqlite:///{tmp_path / 'site.db'}")
    world = make_world(database)
    old: datetime = NOW - timedelta(days=400)
    world.clock.at = old
    ended(world, world.join("n1"), world.machine())
    database.close()
    settings = ["--set", f"site.directory={tmp_path}", "site", "prune", "--json"]
    for words, machines in ((["--dry-run"], 1), ([], 1), ([], 0)):
        result = CliRunner().invoke(app, [*settings, *words])
        assert result.exit_code == 0, result.output
        assert json.loads(result.output)["machines"] == machines
