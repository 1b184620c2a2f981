"""What people may do to a machine: every verb in every want and state, other ends, other amounts."""

from datetime import timedelta

import pytest

from deployer.errors import MachineConflict, Misused
from deployer.machine.spec import State
from deployer.protocol.desired_state import Want
from deployer.site.lifecycle.verb_rules import Verb, act, move_end, release, resize
from tests.support.site.values import GIB, MIB, NOW, machine

_MAKING = {State.PENDING, State.STAGING, State.BOOTING}
ALLOWED: dict[Verb, dict[Want, set[State]]] = {
    Verb.PAUSE: {Want.RUNNING: {State.RUNNING}},
    Verb.RESUME: {Want.PAUSED: {state for state in State if not state.final}},
    Verb.SUSPEND: {
        Want.RUNNING: {State.RUNNING, State.PAUSED},
        Want.PAUSED: {State.RUNNING, State.PAUSED},
    },
    Verb.REACTIVATE: {
        Want.SUSPENDED: {state for state in State if not state.final},
        Want.STOPPED: {state for state in State if not state.final},
    },
    Verb.REBOOT: {Want.RUNNING: {State.RUNNING}},
    Verb.SHUTDOWN: {
        want: {State.RUNNING, State.PAUSED, State.SUSPENDED} for want in (Want.RUNNING, Want.PAUSED, Want.SUSPENDED)
    },
}
LEADS = {
    Verb.PAUSE: Want.PAUSED,
    Verb.RESUME: Want.RUNNING,
    Verb.SUSPEND: Want.SUSPENDED,
    Verb.REACTIVATE: Want.RUNNING,
    Verb.SHUTDOWN: Want.STOPPED,
}
REST = [(verb, want, state) for verb in Verb if verb is not Verb.DESTROY for want in Want for state in State]


@pytest.mark.parametrize(("verb", "want", "state"), REST, ids=lambda value: value.value)
def test_every_verb_in_every_want_and_state(verb: Verb, want: Want, state: State) -> None:
    """It leads where it should, changes nothing where that is so already, and is refused everywhere else."""
    before = machine(want=want, state=state)
    over = state.final or want is Want.ENDED
    if not over and verb is not Verb.REBOOT and want is LEADS[verb]:
        assert act(before, verb, "why", NOW) is None
    elif not over and state in ALLOWED[verb].get(want, set()):
        change = act(before, verb, "why", NOW)
        assert change is not None
        assert [reason for _, reason in change.told] == ["why"]
        if verb is Verb.REBOOT:
            assert change.machine == before.model_copy(update={"reboots": 1})
        else:
            assert change.machine == before.model_copy(update={"want": LEADS[verb], "want_reason": "why"})
    else:
        with pytest.raises(MachineConflict, match="worker-1"):
            act(before, verb, "why", NOW)


@pytest.mark.parametrize("state", State, ids=lambda value: value.value)
@pytest.mark.parametrize("want", Want, ids=lambda value: value.value)
def test_destroying_always_works(want: Want, state: State) -> None:
    """Whatever a machine is: it will end, or it has ended."""
    change = act(machine(want=want, state=state), Verb.DESTROY, "", NOW)
    if state.final or want is Want.ENDED:
        assert change is None
    else:
        assert change is not None
        assert (change.machine.want, change.machine.state) == (Want.ENDED, state)
        assert change.told == (("destroying", "destroyed on request"),)


@pytest.mark.parametrize("unheard", [{"node": None}, {"held": True}], ids=["no node", "held"])
def test_a_machine_that_no_node_has_heard_of_ends_at_once(unheard: dict[str, object]) -> None:
    """There is nobody to wait for."""
    change = act(machine(state=State.PENDING, **unheard), Verb.DESTROY, "no more", NOW)
    assert change is not None
    assert (change.machine.state, change.machine.gone, change.told) == (State.ENDED, True, (("ended", "no more"),))


