"""What machines become by what nodes report, by their time, and by the loss of their node."""

from datetime import timedelta

import pytest

from deployer.machine.spec import State
from deployer.protocol.desired_state import Want
from deployer.site.lifecycle.report_rules import LASTING, MAKING, LostPolicy, absorb, expire, leave, lose, warn
from tests.support.site.values import NOW, machine, observed

LATER = NOW + timedelta(minutes=1)
LIVING = [state for state in State if not state.final]


def test_a_machine_is_as_its_node_has_it() -> None:
    """All that a node says of it is taken over, and what is new is told."""
    before = machine(state=State.PENDING)
    said = observed(before, State.RUNNING, addresses=("10.0.0.7",), fetched=5, total=5, from_network=3, virt="qemu")
    change = absorb(before, said, LATER, complete=False)
    assert change is not None
    after = change.machine
    assert (after.state, after.addresses, after.from_network, after.virt) == (State.RUNNING, ("10.0.0.7",), 3, "qemu")
    assert after.changed == NOW + timedelta(seconds=5)
    assert change.told == (("running", ""), ("addresses", "10.0.0.7"))
    assert absorb(after, said, LATER, complete=True) is None


def test_progress_is_kept_and_not_told() -> None:
    """Bytes that arrive are no event."""
    before = machine(state=State.STAGING, changed=NOW + timedelta(seconds=5))
    change = absorb(before, observed(before, State.STAGING, fetched=7, total=9), LATER, complete=True)
    assert change is not None
    assert (change.machine.fetched, change.told) == (7, ())


@pytest.mark.parametrize("final", [State.ENDED, State.FAILED])
def test_a_machine_that_its_node_has_ended_is_over_and_gone(final: State) -> None:
    """With the node's reason."""
    change = absorb(machine(), observed(machine(), final, reason="it broke"), LATER, complete=False)
    assert change is not None
    assert (change.machine.state, change.machine.want, change.machine.gone) == (final, Want.ENDED, True)
    assert change.told == ((final.value, "it broke"),)


def test_the_reason_of_an_end_that_was_asked_for_is_told() -> None:
    """Where the node has none of its own."""
    ending = machine(want=Want.ENDED, want_reason="enough")
    change = absorb(ending, observed(ending, State.ENDED), LATER, complete=False)
    assert change is not None
    assert change.told == (("ended", "enough"),)
    assert change.machine.want_reason == "enough"


@pytest.mark.parametrize("final", [State.ENDED, State.FAILED])
@pytest.mark.parametrize("state", LIVING, ids=lambda value: value.value)
def test_what_the_site_has_ended_stays_ended(final: State, state: State) -> None:
    """A node that was lost comes back with the machine still running: it is told to end it, and nothing else."""
    over = machine(state=final, want=Want.ENDED)
    assert absorb(over, observed(over, state), LATER, complete=True) is None


@pytest.mark.parametrize("seen", [State.ENDED, State.FAILED, None])
def test_what_the_site_has_ended_is_gone_when_its_node_says_so(seen: State | None) -> None:
    """By its state or by its absence; nothing is told again."""
    over = machine(state=State.FAILED, want=Want.ENDED)
    change = absorb(over, None if seen is None else observed(over, seen), LATER, complete=True)
    assert change is not None
    assert (change.machine, change.told) == (over.model_copy(update={"gone": True}), ())
    assert absorb(change.machine, None, LATER, complete=True) is None


def test_a_guest_that_powered_itself_off_is_not_started_again() -> None:
    """The wish follows what the guest did; a machine that is to start again is not stopped by an old report."""
    change = absorb(machine(), observed(machine(), State.STOPPED, reason="guest powered off"), LATER, complete=True)
    assert change is not None
    assert (change.machine.want, change.machine.want_reason) == (Want.STOPPED, "guest powered off")
    again = change.machine.model_copy(update={"want": Want.RUNNING})
    assert absorb(again, observed(machine(), State.STOPPED, reason="guest powered off"), LATER, complete=True) is None


