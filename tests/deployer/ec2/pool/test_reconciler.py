"""What is to be done next: a table of states and wishes, and a model of EC2 in which everything dies at any time."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployer.ec2.account.bookkeeping import MachineEntry
from deployer.ec2.aws.tags import END_TAG, MACHINE_TAG, REBOOTS_TAG, SIZE_TAG, end_tag_value, size_tag_value
from deployer.ec2.model.instances import Instance
from deployer.ec2.pool.reconciler import actions, observe_machine
from deployer.machine.state import MachineState
from deployer.protocol.actions import Action, ActionKind
from deployer.protocol.desired_state import DesiredMachine, DesiredState, DesiredStatus
from signer.documents import validate

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ENDS_AT = NOW + timedelta(hours=1)
UUID = str(uuid.UUID(int=1))
MIB = 1 << 20


def machine(uuid: str = UUID, **changes: object) -> DesiredMachine:
    document = {
        "uuid": uuid,
        "deployment": uuid,
        "desired": "running",
        "image_id": "sha256:" + "0" * 64,
        "hostname": "w",
        "network": "user",
        "memory": 64 * MIB,
        "cores": 1,
        "max_memory": 64 * MIB,
        "max_cores": 8,
        "expires": "2026-11-22T13:00:00Z",
    }
    return validate(DesiredMachine, document, "machine").model_copy(update=changes)


def instance(wanted: DesiredMachine, state: str = "running", name: str = "i-1", **changes: str) -> Instance:
    tags = {
        MACHINE_TAG: wanted.uuid,
        END_TAG: end_tag_value(wanted.expires),
        SIZE_TAG: size_tag_value(wanted.cores, wanted.memory),
        REBOOTS_TAG: "0",
    }
    return Instance(name, state, launched=NOW, tags=tags | changes)


def entry(wanted: DesiredMachine, **changes: object) -> MachineEntry:
    return MachineEntry(
        machine=wanted.uuid,
        deployment=wanted.deployment,
        image_id=wanted.image_id,
        instance_type="t3.small",
        gib=1,
        began=NOW,
        expires=ENDS_AT,
    ).model_copy(update=changes)


def next_steps(
    wanted: DesiredMachine | None, *there: Instance, book: MachineEntry | None = None, now: datetime = NOW
) -> list[ActionKind]:
    desired = DesiredState(revision=1, machines=(wanted,) if wanted is not None else ())
    return [step.kind for step in actions(desired, there, {book.machine: book} if book else {}, now)]


RUNNING = machine()
HIBERNATES = replace(instance(RUNNING), hibernates=True)


@pytest.mark.parametrize(
    ("what", "wanted", "there", "book", "expected"),
    [
        ("nothing is there", RUNNING, [], None, [ActionKind.MAKE]),
        ("it was booked and perhaps begun", RUNNING, [], entry(RUNNING, ami="ami-1"), [ActionKind.MAKE]),
        ("it was begun, and EC2 has lost it", RUNNING, [], entry(RUNNING, instance="i-1"), []),
        ("it has ended", RUNNING, [], entry(RUNNING, ended=True), []),
        (
            "it was terminated by somebody",
            RUNNING,
            [instance(RUNNING, "terminated")],
            entry(RUNNING, instance="i-1"),
            [],
        ),
        ("it is as it should be", RUNNING, [instance(RUNNING)], None, []),
        ("it is on its way", RUNNING, [instance(RUNNING, "pending")], None, []),
        ("it is being stopped", RUNNING, [instance(RUNNING, "stopping")], None, []),
        ("it was stopped", RUNNING, [instance(RUNNING, "stopped")], None, [ActionKind.START]),
        ("it should rest, and was not made", machine(desired=DesiredStatus.STOPPED), [], None, []),
        ("it should be ended, and was not made", machine(desired=DesiredStatus.ENDED), [], None, []),
        ("its time was over before it was made", machine(expires=NOW), [], None, []),
        (
            "it should be paused, and would lose its memory",
            machine(desired=DesiredStatus.PAUSED),
            [instance(RUNNING)],
            None,
            [],
        ),
        (
            "it should be suspended, and loses it",
            machine(desired=DesiredStatus.SUSPENDED),
            [instance(RUNNING)],
            None,
            [ActionKind.STOP],
        ),
        ("it should be paused", machine(desired=DesiredStatus.PAUSED), [HIBERNATES], None, [ActionKind.SUSPEND]),
        ("it should be suspended", machine(desired=DesiredStatus.SUSPENDED), [HIBERNATES], None, [ActionKind.SUSPEND]),
        (
            "it should be stopped and could hibernate",
            machine(desired=DesiredStatus.STOPPED),
            [HIBERNATES],
            None,
            [ActionKind.STOP],
        ),
        (
            "it should be stopped, and is",
            machine(desired=DesiredStatus.STOPPED),
            [instance(RUNNING, "stopped")],
            None,
            [],
        ),
        ("it should be ended", machine(desired=DesiredStatus.ENDED), [instance(RUNNING)], None, [ActionKind.END]),
        (
            "it should be ended while it rests",
            machine(desired=DesiredStatus.ENDED),
            [instance(RUNNING, "stopped")],
            None,
            [ActionKind.END],
        ),
        ("it has expired", machine(expires=NOW), [instance(RUNNING)], None, [ActionKind.END]),
        (
            "its end moved",
            machine(expires=ENDS_AT + timedelta(hours=1)),
            [instance(RUNNING)],
            None,
            [ActionKind.EXTEND],
        ),
        ("its size changed", machine(cores=2), [instance(RUNNING)], None, [ActionKind.STOP]),
        (
            "its size changed, it is stopped",
            machine(cores=2),
            [instance(RUNNING, "stopped")],
            None,
            [ActionKind.RESIZE],
        ),
        ("it should reboot", machine(reboots=1), [instance(RUNNING)], None, [ActionKind.REBOOT]),
        ("it was rebooted", machine(reboots=1), [instance(RUNNING, **{REBOOTS_TAG: "1"})], None, []),
        (
            "its count of reboots was tampered with",
            machine(reboots=1),
            [instance(RUNNING, **{REBOOTS_TAG: "x"})],
            None,
            [ActionKind.REBOOT],
        ),
        ("nobody wants it", None, [instance(RUNNING)], None, [ActionKind.END]),
        ("nobody wants it, and it is gone", None, [instance(RUNNING, "terminated")], None, []),
        ("it is there twice", RUNNING, [instance(RUNNING), instance(RUNNING, name="i-2")], None, [ActionKind.END]),
        ("its size tag is lost", RUNNING, [instance(RUNNING, **{SIZE_TAG: ""})], None, [ActionKind.STOP]),
    ],
)
def test_what_is_done_next(
    what: str,
    wanted: DesiredMachine | None,
    there: list[Instance],
    book: MachineEntry | None,
    expected: list[ActionKind],
) -> None:
    assert next_steps(wanted, *there, book=book) == expected


def test_of_two_the_older_one_stays() -> None:
    older, younger = instance(RUNNING, name="i-9"), replace(instance(RUNNING), launched=NOW + timedelta(seconds=1))
    desired = DesiredState(revision=1, machines=(RUNNING,))
    assert [step.instance for step in actions(desired, [younger, older], {}, NOW)] == ["i-1"]


@pytest.mark.parametrize(
    ("what", "there", "book", "state", "says"),
    [
        ("nothing is known", [], None, None, ""),
        ("it runs", [instance(RUNNING)], None, MachineState.RUNNING, ""),
        ("it begins", [instance(RUNNING, "pending")], None, MachineState.BOOTING, ""),
        ("it was stopped by somebody", [instance(RUNNING, "stopped")], None, MachineState.STOPPED, ""),
        (
            "it was terminated",
            [replace(instance(RUNNING, "terminated"), reason="Client.X")],
            None,
            MachineState.ENDED,
            "Client.X",
        ),
        (
            "EC2 has forgotten it",
            [],
            entry(RUNNING, instance="i-1", ended=True),
            MachineState.ENDED,
            "no longer exists",
        ),
        ("the books know why", [], entry(RUNNING, ended=True, reason="it is over"), MachineState.ENDED, "it is over"),
        ("EC2 does not list it yet", [], entry(RUNNING, instance="i-1"), MachineState.BOOTING, ""),
    ],
)
def test_what_is_reported(
    what: str, there: list[Instance], book: MachineEntry | None, state: MachineState | None, says: str
) -> None:
    seen = observe_machine(RUNNING, there, book, NOW)
    assert (seen.state if seen else None) is state
    assert says in (seen.reason if seen else "")


@pytest.mark.parametrize(
    ("what", "here", "state", "says", "suspends"),
    [
        ("it hibernates", replace(HIBERNATES, state="stopped", hibernated=True), MachineState.SUSPENDED, "", True),
        (
            "it was stopped instead",
            replace(HIBERNATES, state="stopped"),
            MachineState.SUSPENDED,
            "its memory is not",
            True,
        ),
        ("it cannot hibernate", instance(RUNNING, "stopped"), MachineState.SUSPENDED, "its memory is not", False),
        ("it is on its way", replace(HIBERNATES, state="stopping"), MachineState.RUNNING, "", True),
    ],
)
def test_what_is_said_of_one_that_should_be_suspended(
    what: str, here: Instance, state: MachineState, says: str, suspends: bool
) -> None:
    seen = observe_machine(machine(desired=DesiredStatus.SUSPENDED), [here], None, NOW)
    assert seen is not None
    assert (seen.state, seen.suspends) == (state, suspends)
    assert says in seen.reason if says else seen.reason == ""


class Model:
    """EC2 and the books, reduced to what steps change; a step may come to nothing, and so may what was noted of it."""

    def __init__(self) -> None:
        self.instances: dict[str, Instance] = {}
        self.books: dict[str, MachineEntry] = {}
        self.tokens: dict[str, str] = {}

    def do(self, step: Action, *, noted: bool) -> None:
        wanted = step.wanted
        if step.kind is ActionKind.MAKE:
            assert wanted is not None
            self.books.setdefault(step.machine, entry(wanted))
            name = self.tokens.setdefault(step.machine, f"i-{len(self.tokens)}")
            made = replace(instance(wanted, "running", name), hibernates=uuid.UUID(wanted.uuid).int % 2 == 0)
            self.instances.setdefault(name, made)
            if noted:
                self.books[step.machine] = self.books[step.machine].model_copy(update={"instance": name})
            return
        here = self.instances[step.instance]
        match step.kind:
            case ActionKind.END:
                here = replace(here, state="terminated")
            case ActionKind.STOP:
                here = replace(here, state="stopped")
            case ActionKind.SUSPEND:
                assert here.hibernates
                here = replace(here, state="stopped", hibernated=True)
            case ActionKind.START:
                here = replace(here, state="running")
            case ActionKind.REBOOT if wanted is not None:
                here = replace(here, tags=here.tags | {REBOOTS_TAG: str(wanted.reboots)})
            case ActionKind.RESIZE if wanted is not None:
                here = replace(here, tags=here.tags | {SIZE_TAG: size_tag_value(wanted.cores, wanted.memory)})
            case ActionKind.EXTEND if wanted is not None:
                here = replace(here, tags=here.tags | {END_TAG: end_tag_value(wanted.expires)})
        self.instances[step.instance] = here


WISHES = st.builds(
    lambda number, want, cores, reboots, hours: machine(
        str(uuid.UUID(int=number)), desired=want, cores=cores, reboots=reboots, expires=ENDS_AT + timedelta(hours=hours)
    ),
    st.integers(1, 4),
    st.sampled_from(DesiredStatus),
    st.integers(1, 2),
    st.integers(0, 2),
    st.integers(0, 2),
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(WISHES, unique_by=lambda one: one.uuid, max_size=4), min_size=1, max_size=4),
    st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40),
)
def test_whatever_is_lost_on_the_way_it_ends_as_desired_and_nothing_is_there_twice(
    wishes: list[list[DesiredMachine]], luck: list[tuple[bool, bool]]
) -> None:
    model, chances = Model(), iter(luck)
    for revision, machines in enumerate(wishes):
        desired = DesiredState(revision=revision, machines=tuple(machines))
        for _ in range(12):
            for step in actions(desired, list(model.instances.values()), model.books, NOW):
                done, noted = next(chances, (True, True))
                if done:
                    model.do(step, noted=noted)
            live = [one.machine for one in model.instances.values() if one.live]
            assert len(set(live)) == len(live)
        assert (
            actions(desired, list(model.instances.values()), model.books, NOW) == () or next(chances, None) is not None
        )
    live = {one.machine: one for one in model.instances.values() if one.live}
    for one in wishes[-1]:
        if one.uuid in live:
            here = live[one.uuid]
            assert one.desired is not DesiredStatus.ENDED
            if one.desired is not DesiredStatus.PAUSED or here.hibernates:
                assert (here.state == "running") is (one.desired is DesiredStatus.RUNNING)
    assert live.keys() <= {one.uuid for one in wishes[-1]}
