"""Users, nodes and time do what they like with a site's store, and what must always hold is looked at after each step."""

from contextlib import suppress
from datetime import timedelta
from random import Random

import pytest

from catalog.errors import Misused
from deployer.errors import MachineConflict, NoCapacity
from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredState, DesiredStatus
from deployer.site.db.engine import SiteDatabase
from deployer.site.db.events import list_events
from deployer.site.db.machines import desired_state, list_machines
from deployer.site.lifecycle.report_rules import LostPolicy
from deployer.site.lifecycle.verb_rules import Verb, apply_verb, change_expiry, release_machine, resize_machine
from deployer.site.model.records import SiteMachine
from deployer.site.scheduling.placement import place_machines
from deployer.site.store.changes import change_machine
from deployer.site.store.deadlines import place_waiting
from tests.support.site.values import ALICE, BOB, GIB, MIB, World, look, observed, world

CORES = 6
LIKELY = [*([state for state in MachineState if not state.final] * 3), MachineState.ENDED, MachineState.FAILED]
POLICIES: tuple[LostPolicy, ...] = ("wait", "fail", "replace")


class Model:
    """A site under random use."""

    def __init__(self, site: World, seed: int) -> None:
        self.site, self.store, self.random = site, site.store, Random(seed)
        self.nodes = [site.join(f"n{number}", cores=CORES, memory=6 * GIB) for number in range(3)]
        self.desired: dict[str, DesiredState] = {node: self.store.read(desired_state, node) for node in self.nodes}
        self.states: dict[str, MachineState] = {}
        self.seen = 0

    def machines(self) -> tuple[SiteMachine, ...]:
        """All that there ever were."""
        return self.store.read(list_machines, limit=10_000)[0]

    def order(self) -> None:
        """Somebody asks for machines."""
        count, held = self.random.randint(1, 3), self.random.random() < 0.2
        self.site.admit(self.random.choice([ALICE, BOB]), count=count, whole=False, held=held)

    def ask(self) -> None:
        """Somebody asks for something to be done to a machine."""
        now, random = self.site.clock.at, self.random
        living = [one for one in self.machines() if not one.state.final]
        if not living:
            return
        uuid, verb = random.choice(living).uuid, random.choice(list(Verb))
        change = random.choice(
            [
                lambda machine: apply_verb(machine, verb, "", now),
                lambda machine: change_expiry(machine, now + timedelta(minutes=random.randint(1, 90)), now),
                lambda machine: resize_machine(machine, random.choice([512 * MIB, GIB]), None),
                release_machine,
            ]
        )
        self.store.write(change_machine, uuid, change)

    def report(self) -> None:
        """A node says what it likes of its machines."""
        node = self.random.choice(self.nodes)
        said = [
            observed(machine.uuid, self.random.choice(LIKELY), changed=self.site.clock.at)
            for machine in self.store.read(desired_state, node).machines
            if self.random.random() < 0.95
        ]
        self.site.report(node, *said, complete=self.random.random() < 0.3)

    def wait(self) -> None:
        """Time goes by."""
        now = self.site.clock.advance(seconds=self.random.choice([1, 60, 600]))
        look(self.store, now + timedelta(minutes=10), now - timedelta(minutes=5), self.random.choice(POLICIES))
        place_waiting(self.store, place_machines)

    def step(self) -> None:
        """Something happens."""
        with suppress(MachineConflict, Misused, NoCapacity):
            self.random.choice([self.order, self.ask, self.ask, self.report, self.report, self.wait])()
        self.check_revisions()
        self.check_room()
        self.check_story()

    def check_revisions(self) -> None:
        """A node has to act on something new where its revision is another."""
        for node in self.nodes:
            before, now = self.desired[node], self.store.read(desired_state, node)
            if (now.machines, now.draining) != (before.machines, before.draining):
                assert now.revision > before.revision
            self.desired[node] = now

    def check_room(self) -> None:
        """Nothing is promised twice; what is over is meant to be."""
        sold = dict.fromkeys(self.nodes, 0)
        for one in self.machines():
            if one.node is not None and not one.removed_from_node:
                sold[one.node] += one.max_cores
            assert not one.state.final or one.desired is DesiredStatus.ENDED
        assert max(sold.values()) <= CORES

    def check_story(self) -> None:
        """The events tell how every machine came to be as it is."""
        for told in self.store.read(list_events, self.seen, limit=10_000):
            self.seen = told.number
            if told.kind == "machine" and told.what in set(MachineState):
                self.states[told.subject] = MachineState(told.what)
            elif told.what == "replaced":
                self.states[told.subject] = MachineState.PENDING
        assert {one.uuid: one.state for one in self.machines()} == self.states


@pytest.mark.parametrize(
    ("seed", "steps"),
    [(1, 60), pytest.param(2, 400, marks=[pytest.mark.slow, pytest.mark.timeout(600)])],
    ids=["some", "many"],
)
def test_what_must_always_hold(database: SiteDatabase, seed: int, steps: int) -> None:
    """Whatever happens: nodes hear of what concerns them, room is sold once, and the story is whole."""
    model = Model(world(database), seed)
    for _ in range(steps):
        model.step()
    told = {event.what for event in model.store.read(list_events, limit=100_000)}
    assert told >= {"admitted", "running", "failed"}
    assert steps < 400 or told >= {"paused", "suspended", "stopped", "lost", "replaced", "placed", "expired", "warned"}
