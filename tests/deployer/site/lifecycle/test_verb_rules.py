"""What people may do to a machine: every verb in every want and state, other ends, other amounts."""

from datetime import timedelta

import pytest

from catalog.errors import Misused
from deployer.errors import MachineConflict
from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredStatus
from deployer.site.lifecycle.verb_rules import Verb, apply_verb, change_expiry, release_machine, resize_machine
from tests.support.site.values import GIB, MIB, NOW, machine

_MAKING = {MachineState.PENDING, MachineState.STAGING, MachineState.BOOTING}
ALLOWED: dict[Verb, dict[DesiredStatus, set[MachineState]]] = {
    Verb.PAUSE: {DesiredStatus.RUNNING: {MachineState.RUNNING}},
    Verb.RESUME: {DesiredStatus.PAUSED: {state for state in MachineState if not state.final}},
    Verb.SUSPEND: {
        DesiredStatus.RUNNING: {MachineState.RUNNING, MachineState.PAUSED},
        DesiredStatus.PAUSED: {MachineState.RUNNING, MachineState.PAUSED},
    },
    Verb.REACTIVATE: {
        DesiredStatus.SUSPENDED: {state for state in MachineState if not state.final},
        DesiredStatus.STOPPED: {state for state in MachineState if not state.final},
    },
    Verb.REBOOT: {DesiredStatus.RUNNING: {MachineState.RUNNING}},
    Verb.SHUTDOWN: {
        want: {MachineState.RUNNING, MachineState.PAUSED, MachineState.SUSPENDED}
        for want in (DesiredStatus.RUNNING, DesiredStatus.PAUSED, DesiredStatus.SUSPENDED)
    },
}
LEADS = {
    Verb.PAUSE: DesiredStatus.PAUSED,
    Verb.RESUME: DesiredStatus.RUNNING,
    Verb.SUSPEND: DesiredStatus.SUSPENDED,
    Verb.REACTIVATE: DesiredStatus.RUNNING,
    Verb.SHUTDOWN: DesiredStatus.STOPPED,
}
REST = [
    (verb, want, state) for verb in Verb if verb is not Verb.DESTROY for want in DesiredStatus for state in MachineState
]


@pytest.mark.parametrize(("verb", "want", "state"), REST, ids=lambda value: value.value)
def test_every_verb_in_every_want_and_state(verb: Verb, want: DesiredStatus, state: MachineState) -> None:
    """It leads where it should, changes nothing where that is so already, and is refused everywhere else."""
    before = machine(desired=want, state=state)
    over = state.final or want is DesiredStatus.ENDED
    if not over and verb is not Verb.REBOOT and want is LEADS[verb]:
        assert apply_verb(before, verb, "why", NOW) is None
    elif not over and state in ALLOWED[verb].get(want, set()):
        change = apply_verb(before, verb, "why", NOW)
        assert change is not None
        assert [reason for _, reason in change.events] == ["why"]
        if verb is Verb.REBOOT:
            assert change.machine == before.model_copy(update={"reboots": 1})
        else:
            assert change.machine == before.model_copy(update={"desired": LEADS[verb], "desired_reason": "why"})
    else:
        with pytest.raises(MachineConflict, match="worker-1"):
            apply_verb(before, verb, "why", NOW)


@pytest.mark.parametrize("state", MachineState, ids=lambda value: value.value)
@pytest.mark.parametrize("want", DesiredStatus, ids=lambda value: value.value)
def test_destroying_always_works(want: DesiredStatus, state: MachineState) -> None:
    """Whatever a machine is: it will end, or it has ended."""
    change = apply_verb(machine(desired=want, state=state), Verb.DESTROY, "", NOW)
    if state.final or want is DesiredStatus.ENDED:
        assert change is None
    else:
        assert change is not None
        assert (change.machine.desired, change.machine.state) == (DesiredStatus.ENDED, state)
        assert change.events == (("destroying", "destroyed on request"),)


@pytest.mark.parametrize("unheard", [{"node": None}, {"held": True}], ids=["no node", "held"])
def test_a_machine_that_no_node_has_heard_of_ends_at_once(unheard: dict[str, object]) -> None:
    """There is nobody to wait for."""
    change = apply_verb(machine(state=MachineState.PENDING, **unheard), Verb.DESTROY, "no more", NOW)
    assert change is not None
    assert (change.machine.state, change.machine.removed_from_node, change.events) == (
        MachineState.ENDED,
        True,
        (("ended", "no more"),),
    )


