"""Nodes as a site remembers them, on SQLite and on PostgreSQL: joining, draining, leaving, and what they say of themselves."""

from datetime import timedelta

import pytest

from deployer.errors import Conflict, JoinRefused, NodeNotFound, NoRoom
from deployer.machine.spec import State
from deployer.protocol.desired_state import Want
from deployer.site.model.records import NodeState
from tests.site.values import (
    CONTENT,
    NOBODY,
    NOW,
    World,
    capable,
    together,
)


def test_a_node_joins_and_reports(world: World) -> None:
    """It is remembered as it said it is."""
    uuid = world.store.add_node("n1", {"rack": "7"}).uuid
    fresh = world.store.node(uuid)
    assert (fresh.state, fresh.reported, fresh.labels, fresh.joined) == (NodeState.READY, None, {"rack": "7"}, NOW)
    world.clock.advance(seconds=5)
    world.store.absorb(uuid, capable(labels={"rack": "8"}, cached=(CONTENT,), accelerator="kvm"))
    known = world.store.node(uuid)
    assert (known.labels, known.cached, known.accelerator) == ({"rack": "8"}, frozenset({CONTENT}), "kvm")
    assert known.reported == NOW + timedelta(seconds=5)
    assert known.capacity.cores == 4
    assert world.store.nodes() == (known,)
    assert world.store.nodes(contents=False) == (known.model_copy(update={"cached": frozenset()}),)


def test_what_a_node_caches_comes_and_goes(world: World) -> None:
    """Only what is another is written."""
    uuid = world.join("n1", cached=("a", "b", "c"))
    other = world.join("n2", cached=("b",))
    world.store.absorb(uuid, capable(cached=("b", "d")))
    assert world.store.node(uuid).cached == {"b", "d"}
    assert world.store.node(other).cached == {"b"}
    world.store.absorb(uuid, capable())
    assert world.store.node(uuid).cached == frozenset()


def test_two_nodes_do_not_have_one_name(world: World) -> None:
    """Until the first has left; whoever reads its story still finds it."""
    first = world.join("n1")
    with pytest.raises(Conflict, match="has a node n1"):
        world.store.add_node("n1", {})
    world.store.set_node_state(first, NodeState.LEFT, "scrapped")
    second = world.store.add_node("n1", {}).uuid
    assert world.store.find_node("n1").uuid == second
    assert world.store.node(first).name == f"n1 ({first[:8]})"


def test_nodes_are_found_by_name_and_by_the_beginning_of_their_uuid(world: World) -> None:
    """Where that is enough."""
    uuid = world.join("n1")
    world.join("n2")
    assert world.store.find_node("n1").uuid == uuid
    assert world.store.find_node(uuid).uuid == uuid
    assert world.store.find_node(uuid[:6]).uuid == uuid
    for text in ("n3", uuid[:3], "zzzz", "%", ""):
        with pytest.raises(NodeNotFound):
            world.store.find_node(text)
    for call in (world.store.node, world.store.revision, world.store.desired):
        with pytest.raises(NodeNotFound):
            call(NOBODY)
    with pytest.raises(NodeNotFound):
        world.store.absorb(NOBODY, capable())


def test_a_draining_node_gets_no_more_machines(world: World) -> None:
    """Those that it has stay; it hears of it; and it can be used again."""
    uuid = world.join("n1")
    machine = world.machine()
    before = world.store.revision(uuid)
    assert world.store.set_node_state(uuid, NodeState.DRAINING, "new disks").draining
    assert world.store.desired(uuid).draining
    assert world.store.revision(uuid) == before + 1
    with pytest.raises(NoRoom, match="not taking machines"):
        world.admit()
    assert world.store.machine(machine.uuid) == machine
    assert world.store.set_node_state(uuid, NodeState.DRAINING, "again").state is NodeState.DRAINING
    assert world.told()[-1:] == ["draining"]
    world.store.set_node_state(uuid, NodeState.READY, "done")
    assert world.machine().node == uuid


def test_a_lost_node_that_was_draining_comes_back_draining(world: World) -> None:
    """And what is said of it meanwhile is remembered."""
    uuid = world.join("n1")
    world.store.set_node_state(uuid, NodeState.LOST, "silent")
    assert world.store.set_node_state(uuid, NodeState.DRAINING, "repair").state is NodeState.LOST
    assert world.report(uuid) == [("draining", "it reports again")]
    assert world.store.node(uuid).state is NodeState.DRAINING
    world.store.set_node_state(uuid, NodeState.LOST, "silent")
    assert world.store.set_node_state(uuid, NodeState.READY, "repaired").draining is False
    assert world.report(uuid) == [("ready", "it reports again")]


def test_a_node_that_left_is_gone_for_good(world: World) -> None:
    """Its machines are over, and it has to join again."""
    uuid = world.join("n1")
    one, two = world.machine(), world.machine()
    world.store.change_machine(two.uuid, lambda it: it.model_copy(update={"want": Want.ENDED}), "destroying", "")
    world.store.set_node_state(uuid, NodeState.LEFT, "scrapped")
    assert world.store.machine(one.uuid).state is State.FAILED
    assert world.store.machine(two.uuid).state is State.ENDED
    assert world.store.desired(uuid).machines == ()
    with pytest.raises(JoinRefused, match="has left"):
        world.store.absorb(uuid, capable())
    with pytest.raises(JoinRefused, match="has left"):
        world.store.set_node_state(uuid, NodeState.READY, "")
    with pytest.raises(NoRoom):
        world.admit()


def test_a_join_token_is_good_once(world: World) -> None:
    """Not for a second node, not too late, not when nobody made it."""
    store = world.store
    store.new_join_token("d" * 64, NOW + timedelta(hours=1), "n1")
    store.new_join_token("e" * 64, NOW + timedelta(hours=1))
    assert store.redeem_join_token("d" * 64, NOW) == "n1"
    refusals = set()
    for digest, now in (("d" * 64, NOW), ("e" * 64, NOW + timedelta(hours=1)), ("f" * 64, NOW)):
        with pytest.raises(JoinRefused) as refused:
            store.redeem_join_token(digest, now)
        refusals.add(str(refused.value))
    assert len(refusals) == 1
    assert store.redeem_join_token("e" * 64, NOW + timedelta(minutes=59)) == ""


def test_one_of_many_that_show_a_token_at_once_gets_in(world: World) -> None:
    """The others are refused."""
    world.store.new_join_token("d" * 64, NOW + timedelta(hours=1))
    answers = list[str]()

    def run() -> None:
        try:
            world.store.redeem_join_token("d" * 64, NOW)
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
    with pytest.raises(NoRoom):
        world.admit()
    assert world.report(uuid) == [("well", "")]
    assert world.machine().node == uuid
