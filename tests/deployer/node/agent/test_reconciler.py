"""What a node has to do, against a model of a node that does it, is killed in between, and hears things late."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployer.machine.state import MachineEvent, MachineState, next_state
from deployer.node.agent.reconciler import plan_actions
from deployer.protocol.actions import Action, ActionKind
from deployer.protocol.desired_state import DesiredMachine, DesiredState, DesiredStatus
from deployer.records.machine_store import MachineRecord
from tests.support.node.fake_site import machine

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MIB = 1 << 20
A, B, C = (f"{letter * 8}-0000-4000-8000-000000000000" for letter in "abc")


def record(uuid: str = A, state: MachineState = MachineState.RUNNING, **changes: Any) -> MachineRecord:
    """A machine that a site made, as its node knows it."""
    wanted = machine(uuid, expires=NOW)
    fields: dict[str, Any] = {
        "uuid": uuid,
        "name": uuid[:8],
        "hostname": "m",
        "image_id": wanted.image_id,
        "title": "star/hello@1.0",
        "state": state,
        "created": NOW,
        "changed": NOW,
        "expires": NOW,
        "memory": wanted.memory,
        "cores": wanted.cores,
        "network": "none",
        "virt": "qemu",
        "policy": "",
        "site": "5" * 64,
        "desired": "running",
    }
    fields |= changes
    return MachineRecord(**{"max_memory": fields["memory"], "max_cores": fields["cores"]} | fields)


def wanted(uuid: str = A, **changes: Any) -> DesiredMachine:
    return machine(uuid, **{"expires": NOW} | changes)


def do(machines: Sequence[DesiredMachine], here: Sequence[MachineRecord]) -> tuple[Action, ...]:
    return plan_actions(DesiredState(revision=1, machines=tuple(machines)), here)


ENDS = NOW + timedelta(hours=1)


@pytest.mark.parametrize(
    ("sentence", "want", "here", "expected"),
    [
        ("what is as it should be is left alone", wanted(), record(), ()),
        ("what is not there is made", wanted(), None, (ActionKind.MAKE,)),
        ("what is to be paused is made first", wanted(desired=DesiredStatus.PAUSED), None, (ActionKind.MAKE,)),
        ("what is to rest on disks that are not there is not made", wanted(desired=DesiredStatus.STOPPED), None, ()),
        ("what should be over and is not there is over", wanted(desired=DesiredStatus.ENDED), None, ()),
        ("what is being made is let be", wanted(desired=DesiredStatus.STOPPED), record(state=MachineState.STAGING), ()),
        (
            "what is being made is cancelled when it should be over",
            wanted(desired=DesiredStatus.ENDED, reason="no"),
            record(state=MachineState.STAGING),
            ((ActionKind.END, "no"),),
        ),
        (
            "an end has a reason",
            wanted(desired=DesiredStatus.ENDED),
            record(),
            ((ActionKind.END, "its site ended it"),),
        ),
        ("what failed is told until the site has heard it", wanted(), record(state=MachineState.FAILED), ()),
        ("what ended is not made again", wanted(), record(state=MachineState.ENDED), ()),
        ("a pause", wanted(desired=DesiredStatus.PAUSED), record(), (ActionKind.REMEMBER, ActionKind.PAUSE)),
        ("the same, noted before", wanted(desired=DesiredStatus.PAUSED), record(desired="paused"), (ActionKind.PAUSE,)),
        ("a resumption", wanted(), record(state=MachineState.PAUSED), (ActionKind.RESUME,)),
        ("a suspension", wanted(desired=DesiredStatus.SUSPENDED), record(desired="suspended"), (ActionKind.SUSPEND,)),
        (
            "of what is paused",
            wanted(desired=DesiredStatus.SUSPENDED),
            record(state=MachineState.PAUSED, desired="suspended"),
            (ActionKind.SUSPEND,),
        ),
        ("a reactivation", wanted(), record(state=MachineState.SUSPENDED, desired="suspended"), (ActionKind.START,)),
        (
            "what is suspended and should be paused goes on first",
            wanted(desired=DesiredStatus.PAUSED),
            record(state=MachineState.SUSPENDED, desired="paused"),
            (ActionKind.START,),
        ),
        ("a stop", wanted(desired=DesiredStatus.STOPPED), record(desired="stopped"), (ActionKind.STOP,)),
        (
            "of what is paused",
            wanted(desired=DesiredStatus.STOPPED),
            record(state=MachineState.PAUSED, desired="stopped"),
            (ActionKind.STOP,),
        ),
        (
            "what was stopped on request starts again",
            wanted(),
            record(state=MachineState.STOPPED, desired="stopped"),
            (ActionKind.START,),
        ),
        ("what powered itself off stays off", wanted(), record(state=MachineState.STOPPED), ()),
        (
            "what was stopped on request starts before it is suspended",
            wanted(desired=DesiredStatus.SUSPENDED),
            record(state=MachineState.STOPPED, desired="stopped"),
            (ActionKind.START,),
        ),
        (
            "what stopped while it was to be suspended waits",
            wanted(desired=DesiredStatus.SUSPENDED),
            record(state=MachineState.STOPPED, desired="suspended"),
            (),
        ),
        (
            "that it is off is noted when the site wants it so",
            wanted(desired=DesiredStatus.STOPPED),
            record(state=MachineState.STOPPED),
            (ActionKind.REMEMBER,),
        ),
        ("that it runs is noted when it does", wanted(), record(desired="stopped"), (ActionKind.REMEMBER,)),
        ("a reboot", wanted(reboots=2), record(reboots=1), (ActionKind.REBOOT,)),
        ("a reboot that was done", wanted(reboots=2), record(reboots=2), ()),
        ("another end", wanted(expires=ENDS), record(), (ActionKind.EXTEND,)),
        (
            "another end of what is being made",
            wanted(expires=ENDS),
            record(state=MachineState.BOOTING),
            (ActionKind.EXTEND,),
        ),
        ("other amounts", wanted(memory=16 * MIB), record(), (ActionKind.RESIZE,)),
        (
            "other amounts of what is suspended",
            wanted(memory=16 * MIB),
            record(state=MachineState.SUSPENDED),
            (ActionKind.START,),
        ),
        (
            "what the site does not know any more is ended",
            None,
            record(),
            ((ActionKind.END, "its site does not know it any more"),),
        ),
        (
            "what has ended and the site knows it is forgotten",
            None,
            record(state=MachineState.FAILED),
            (ActionKind.FORGET,),
        ),
    ],
)
def test_what_is_to_be_done(
    sentence: str,
    want: DesiredMachine | None,
    here: MachineRecord | None,
    expected: tuple[ActionKind | tuple[ActionKind, str], ...],
) -> None:
    told = [one if isinstance(one, tuple) else (one, "") for one in expected]
    todo = tuple(Action(kind, A, reason, wanted=want) for kind, reason in told)
    assert do([want] if want else [], [here] if here else []) == todo


@dataclass
class Model:
    """A node that does what it is told, one step at a time, and may be killed between any two."""

    records: dict[str, MachineRecord] = field(default_factory=dict)
    emulators: dict[str, int] = field(default_factory=dict)
    started: int = 0

    def happen(self, uuid: str, happening: MachineEvent, **values: Any) -> None:
        record = self.records[uuid]
        self.records[uuid] = record.model_copy(update={"state": next_state(record.state, happening), **values})

    def start(self, uuid: str) -> None:
        assert uuid not in self.emulators, "two of one machine"
        self.emulators[uuid] = 1
        self.started += 1

    def steps(self, action: Action) -> list[Any]:
        """What doing it comes to; the service may die after each."""
        uuid = action.machine
        match action.kind:
            case ActionKind.MAKE:
                made = action.desired
                fresh = record(
                    uuid, MachineState.STAGING, expires=made.expires, memory=made.memory, reboots=made.reboots
                )
                return [
                    lambda: self.records.update({uuid: fresh}),
                    lambda: self.happen(uuid, MachineEvent.STAGED),
                    lambda: self.start(uuid),
                    lambda: self.happen(uuid, MachineEvent.STARTED),
                ]
            case ActionKind.PAUSE:
                return [lambda: self.happen(uuid, MachineEvent.PAUSED)]
            case ActionKind.RESUME:
                return [lambda: self.happen(uuid, MachineEvent.RESUMED)]
            case ActionKind.SUSPEND:
                return [lambda: self.emulators.pop(uuid), lambda: self.happen(uuid, MachineEvent.SUSPENDED)]
            case ActionKind.START:
                return [lambda: self.start(uuid), lambda: self.happen(uuid, MachineEvent.STARTED)]
            case ActionKind.STOP:
                return [lambda: self.happen(uuid, MachineEvent.POWERED_OFF), lambda: self.emulators.pop(uuid, None)]
            case ActionKind.REBOOT | ActionKind.RESIZE | ActionKind.EXTEND | ActionKind.REMEMBER:
                return [lambda: None, lambda: self.happen(uuid, MachineEvent.REBOOTED, **changed(action))]
            case ActionKind.END:
                if self.records[uuid].state in {MachineState.STAGING, MachineState.BOOTING}:
                    return [lambda: self.emulators.pop(uuid, None), lambda: self.records.pop(uuid)]
                return [lambda: self.happen(uuid, MachineEvent.DESTROYED), lambda: self.emulators.pop(uuid, None)]
            case ActionKind.FORGET:
                return [lambda: self.records.pop(uuid)]
        raise AssertionError(action)

    def recover(self) -> None:
        """As `Keeper.recover`: what is half made goes, what runs is adopted, what does not is not said to."""
        for uuid, known in list(self.records.items()):
            if known.state in {MachineState.STAGING, MachineState.BOOTING}:
                self.emulators.pop(uuid, None)
                del self.records[uuid]
            elif known.state.final:
                self.emulators.pop(uuid, None)
            elif known.state in {MachineState.STOPPED, MachineState.SUSPENDED} and uuid in self.emulators:
                self.happen(uuid, MachineEvent.STARTED)
            elif known.state in {MachineState.RUNNING, MachineState.PAUSED} and uuid not in self.emulators:
                self.happen(uuid, MachineEvent.SUSPENDED)
        for uuid in set(self.emulators) - set(self.records):
            del self.emulators[uuid]


def changed(action: Action) -> dict[str, Any]:
    """What of a record is another afterwards."""
    wanted = action.desired
    match action.kind:
        case ActionKind.REBOOT:
            return {"reboots": wanted.reboots}
        case ActionKind.RESIZE:
            return {"memory": wanted.memory, "cores": wanted.cores}
        case ActionKind.EXTEND:
            return {"expires": wanted.expires}
        case ActionKind.REMEMBER:
            return {"desired": wanted.desired.value}
    raise AssertionError(action)


wishes = st.builds(
    wanted,
    st.sampled_from([A, B, C]),
    desired=st.sampled_from(DesiredStatus),
    memory=st.sampled_from([16 * MIB, 32 * MIB]),
    reboots=st.integers(0, 2),
    expires=st.sampled_from([NOW, ENDS]),
)
states = st.lists(wishes, max_size=3, unique_by=lambda one: one.uuid)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(states, st.lists(st.integers(0, 3), max_size=6)), min_size=1, max_size=5))
def test_a_node_that_is_killed_again_and_again_comes_to_what_is_wanted(
    story: list[tuple[list[DesiredMachine], list[int]]],
) -> None:
    node = Model()
    for desired, kills in story:
        for kill in kills:  # the service dies after so many steps
            steps = [step for action in do(desired, list(node.records.values())) for step in node.steps(action)]
            for step in steps[:kill]:
                step()
            node.recover()
        for _ in range(8):
            found = do(desired, list(node.records.values()))
            if not found:
                break
            for action in found:
                for step in node.steps(action):
                    step()
        assert do(desired, list(node.records.values())) == (), "it does not settle"
        assert_right(node, desired)


def assert_right(node: Model, desired: list[DesiredMachine]) -> None:
    """Nothing doubled, nothing forgotten, and everything that lives is as it should be."""
    known = {one.uuid: one for one in desired}
    assert set(node.records) <= set(known)
    assert set(node.emulators) == {
        uuid for uuid, one in node.records.items() if one.state in {MachineState.RUNNING, MachineState.PAUSED}
    }
    for uuid, want in known.items():
        here = node.records.get(uuid)
        if want.desired is DesiredStatus.ENDED:
            assert here is None or here.state.final
        elif here is None:
            assert want.desired is DesiredStatus.STOPPED
        elif not here.state.final:
            assert here.state.value == want.desired.value
        if here is not None and not here.state.final:
            assert here.expires == want.expires
            if here.state is MachineState.RUNNING:
                assert (here.memory, here.reboots) == (want.memory, max(want.reboots, here.reboots))


def test_what_is_as_it_should_be_costs_nothing() -> None:
    """A pass over 1000 machines with nothing to do: a guard against work that grows with the square of them."""
    uuids = [f"{number:08d}-0000-4000-8000-000000000000" for number in range(1000)]
    desired = DesiredState(revision=1, machines=tuple(wanted(uuid) for uuid in uuids))
    assert plan_actions(desired, [record(uuid) for uuid in uuids]) == ()
