"""The sweeper: one look does what is due, twice does no harm, and a service that was away loses nobody for that."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

import pytest

from deployer.machine.state import MachineState
from deployer.site.db.events import last_event
from deployer.site.db.machines import desired_state, get_machine
from deployer.site.db.nodes import find_node, get_node, revision_of
from deployer.site.lifecycle.verb_rules import Verb, apply_verb
from deployer.site.model.records import NodeState, SiteNode
from deployer.site.operations.expiry import SiteTimeouts, Sweeper
from deployer.site.scheduling.placement import place_machines
from deployer.site.store.changes import change_machine
from tests.support.site.values import NOW, World, observed

PATIENCE = SiteTimeouts(timedelta(minutes=2), timedelta(minutes=10), "replace")


def everybody(nodes: Sequence[SiteNode], /) -> frozenset[str]:
    """Whoever is lost surely runs nothing."""
    return frozenset(node.uuid for node in nodes)


def test_one_look_does_everything_and_the_next_nothing(world: World) -> None:
    """A node is lost, its machine is placed elsewhere, an owner is warned: whoever looks first."""
    first = world.join("n1")
    one = world.machine(lifetime=600)
    world.report(first, observed(one, MachineState.RUNNING))
    second = world.join("n2")
    sweepers = [Sweeper(world.store, place_machines, PATIENCE, NOW, everybody) for _ in range(2)]
    assert sweepers[0].look(NOW) == 1
    world.clock.advance(seconds=121)
    world.report(second)
    before = world.store.read(last_event)
    assert sweepers[1].look(world.clock.at) == 3
    assert world.told(before) == ["lost", "replaced", "placed"]
    assert world.store.read(get_machine, one.uuid).node == second
    assert [sweeper.look(world.clock.at) for sweeper in sweepers] == [0, 0]


def test_a_service_that_was_away_gives_its_nodes_time(world: World) -> None:
    """They had nobody to report to."""
    node = world.join("n1")
    began = world.clock.advance(hours=5)
    sweeper = Sweeper(world.store, place_machines, PATIENCE, began)
    assert sweeper.look(began) == 0
    assert sweeper.look(world.clock.advance(seconds=119)) == 0
    assert world.store.read(get_node, node).state is NodeState.READY
    assert sweeper.look(world.clock.advance(seconds=2)) == 1
    assert world.store.read(get_node, node).state is NodeState.LOST


@pytest.mark.parametrize("policy", ["replace", "fail", "wait"])
def test_nothing_comes_in_the_place_of_a_member_whose_node_may_still_run_it(
    world: World, policy: Literal["replace", "fail", "wait"]
) -> None:
    """Neither the machine elsewhere, nor another one under its host name: it holds its place until it is sure, or its time is over."""
    first = world.join("n1")
    one = world.machine(lifetime=600, role="worker")
    alone = world.machine(lifetime=600)
    world.report(first, observed(one, MachineState.RUNNING), observed(alone, MachineState.RUNNING))
    world.join("n2")
    patience = SiteTimeouts(timedelta(minutes=2), timedelta(0), policy)
    unsure, sure = (
        Sweeper(world.store, place_machines, patience, NOW),
        Sweeper(world.store, place_machines, patience, NOW, everybody),
    )
    world.clock.advance(seconds=121)
    world.report(world.store.read(find_node, "n2").uuid)
    for _ in range(2):
        unsure.look(world.clock.at)
    assert world.store.read(get_node, first).state is NodeState.LOST
    assert world.store.read(get_machine, one.uuid).node == first
    assert not world.store.read(get_machine, one.uuid).state.final
    assert world.store.read(get_machine, alone.uuid).state.final is (policy == "fail")
    world.store.write(
        change_machine, one.uuid, lambda machine: apply_verb(machine, Verb.DESTROY, "it is late", world.clock.at)
    )
    unsure.look(world.clock.at)
    assert not world.store.read(get_machine, one.uuid).state.final
    (sure if policy != "wait" else unsure).look(world.clock.advance(seconds=0 if policy != "wait" else 600))
    assert world.store.read(get_machine, one.uuid).state.final


def test_a_lost_node_that_comes_back_ends_what_was_replaced(world: World) -> None:
    first = world.join("n1")
    one = world.machine(lifetime=6000)
    world.report(first, observed(one, MachineState.RUNNING))
    second = world.join("n2")
    sweeper = Sweeper(world.store, place_machines, PATIENCE, NOW, everybody)
    world.clock.advance(seconds=121)
    world.report(second)
    sweeper.look(world.clock.at)
    sweeper.look(world.clock.at)
    assert world.store.read(get_machine, one.uuid).node == second
    before = world.store.read(revision_of, first)
    told = world.report(first, observed(one, MachineState.PAUSED), revision=before - 1)
    assert told == [
        ("ready", "it reports again"),
        ("stray", "a node has it that should not; the node is to end it"),
    ]
    assert world.store.read(revision_of, first) > before  # so it asks what it should have
    assert one.uuid not in {machine.uuid for machine in world.store.read(desired_state, first).machines}
    assert world.store.read(get_machine, one.uuid).node == second  # what the other one says of it counts for nothing
    assert world.store.read(get_machine, one.uuid).state is MachineState.PENDING