@pytest.mark.parametrize(
    ("changes", "verb", "sentence"),
    [
        ({"state": State.ENDED}, Verb.PAUSE, "machine worker-1 has ended and cannot be paused"),
        ({"state": State.FAILED}, Verb.REBOOT, "machine worker-1 has failed and cannot be rebooted"),
        (
            {"want": Want.ENDED, "want_reason": "its time has come"},
            Verb.RESUME,
            "machine worker-1 is being ended (its time has come) and cannot be resumed",
        ),
        (
            {"state": State.STAGING},
            Verb.SHUTDOWN,
            "machine worker-1 is staging and should be running; it cannot be shut down now; wait until it runs, or destroy it",
        ),
        (
            {"want": Want.STOPPED, "state": State.STOPPED},
            Verb.PAUSE,
            "machine worker-1 is stopped and cannot be paused; reactivate it first",
        ),
        (
            {"want": Want.PAUSED, "state": State.PAUSED},
            Verb.REBOOT,
            "machine worker-1 is paused and cannot be rebooted; resume it first",
        ),
        ({}, Verb.REACTIVATE, None),
    ],
)
def test_refusals_say_what_would_be_right(changes: dict[str, object], verb: Verb, sentence: str | None) -> None:
    """One sentence each."""
    if sentence is None:
        assert act(machine(**changes), verb, "", NOW) is None
        return
    with pytest.raises(MachineConflict) as refused:
        act(machine(**changes), verb, "", NOW)
    assert str(refused.value) == sentence


def test_a_machine_that_would_lose_its_memory_is_not_paused() -> None:
    with pytest.raises(MachineConflict, match="at EC2, its memory would be lost; suspend it"):
        act(machine(suspends=False), Verb.PAUSE, "", NOW)
    assert act(machine(suspends=False), Verb.SUSPEND, "", NOW) is not None


def test_a_reboot_is_counted_each_time() -> None:
    """Two requests are two reboots; the node does as many as it has not done."""
    once = act(machine(), Verb.REBOOT, "", NOW)
    assert once is not None
    twice = act(once.machine, Verb.REBOOT, "", NOW)
    assert twice is not None
    assert twice.machine.reboots == 2


def test_an_end_moves_either_way() -> None:
    """And its owner is warned again before the new one."""
    one = machine(warned=True)
    later = move_end(one, NOW + timedelta(hours=2), NOW, "more to do")
    assert later is not None
    assert (later.machine.ends, later.machine.warned) == (NOW + timedelta(hours=2), False)
    assert later.told == (("extended", "it ends at 2026-11-22T14:00:00Z: more to do"),)
    sooner = move_end(one, NOW + timedelta(minutes=1), NOW)
    assert sooner is not None
    assert sooner.told == (("shortened", "it ends at 2026-11-22T12:01:00Z"),)
    assert move_end(one, one.ends, NOW) is None


def test_an_end_that_has_passed_is_none() -> None:
    """Whoever wants a machine to end now says so."""
    with pytest.raises(Misused, match="has passed; destroy machine worker-1"):
        move_end(machine(), NOW, NOW)


@pytest.mark.parametrize("over", [{"state": State.ENDED}, {"want": Want.ENDED}], ids=["ended", "ending"])
def test_what_is_over_gets_no_other_end_and_no_other_size(over: dict[str, object]) -> None:
    """Nobody brings back a machine by prolonging it."""
    with pytest.raises(MachineConflict, match="cannot be given another end"):
        move_end(machine(**over), NOW + timedelta(days=1), NOW)
    with pytest.raises(MachineConflict, match="cannot be resized"):
        resize(machine(**over), 512 * MIB, None)


def test_amounts_change_within_what_was_granted() -> None:
    """Down, and up again."""
    smaller = resize(machine(), 512 * MIB, 1, "quiet night")
    assert smaller is not None
    assert (smaller.machine.memory, smaller.machine.cores) == (512 * MIB, 1)
    assert smaller.told == (("resized", "512MiB of memory, 1 core: quiet night"),)
    back = resize(smaller.machine, GIB, None)
    assert back is not None
    assert (back.machine.memory, back.machine.cores) == (GIB, 1)
    assert resize(machine(), GIB, 2) is None
    assert resize(machine(), None, None) is None


@pytest.mark.parametrize(
    ("changes", "memory", "cores", "error", "sentence"),
    [
        ({}, GIB + MIB, None, MachineConflict, "was granted 1GiB of memory and 2 cores"),
        ({}, None, 3, MachineConflict, "was granted 1GiB of memory and 2 cores"),
        ({"want": Want.SUSPENDED}, 512 * MIB, None, MachineConflict, "is suspended and cannot be resized"),
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
        resize(machine(**changes), memory, cores)


def test_a_held_machine_is_released_once() -> None:
    """And one that has ended is not."""
    held = machine(state=State.PENDING, held=True)
    change = release(held)
    assert change is not None
    assert not change.machine.held
    assert release(change.machine) is None
    assert release(held.model_copy(update={"state": State.ENDED})) is None
