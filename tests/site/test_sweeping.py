"""The sweeper: one look does what is due, twice does no harm, and a service that was away loses nobody for that."""

from datetime import timedelta

from deployer.machine import State
from deployer.site.placement import place
from deployer.site.records import NodeState
from deployer.site.sweeping import Patience, Sweeper
from tests.site.values import NOW, World, observed

PATIENCE = Patience(timedelta(minutes=2), timedelta(minutes=10), "replace")


def test_one_look_does_everything_and_the_next_nothing(world: World) -> None:
    """A node is lost, its machine is placed elsewhere, an owner is warned: whoever looks first."""
    first = world.join("n1")
    one = world.machine(lifetime=600)
    world.report(first, observed(one, State.RUNNING))
    second = world.join("n2")
    sweepers = [Sweeper(world.store, place, PATIENCE, NOW) for _ in range(2)]
    assert sweepers[0].look(NOW) == 1
    world.clock.advance(seconds=121)
    world.report(second)
    before = world.store.last_event()
    assert sweepers[1].look(world.clock.at) == 3
    assert world.told(before) == ["lost", "replaced", "placed"]
    assert world.store.machine(one.uuid).node == second
    assert [sweeper.look(world.clock.at) for sweeper in sweepers] == [0, 0]


def test_a_service_that_was_away_gives_its_nodes_time(world: World) -> None:
    """They had nobody to report to."""
    node = world.join("n1")
    began = world.clock.advance(hours=5)
    sweeper = Sweeper(world.store, place, PATIENCE, began)
    assert sweeper.look(began) == 0
    assert sweeper.look(world.clock.advance(seconds=119)) == 0
    assert world.store.node(node).state is NodeState.READY
    assert sweeper.look(world.clock.advance(seconds=2)) == 1
    assert world.store.node(node).state is NodeState.LOST