@pytest.mark.parametrize(
    ("changes", "verb", "sentence"),
    [
        ({"state": MachineState.ENDED}, Verb.PAUSE, "machine worker-1 has ended and cannot be paused"),
        ({"state": MachineState.FAILED}, Verb.REBOOT, "machine worker-1 has failed and cannot be rebooted"),
        (
            {"desired": DesiredStatus.ENDED, "desired_reason": "it expired"},
            Verb.RESUME,
            "machine worker-1 is being ended (it expired) and cannot be resumed",
        ),
        (
            {"state": MachineState.STAGING},
            Verb.SHUTDOWN,
            "machine worker-1 is staging and should be running; it cannot be shut down now; wait until it runs, or destroy it",
        ),
        (
            {"desired": DesiredStatus.STOPPED, "state": MachineState.STOPPED},
            Verb.PAUSE,
            "machine worker-1 is stopped and cannot be paused; reactivate it first",
        ),
        (
            {"desired": DesiredStatus.PAUSED, "state": MachineState.PAUSED},
            Verb.REBOOT,
            "machine worker-1 is paused and cannot be rebooted; resume it first",
        ),
        ({}, Verb.REACTIVATE, None),
    ],
)
def test_refusals_say_what_would_be_right(changes: dict[str, object], verb: Verb, sentence: str | None) -> None:
    """One sentence each."""
    if sentence is None:
        assert apply_verb(machine(**changes), verb, "", NOW) is None
        return
    with pytest.raises(MachineConflict) as refused:
        apply_verb(machine(**changes), verb, "", NOW)
    assert str(refused.value) == sentence


def test_a_machine_that_would_lose_its_memory_is_not_paused() -> None:
    with pytest.raises(MachineConflict, match="at EC2, its memory would be lost; suspend it"):
        apply_verb(machine(suspends=False), Verb.PAUSE, "", NOW)
    assert apply_verb(machine(suspends=False), Verb.SUSPEND, "", NOW) is not None


def test_a_reboot_is_counted_each_time() -> None:
    """Two requests are two reboots; the node does as many as it has not done."""
    once = apply_verb(machine(), Verb.REBOOT, "", NOW)
    assert once is not None
    twice = apply_verb(once.machine, Verb.REBOOT, "", NOW)
    assert twice is not None
    assert twice.machine.reboots == 2


def test_an_end_moves_either_way() -> None:
    """And its owner is warned again before the new one."""
    one = machine(warned=True)
    later = change_expiry(one, NOW + timedelta(hours=2), NOW, "more to do")
    assert later is not None
    assert (later.machine.expires, later.machine.warned) == (NOW + timedelta(hours=2), False)
    assert later.events == (("extended", "it expires at 2026-11-22T14:00:00Z: more to do"),)
    sooner = change_expiry(one, NOW + timedelta(minutes=1), NOW)
    assert sooner is not None
    assert sooner.events == (("shortened", "it expires at 2026-11-22T12:01:00Z"),)
    assert change_expiry(one, one.expires, NOW) is None


def test_an_end_that_has_passed_is_none() -> None:
    """Whoever wants a machine to end now says so."""
    with pytest.raises(Misused, match="has passed; destroy machine worker-1"):
        change_expiry(machine(), NOW, NOW)


@pytest.mark.parametrize(
    "over", [{"state": MachineState.ENDED}, {"desired": DesiredStatus.ENDED}], ids=["ended", "ending"]
)
def test_what_is_over_gets_no_other_end_and_no_other_size(over: dict[str, object]) -> None:
    """Nobody brings back a machine by prolonging it."""
    with pytest.raises(MachineConflict, match="cannot be extended"):
        change_expiry(machine(**over), NOW + timedelta(days=1), NOW)
    with pytest.raises(MachineConflict, match="cannot be resized"):
        resize_machine(machine(**over), 512 * MIB, None)


def test_amounts_change_within_what_was_granted() -> None:
    """Down, and up again."""
    smaller = resize_machine(machine(), 512 * MIB, 1, "quiet night")
    assert smaller is not None
    assert (smaller.machine.memory, smaller.machine.cores) == (512 * MIB, 1)
    assert smaller.events == (("resized", "512MiB of memory, 1 core: quiet night"),)
    back = resize_machine(smaller.machine, GIB, None)
    assert back is not None
    assert (back.machine.memory, back.machine.cores) == (GIB, 1)
    assert resize_machine(machine(), GIB, 2) is None
    assert resize_machine(machine(), None, None) is None


@pytest.mark.parametrize(
    ("changes", "memory", "cores", "error", "sentence"),
    [
        ({}, GIB + MIB, None, MachineConflict, "may have at most 1GiB of memory and 2 cores"),
        ({}, None, 3, MachineConflict, "may have at most 1GiB of memory and 2 cores"),
        ({"desired": DesiredStatus.SUSPENDED}, 512 * MIB, None, MachineConflict, "is suspended and cannot be resized"),
        ({}, 512 * MIB + 1, None, Misused, "whole MiB"),
        ({}, 8 * MIB, None, Misused, "at least 16MiB"),
        ({}, None, -1, Misused, "at least one core"),
    ],
)
def test_other_amounts_are_refused(
    changes: dict[str, object], memory: int | None, cores: int | None, error: type[Exception], sentence: str
) -> None:
    """More than was granted, what no machine can have, and what cannot be changed now."""
    with pytest.raises(error, match=sentence):
        resize_machine(machine(**changes), memory, cores)


def test_a_held_machine_is_released_once() -> None:
    """And one that has ended is not."""
    held = machine(state=MachineState.PENDING, held=True)
    change = release_machine(held)
    assert change is not None
    assert not change.machine.held
    assert release_machine(change.machine) is None
    assert release_machine(held.model_copy(update={"state": MachineState.ENDED})) is None
