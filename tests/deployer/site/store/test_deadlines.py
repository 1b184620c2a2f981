"""What nodes report and what time does to a site's store, on both databases."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import event

from deployer.errors import NoCapacity
from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredStatus
from deployer.site.db.engine import SiteDatabase
from deployer.site.db.events import last_event
from deployer.site.db.machines import desired_state, get_deployment, get_machine, list_machines, usage_of
from deployer.site.db.nodes import get_node, revision_of
from deployer.site.lifecycle.verb_rules import change_expiry
from deployer.site.model.quota import ResourceUsage
from deployer.site.model.records import NodeState
from deployer.site.scheduling.placement import place_machines
from deployer.site.store.changes import add_node, change_machine
from deployer.site.store.deadlines import place_waiting
from deployer.site.store.reports import store_report
from tests.support.site import values
from tests.support.site.values import ALICE, GIB, MIB, NOW, World, capable, observed, telling, together
from tests.support.site.values import world as make_world

NOBODY = "00000000-0000-4000-8000-00000000dead"


def test_a_report_in_which_nothing_is_new_writes_only_that_it_came(database: SiteDatabase, world: World) -> None:
    """O(changes): one statement writes, however many machines there are."""
    node = world.join("n1", cores=50, cached=("a", "b"))
    machines = [observed(one, MachineState.RUNNING) for one in world.admit(count=20, memory=64 * MIB)[1]]
    world.report(node, *machines, cached=("a", "b"))
    written = list[str]()

    def note(_c: object, _u: object, statement: str, _p: object, _x: object, many: bool) -> None:
        if not statement.startswith(("SELECT", "BEGIN", "SET", "PRAGMA")):
            written.append(" ".join(statement.split()[:2]))

    event.listen(database._engine, "before_cursor_execute", note)
    world.clock.advance(seconds=10)
    before = world.store.read(last_event)
    assert world.report(node, *machines, cached=("b", "a")) == []
    assert written == ["UPDATE nodes"]
    written.clear()
    world.report(node, *machines[:-1], observed(machines[-1].uuid, MachineState.PAUSED), cached=("b", "a"))
    assert sorted(written) == ["INSERT INTO", "UPDATE machines", "UPDATE nodes"]
    assert world.store.read(last_event) == before + 1
    assert world.store.read(get_node, node).reported == NOW + timedelta(seconds=10)


def test_a_late_report_says_nothing_of_machines(world: World) -> None:
    """One that acts on an older revision than the node has told of already."""
    node = world.join("n1")
    one = world.machine()
    world.report(node, observed(one, MachineState.RUNNING))
    assert world.report(node, revision=0) == []
    assert world.store.read(get_machine, one.uuid).state is MachineState.RUNNING
    assert world.report(node)[0][0] == "failed"


def test_a_site_restored_from_an_old_copy_is_heard_again(world: World) -> None:
    """What it says is newer than anything that its nodes have heard."""
    node = world.join("n1")
    world.store.write(store_report, node, capable(revision=41))
    assert world.store.read(revision_of, node) == 42


def test_a_node_with_a_machine_that_it_should_not_have_is_told_so_once(world: World) -> None:
    """It is not in what the node should have; the story says so once, and again if it comes back."""
    node, other = world.join("n1"), world.join("n2")
    mine = world.machine()
    stray = observed(NOBODY, MachineState.RUNNING)
    before = world.store.read(revision_of, node)
    assert [what for what, _ in world.report(node, stray, complete=False)] == ["stray"]
    assert world.report(node, stray, complete=False) == []
    assert world.store.read(revision_of, node) == before + 1
    assert NOBODY not in {machine.uuid for machine in world.store.read(desired_state, node).machines}
    assert world.report(node, complete=False) == []
    assert [what for what, _ in world.report(node, stray, complete=False)] == ["stray"]
    elsewhere = other if mine.node == node else node
    assert ("stray", "a node has it that should not; the node is to end it") in world.report(
        elsewhere, observed(mine, MachineState.RUNNING), complete=False
    )
    assert world.store.read(get_machine, mine.uuid).state is MachineState.PENDING


# Time


LOST, WARN = timedelta(minutes=2), timedelta(minutes=10)


def look(world: World, policy: str = "wait") -> list[str]:
    """One look of the sweeper; what it told."""
    before = world.store.read(last_event)
    now = world.clock.at
    values.look(world.store, now + WARN, now - LOST, policy)  # type: ignore[arg-type]
    place_waiting(world.store, place_machines)
    return world.told(before)


def test_owners_are_warned_and_machines_end_at_their_time(world: World) -> None:
    """Each once, also when the site was away meanwhile."""
    node = world.join("n1")
    one = world.machine()
    assert look(world) == []
    world.clock.at = one.expires - WARN
    world.report(node, observed(one, MachineState.RUNNING))
    assert look(world) == ["warned"]
    assert look(world) == []
    world.clock.at = one.expires
    world.report(node, observed(one, MachineState.RUNNING))
    before = world.store.read(revision_of, node)
    assert look(world) == ["expired"]
    assert look(world) == []
    assert world.store.read(revision_of, node) == before + 1
    assert world.store.read(desired_state, node).machines[0].desired is DesiredStatus.ENDED
    assert world.report(node, observed(one, MachineState.ENDED)) == [("ended", "it expired")]
    assert world.store.read(desired_state, node).machines == ()


def test_who_extends_is_warned_again(world: World) -> None:
    """Before the new end."""
    node = world.join("n1")
    one = world.machine()
    world.clock.at = one.expires - WARN
    world.report(node)
    assert look(world) == ["warned"]
    world.store.write(
        change_machine, one.uuid, lambda it: change_expiry(it, it.expires + timedelta(hours=1), world.clock.at)
    )
    assert look(world) == []
    world.clock.at += timedelta(hours=1)
    world.report(node)
    assert look(world) == ["warned"]


def test_a_deployment_ends_with_the_last_of_its_machines(world: World) -> None:
    """Also when one is given more time, or less."""
    world.join("n1")
    deployment, (one, two), _ = world.admit(count=2)
    later, sooner = NOW + timedelta(hours=5), NOW + timedelta(minutes=5)
    world.store.write(change_machine, one.uuid, lambda it: change_expiry(it, later, NOW))
    assert world.store.read(get_deployment, deployment.uuid).expires == later
    world.store.write(change_machine, two.uuid, lambda it: change_expiry(it, sooner, NOW))
    assert world.store.read(get_deployment, deployment.uuid).expires == later
    world.store.write(change_machine, one.uuid, lambda it: change_expiry(it, sooner, NOW))
    assert world.store.read(get_deployment, deployment.uuid).expires == sooner


def test_a_silent_node_is_lost_and_its_machines_wait(world: World) -> None:
    """Until it is back: then all is as it was."""
    node = world.join("n1")
    one = world.machine()
    world.report(node, observed(one, MachineState.RUNNING))
    world.clock.advance(seconds=121)
    assert look(world) == ["lost"]
    assert look(world) == []
    assert world.store.read(get_node, node).state is NodeState.LOST
    assert world.store.read(get_machine, one.uuid).state is MachineState.RUNNING
    with pytest.raises(NoCapacity):
        world.admit()
    assert world.report(node, observed(one, MachineState.RUNNING)) == [("ready", "it reports again")]
    assert look(world) == []


def test_a_node_that_never_reported_is_lost_too(world: World) -> None:
    """It counts from when it joined."""
    world.store.write(add_node, "n1", {})
    world.clock.advance(seconds=119)
    assert look(world) == []
    world.clock.advance(seconds=2)
    assert look(world) == ["lost"]


def test_machines_of_a_lost_node_fail_and_the_node_ends_them_when_it_is_back(world: World) -> None:
    """Their room is kept until it says that they are gone."""
    node = world.join("n1", cores=1)
    one = world.machine()
    world.report(node, observed(one, MachineState.RUNNING))
    world.clock.advance(minutes=3)
    assert look(world, "fail") == ["lost", "failed"]
    assert look(world, "fail") == []
    assert world.report(node, observed(one, MachineState.RUNNING)) == [("ready", "it reports again")]
    assert world.store.read(get_machine, one.uuid).state is MachineState.FAILED
    assert [(machine.uuid, machine.desired) for machine in world.store.read(desired_state, node).machines] == [
        (one.uuid, DesiredStatus.ENDED)
    ]
    with pytest.raises(NoCapacity):
        world.admit()
    assert world.report(node) == []
    assert world.store.read(desired_state, node).machines == ()
    assert world.machine().node == node


def test_machines_of_a_lost_node_are_placed_elsewhere(world: World) -> None:
    """The first node ends its one when it is back, and never hears of it again."""
    first = world.join("n1")
    one = world.machine()
    world.report(first, observed(one, MachineState.RUNNING))
    world.clock.advance(minutes=3)
    assert look(world, "replace") == ["lost", "replaced"]
    waiting = world.store.read(get_machine, one.uuid)
    assert (waiting.node, waiting.state) == (None, MachineState.PENDING)
    assert waiting.reason == "no node has free capacity for it now; it waits"
    assert look(world, "replace") == []
    second = world.join("n2")
    assert look(world, "replace") == ["placed"]
    assert world.store.read(get_machine, one.uuid).node == second
    assert [what for what, _ in world.report(first, observed(one, MachineState.RUNNING))] == ["ready", "stray"]
    assert world.store.read(desired_state, first).machines == ()
    assert world.store.read(desired_state, second).machines[0].uuid == one.uuid
    assert world.report(second, observed(one, MachineState.RUNNING)) == [("running", "")]


def test_machines_placed_again_stay_within_room_and_policy(world: World) -> None:
    """Those that fit are placed, one more would be too many; the rest goes on when there is room."""
    world.join("n1")
    world.admit(count=3, most=3)
    world.clock.advance(minutes=3)
    assert look(world, "replace") == ["lost", "replaced", "replaced", "replaced"]
    second = world.join("n2", cores=2)
    assert look(world, "replace") == ["placed", "placed"]
    assert look(world, "replace") == []
    assert [machine.node for machine in world.store.read(list_machines)[0]].count(second) == 2
    world.sizes[second] = (16, 8 * GIB, 100 * GIB)
    world.report(second)
    assert look(world, "replace") == ["placed"]
    with pytest.raises(NoCapacity, match="not taking machines"):
        world.admit(most=3)


def test_a_machine_that_waits_for_room_ends_at_its_time(world: World) -> None:
    """Nobody has to be told."""
    world.join("n1")
    one = world.machine()
    world.clock.advance(minutes=3)
    look(world, "replace")
    world.clock.at = one.expires
    assert "ended" in look(world)
    assert world.store.read(get_machine, one.uuid).state is MachineState.ENDED


def test_an_end_on_a_lost_node_is_an_end(world: World) -> None:
    """Its owner holds it no more; the node is told when it is back."""
    node = world.join("n1")
    one = world.machine()
    world.clock.advance(minutes=3)
    assert look(world) == ["lost"]
    world.clock.at = one.expires
    assert look(world) == ["expired", "ended"]
    assert world.store.read(usage_of, owner=ALICE) == ResourceUsage()
    assert world.store.read(desired_state, node).machines[0].desired is DesiredStatus.ENDED


def test_a_look_with_nothing_due_only_reads(database: SiteDatabase, world: World) -> None:
    """It is done each second."""
    world.join("n1")
    world.machine()
    with database._writing:  # whoever wants to write waits until the block ends
        assert values.look(world.store, NOW, NOW - LOST, "wait") == 0
        assert place_waiting(world.store, place_machines) == 0


def test_held_machines_keep_their_room_and_are_not_told_of(world: World) -> None:
    """Until they are released."""
    node = world.join("n1", cores=1)
    one = world.machine(held=True)
    assert world.store.read(desired_state, node).machines == ()
    assert world.store.read(revision_of, node) == 0
    assert world.report(node) == []
    with pytest.raises(NoCapacity):
        world.admit()
    world.store.write(
        change_machine, one.uuid, telling(lambda it: it.model_copy(update={"held": False}), "released", "")
    )
    assert [machine.uuid for machine in world.store.read(desired_state, node).machines] == [one.uuid]
    assert world.store.read(revision_of, node) == 1


def test_two_processes_place_a_waiting_machine_once(make_database: Callable[[], SiteDatabase]) -> None:
    """Both look at once."""
    here, there = make_world(make_database()), make_world(make_database(), seed=1)
    here.join("n1")
    here.admit(count=4)
    now = here.clock.advance(minutes=3)
    values.look(here.store, now, now - LOST, "replace")
    there.join("n2")
    placed = list[int]()
    stores = iter([here.store, there.store])
    together(lambda: placed.append(place_waiting(next(stores), place_machines)), 2)
    assert sum(placed) == 4
    assert here.told().count("placed") == 4
