"""Nodes as a site remembers them, on SQLite and on PostgreSQL: joining, draining, leaving, and what they say of themselves."""

from datetime import timedelta

import pytest

from catalog.errors import Conflict
from deployer.errors import JoinRefused, NoCapacity, NodeNotFound
from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredStatus
from deployer.site.db.machines import desired_state, get_machine
from deployer.site.db.nodes import find_node, get_node, list_nodes, revision_of
from deployer.site.model.records import NodeState, SiteNode
from deployer.site.store.changes import add_node, change_machine, new_join_token, redeem_join_token, set_node_state
from deployer.site.store.reports import store_report
from tests.support.site.values import CONTENT, NOBODY, NOW, World, capable, telling, together


def put(world: World, uuid: str, state: NodeState, reason: str) -> SiteNode:
    """A node in another state, as it is then."""
    world.store.write(set_node_state, uuid, state, reason)
    return world.store.read(get_node, uuid)


def test_a_node_joins_and_reports(world: World) -> None:
    """It is remembered as it said it is."""
    uuid = world.store.write(add_node, "n1", {"rack": "7"}).uuid
    fresh = world.store.read(get_node, uuid)
    assert (fresh.state, fresh.reported, fresh.labels, fresh.joined) == (NodeState.READY, None, {"rack": "7"}, NOW)
    world.clock.advance(seconds=5)
    world.store.write(store_report, uuid, capable(labels={"rack": "8"}, cached=(CONTENT,), accelerator="kvm"))
    known = world.store.read(get_node, uuid)
    assert (known.labels, known.cached, known.accelerator) == ({"rack": "8"}, frozenset({CONTENT}), "kvm")
    assert known.reported == NOW + timedelta(seconds=5)
    assert known.capacity.cores == 4
    assert world.store.read(list_nodes) == (known,)
    assert world.store.read(list_nodes, contents=False) == (known.model_copy(update={"cached": frozenset()}),)


def test_what_a_node_caches_comes_and_goes(world: World) -> None:
    """Only what is another is written."""
    uuid = world.join("n1", cached=("a", "b", "c"))
    other = world.join("n2", cached=("b",))
    world.store.write(store_report, uuid, capable(cached=("b", "d")))
    assert world.store.read(get_node, uuid).cached == {"b", "d"}
    assert world.store.read(get_node, other).cached == {"b"}
    world.store.write(store_report, uuid, capable())
    assert world.store.read(get_node, uuid).cached == frozenset()


def test_two_nodes_do_not_have_one_name(world: World) -> None:
    """Until the first has left; whoever reads its story still finds it."""
    first = world.join("n1")
    with pytest.raises(Conflict, match="has a node n1"):
        world.store.write(add_node, "n1", {})
    world.store.write(set_node_state, first, NodeState.LEFT, "scrapped")
    second = world.store.write(add_node, "n1", {}).uuid
    assert world.store.read(find_node, "n1").uuid == second
    assert world.store.read(get_node, first).name == f"n1 ({first[:8]})"


def test_nodes_are_found_by_name_and_by_the_beginning_of_their_uuid(world: World) -> None:
    """Where that is enough."""
    uuid = world.join("n1")
    world.join("n2")
    assert world.store.read(find_node, "n1").uuid == uuid
    assert world.store.read(find_node, uuid).uuid == uuid
    assert world.store.read(find_node, uuid[:6]).uuid == uuid
    for text in ("n3", uuid[:3], "zzzz", "%", ""):
        with pytest.raises(NodeNotFound):
            world.store.read(find_node, text)
    for query in (get_node, revision_of, desired_state):
        with pytest.raises(NodeNotFound):
            world.store.read(query, NOBODY)
    with pytest.raises(NodeNotFound):
        world.store.write(store_report, NOBODY, capable())


