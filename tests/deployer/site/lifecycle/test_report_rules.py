"""What machines become by what nodes report, by their time, and by the loss of their node."""

from datetime import timedelta

import pytest

from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredStatus
from deployer.site.lifecycle.report_rules import (
    RESTING_STATES,
    STARTING_STATES,
    LostPolicy,
    apply_node_loss,
    apply_node_removal,
    apply_report,
    expire_machine,
    warn_of_expiry,
)
from tests.support.site.values import NOW, machine, observed

LATER = NOW + timedelta(minutes=1)
LIVING = [state for state in MachineState if not state.final]


def test_a_machine_is_as_its_node_has_it() -> None:
    """All that a node says of it is taken over, and what is new is told."""
    before = machine(state=MachineState.PENDING)
    said = observed(
        before, MachineState.RUNNING, addresses=("10.0.0.7",), fetched=5, total=5, from_network=3, virt="qemu"
    )
    change = apply_report(before, said, LATER, complete=False)
    assert change is not None
    after = change.machine
    assert (after.state, after.addresses, after.from_network, after.virt) == (
        MachineState.RUNNING,
        ("10.0.0.7",),
        3,
        "qemu",
    )
    assert after.changed == NOW + timedelta(seconds=5)
    assert change.events == (("running", ""), ("addresses", "10.0.0.7"))
    assert apply_report(after, said, LATER, complete=True) is None


def test_progress_is_kept_and_not_told() -> None:
    """Bytes that arrive are no event."""
    before = machine(state=MachineState.STAGING, changed=NOW + timedelta(seconds=5))
    change = apply_report(before, observed(before, MachineState.STAGING, fetched=7, total=9), LATER, complete=True)
    assert change is not None
    assert (change.machine.fetched, change.events) == (7, ())


@pytest.mark.parametrize("final", [MachineState.ENDED, MachineState.FAILED])
def test_a_machine_that_its_node_has_ended_is_over_and_gone(final: MachineState) -> None:
    """With the node's reason."""
    change = apply_report(machine(), observed(machine(), final, reason="it broke"), LATER, complete=False)
    assert change is not None
    assert (change.machine.state, change.machine.desired, change.machine.removed_from_node) == (
        final,
        DesiredStatus.ENDED,
        True,
    )
    assert change.events == ((final.value, "it broke"),)


def test_the_reason_of_an_end_that_was_asked_for_is_told() -> None:
    """Where the node has none of its own."""
    ending = machine(desired=DesiredStatus.ENDED, desired_reason="enough")
    change = apply_report(ending, observed(ending, MachineState.ENDED), LATER, complete=False)
    assert change is not None
    assert change.events == (("ended", "enough"),)
    assert change.machine.desired_reason == "enough"


@pytest.mark.parametrize("final", [MachineState.ENDED, MachineState.FAILED])
@pytest.mark.parametrize("state", LIVING, ids=lambda value: value.value)
def test_what_the_site_has_ended_stays_ended(final: MachineState, state: MachineState) -> None:
    """A node that was lost comes back with the machine still running: it is told to end it, and nothing else."""
    over = machine(state=final, desired=DesiredStatus.ENDED)
    assert apply_report(over, observed(over, state), LATER, complete=True) is None


@pytest.mark.parametrize("seen", [MachineState.ENDED, MachineState.FAILED, None])
def test_what_the_site_has_ended_is_gone_when_its_node_says_so(seen: MachineState | None) -> None:
    """By its state or by its absence; nothing is told again."""
    over = machine(state=MachineState.FAILED, desired=DesiredStatus.ENDED)
    change = apply_report(over, None if seen is None else observed(over, seen), LATER, complete=True)
    assert change is not None
    assert (change.machine, change.events) == (over.model_copy(update={"removed_from_node": True}), ())
    assert apply_report(change.machine, None, LATER, complete=True) is None


def test_a_guest_that_powered_itself_off_is_not_started_again() -> None:
    """The wish follows what the guest did; a machine that is to start again is not stopped by an old report."""
    change = apply_report(
        machine(), observed(machine(), MachineState.STOPPED, reason="guest powered off"), LATER, complete=True
    )
    assert change is not None
    assert (change.machine.desired, change.machine.desired_reason) == (DesiredStatus.STOPPED, "guest powered off")
    again = change.machine.model_copy(update={"desired": DesiredStatus.RUNNING})
    assert (
        apply_report(again, observed(machine(), MachineState.STOPPED, reason="guest powered off"), LATER, complete=True)
        is None
    )