@pytest.mark.parametrize("state", LIVING, ids=lambda value: value.value)
def test_a_machine_that_a_complete_report_lacks(state: State) -> None:
    """While it was being made it is made again; what ran is gone; what should end has ended."""
    change = absorb(machine(state=state), None, LATER, complete=True)
    if state is State.PENDING:
        assert change is None
    elif state in MAKING:
        assert change is not None
        assert (change.machine.state, change.machine.gone) == (State.PENDING, False)
        assert change.told == (("pending", "its node began anew"),)
    else:
        assert change is not None
        assert (change.machine.state, change.machine.gone, change.machine.want) == (State.FAILED, True, Want.ENDED)
    ending = absorb(machine(state=state, want=Want.ENDED, want_reason="enough"), None, LATER, complete=True)
    assert ending is not None
    assert (ending.machine.state, ending.machine.gone, ending.told) == (State.ENDED, True, (("ended", "enough"),))


@pytest.mark.parametrize("state", State, ids=lambda value: value.value)
def test_a_report_that_does_not_tell_of_all_says_nothing_of_others(state: State) -> None:
    """Absence means something only where all are told of."""
    assert absorb(machine(state=state), None, LATER, complete=False) is None


def test_a_machine_ends_at_its_time_and_not_before() -> None:
    """Once."""
    one = machine()
    assert expire(one, one.ends - timedelta(seconds=1)) is None
    change = expire(one, one.ends)
    assert change is not None
    assert (change.machine.want, change.machine.state) == (Want.ENDED, State.RUNNING)
    assert change.told == (("expired", "its time has come"),)
    assert expire(change.machine, LATER) is None
    nowhere = expire(machine(node=None, state=State.PENDING), one.ends)
    assert nowhere is not None
    assert (nowhere.machine.state, nowhere.machine.gone) == (State.ENDED, True)


def test_an_owner_is_warned_once_and_not_of_what_is_over() -> None:
    """With the instant."""
    change = warn(machine())
    assert change is not None
    assert change.told == (("warned", "it ends at 2026-11-22T13:00:00Z"),)
    assert warn(change.machine) is None
    assert warn(machine(want=Want.ENDED)) is None
    assert warn(machine(state=State.FAILED)) is None


@pytest.mark.parametrize("policy", ["wait", "fail", "replace"])
@pytest.mark.parametrize("state", State, ids=lambda value: value.value)
@pytest.mark.parametrize("want", Want, ids=lambda value: value.value)
def test_machines_of_a_lost_node(policy: LostPolicy, state: State, want: Want) -> None:
    """By policy; what was to end has ended; what only that node has is waited for; nothing is taken to be gone."""
    before = machine(state=state, want=want, want_reason="why", addresses=("10.0.0.7",), ready="ready")
    change = lose(before, policy, LATER)
    if state.final:
        assert change is None
    elif want is Want.ENDED:
        assert change is not None
        assert change.told == (("ended", "why; its node is lost"),)
        assert not change.machine.gone
    elif policy == "fail":
        assert change is not None
        assert (change.machine.state, change.machine.want, change.machine.gone) == (State.FAILED, Want.ENDED, False)
    elif policy == "replace" and want is Want.RUNNING and state not in LASTING:
        assert change is not None
        after = change.machine
        assert (after.node, after.state, after.addresses, after.ready) == (None, State.PENDING, (), None)
        assert after.want is Want.RUNNING
        assert change.told == (("replaced", "its node is lost"),)
    else:
        assert change is None


@pytest.mark.parametrize("state", State, ids=lambda value: value.value)
def test_machines_of_a_node_that_was_removed_are_over(state: State) -> None:
    """Nobody can be told to end them."""
    change = leave(machine(state=state), LATER)
    assert change is not None
    assert change.machine.gone
    assert change.machine.state is (state if state.final else State.FAILED)
    assert bool(change.told) is not state.final
    assert leave(change.machine, LATER) is None
    ending = leave(machine(want=Want.ENDED, want_reason="enough"), LATER)
    assert ending is not None
    assert ending.machine.state is State.ENDED