def test_a_draining_node_gets_no_more_machines(world: World) -> None:
    """Those that it has stay; it hears of it; and it can be used again."""
    uuid = world.join("n1")
    machine = world.machine()
    before = world.store.read(revision_of, uuid)
    assert put(world, uuid, NodeState.DRAINING, "new disks").draining
    assert world.store.read(desired_state, uuid).draining
    assert world.store.read(revision_of, uuid) == before + 1
    with pytest.raises(NoCapacity, match="not taking machines"):
        world.admit()
    assert world.store.read(get_machine, machine.uuid) == machine
    assert put(world, uuid, NodeState.DRAINING, "again").state is NodeState.DRAINING
    assert world.told()[-1:] == ["draining"]
    world.store.write(set_node_state, uuid, NodeState.READY, "done")
    assert world.machine().node == uuid


def test_a_lost_node_that_was_draining_comes_back_draining(world: World) -> None:
    """And what is said of it meanwhile is remembered."""
    uuid = world.join("n1")
    world.store.write(set_node_state, uuid, NodeState.LOST, "silent")
    assert put(world, uuid, NodeState.DRAINING, "repair").state is NodeState.LOST
    assert world.report(uuid) == [("draining", "it reports again")]
    assert world.store.read(get_node, uuid).state is NodeState.DRAINING
    world.store.write(set_node_state, uuid, NodeState.LOST, "silent")
    assert put(world, uuid, NodeState.READY, "repaired").draining is False
    assert world.report(uuid) == [("ready", "it reports again")]


def test_a_node_that_left_is_gone_for_good(world: World) -> None:
    """Its machines are over, and it has to join again."""
    uuid = world.join("n1")
    one, two = world.machine(), world.machine()
    world.store.write(
        change_machine,
        two.uuid,
        telling(lambda it: it.model_copy(update={"desired": DesiredStatus.ENDED}), "destroying", ""),
    )
    world.store.write(set_node_state, uuid, NodeState.LEFT, "scrapped")
    assert world.store.read(get_machine, one.uuid).state is MachineState.FAILED
    assert world.store.read(get_machine, two.uuid).state is MachineState.ENDED
    assert world.store.read(desired_state, uuid).machines == ()
    with pytest.raises(JoinRefused, match="has left"):
        world.store.write(store_report, uuid, capable())
    with pytest.raises(JoinRefused, match="has left"):
        world.store.write(set_node_state, uuid, NodeState.READY, "")
    with pytest.raises(NoCapacity):
        world.admit()


def test_a_join_token_is_good_once(world: World) -> None:
    """Not for a second node, not too late, not when nobody made it."""
    store = world.store
    store.write(new_join_token, "d" * 64, NOW + timedelta(hours=1), "n1")
    store.write(new_join_token, "e" * 64, NOW + timedelta(hours=1))
    assert store.write(redeem_join_token, "d" * 64, NOW) == "n1"
    refusals = set()
    for digest, now in (("d" * 64, NOW), ("e" * 64, NOW + timedelta(hours=1)), ("f" * 64, NOW)):
        with pytest.raises(JoinRefused) as refused:
            store.write(redeem_join_token, digest, now)
        refusals.add(str(refused.value))
    assert len(refusals) == 1
    assert store.write(redeem_join_token, "e" * 64, NOW + timedelta(minutes=59)) == ""


def test_one_of_many_that_show_a_token_at_once_gets_in(world: World) -> None:
    """The others are refused."""
    world.store.write(new_join_token, "d" * 64, NOW + timedelta(hours=1))
    answers = list[str]()

    def run() -> None:
        try:
            world.store.write(redeem_join_token, "d" * 64, NOW)
            answers.append("in")
        except JoinRefused:
            answers.append("refused")

    together(run, 8)
    assert sorted(answers) == ["in", *["refused"] * 7]


def test_a_problem_of_a_node_is_told_once_and_keeps_machines_away(world: World) -> None:
    """Until it is over."""
    uuid = world.join("n1")
    assert world.report(uuid, problem="libvirt does not answer") == [("problem", "libvirt does not answer")]
    assert world.report(uuid, problem="libvirt does not answer") == []
    with pytest.raises(NoCapacity):
        world.admit()
    assert world.report(uuid) == [("well", "")]
    assert world.machine().node == uuid