@pytest.mark.parametrize("state", LIVING, ids=lambda value: value.value)
def test_a_machine_that_a_complete_report_lacks(state: MachineState) -> None:
    """While it was being made it is made again; what ran is gone; what should end has ended."""
    change = apply_report(machine(state=state), None, LATER, complete=True)
    if state is MachineState.PENDING:
        assert change is None
    elif state in STARTING_STATES:
        assert change is not None
        assert (change.machine.state, change.machine.removed_from_node) == (MachineState.PENDING, False)
        assert change.events == (("pending", "its node began anew"),)
    else:
        assert change is not None
        assert (change.machine.state, change.machine.removed_from_node, change.machine.desired) == (
            MachineState.FAILED,
            True,
            DesiredStatus.ENDED,
        )
    ending = apply_report(
        machine(state=state, desired=DesiredStatus.ENDED, desired_reason="enough"), None, LATER, complete=True
    )
    assert ending is not None
    assert (ending.machine.state, ending.machine.removed_from_node, ending.events) == (
        MachineState.ENDED,
        True,
        (("ended", "enough"),),
    )


@pytest.mark.parametrize("state", MachineState, ids=lambda value: value.value)
def test_a_report_that_does_not_tell_of_all_says_nothing_of_others(state: MachineState) -> None:
    """Absence means something only where all are told of."""
    assert apply_report(machine(state=state), None, LATER, complete=False) is None


def test_a_machine_ends_at_its_time_and_not_before() -> None:
    """Once."""
    one = machine()
    assert expire_machine(one, one.expires - timedelta(seconds=1)) is None
    change = expire_machine(one, one.expires)
    assert change is not None
    assert (change.machine.desired, change.machine.state) == (DesiredStatus.ENDED, MachineState.RUNNING)
    assert change.events == (("expired", "it expired"),)
    assert expire_machine(change.machine, LATER) is None
    nowhere = expire_machine(machine(node=None, state=MachineState.PENDING), one.expires)
    assert nowhere is not None
    assert (nowhere.machine.state, nowhere.machine.removed_from_node) == (MachineState.ENDED, True)


def test_an_owner_is_warned_once_and_not_of_what_is_over() -> None:
    """With the instant."""
    change = warn_of_expiry(machine())
    assert change is not None
    assert change.events == (("warned", "it expires at 2026-11-22T13:00:00Z"),)
    assert warn_of_expiry(change.machine) is None
    assert warn_of_expiry(machine(desired=DesiredStatus.ENDED)) is None
    assert warn_of_expiry(machine(state=MachineState.FAILED)) is None


@pytest.mark.parametrize("policy", ["wait", "fail", "replace"])
@pytest.mark.parametrize("state", MachineState, ids=lambda value: value.value)
@pytest.mark.parametrize("want", DesiredStatus, ids=lambda value: value.value)
def test_machines_of_a_lost_node(policy: LostPolicy, state: MachineState, want: DesiredStatus) -> None:
    """By policy; what was to end has ended; what only that node has is waited for; nothing is taken to be gone."""
    before = machine(state=state, desired=want, desired_reason="why", addresses=("10.0.0.7",), ready="ready")
    change = apply_node_loss(before, policy, LATER)
    if state.final:
        assert change is None
    elif want is DesiredStatus.ENDED:
        assert change is not None
        assert change.events == (("ended", "why; its node is lost"),)
        assert not change.machine.removed_from_node
    elif policy == "fail":
        assert change is not None
        assert (change.machine.state, change.machine.desired, change.machine.removed_from_node) == (
            MachineState.FAILED,
            DesiredStatus.ENDED,
            False,
        )
    elif policy == "replace" and want is DesiredStatus.RUNNING and state not in RESTING_STATES:
        assert change is not None
        after = change.machine
        assert (after.node, after.state, after.addresses, after.ready) == (None, MachineState.PENDING, (), None)
        assert after.desired is DesiredStatus.RUNNING
        assert change.events == (("replaced", "its node is lost"),)
    else:
        assert change is None


@pytest.mark.parametrize("state", MachineState, ids=lambda value: value.value)
def test_machines_of_a_node_that_was_removed_are_over(state: MachineState) -> None:
    """Nobody can be told to end them."""
    change = apply_node_removal(machine(state=state), LATER)
    assert change is not None
    assert change.machine.removed_from_node
    assert change.machine.state is (state if state.final else MachineState.FAILED)
    assert bool(change.events) is not state.final
    assert apply_node_removal(change.machine, LATER) is None
    ending = apply_node_removal(machine(desired=DesiredStatus.ENDED, desired_reason="enough"), LATER)
    assert ending is not None
    assert ending.machine.state is MachineState.ENDED
