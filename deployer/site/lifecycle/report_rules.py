"""What a machine becomes by what its node reports, by its time, and by the loss of its node. Pure: values in, changes out.

A node is believed about its own machines, with three limits. What the site has ended stays ended, whatever a node that
was away comes back with. A machine that was still being made when its node forgot it is made again; one that ran has failed.
And a guest that powered itself off is not started again by the wish that it runs: the wish follows.
"""

from datetime import datetime
from typing import Any, Final, Literal

from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredStatus, MachineStatus, ObservedMachine
from deployer.site.lifecycle.save_rules import apply_save_report
from deployer.site.model.records import MachineTransition, SiteMachine
from signer.statements.endorsement import write_instant

LostPolicy = Literal["wait", "fail", "replace"]
"""What becomes of the machines of a node that is lost: they wait for it, fail, or are placed elsewhere."""

STARTING_STATES: Final = frozenset({MachineState.PENDING, MachineState.STAGING, MachineState.BOOTING})
"""States of a machine that has not booted yet."""

RESTING_STATES: Final = frozenset({MachineState.PAUSED, MachineState.SUSPENDED, MachineState.STOPPED})
"""States in which a machine has something that only its node has, and that its owner counts on."""

EXPIRED = "it expired"


def apply_report(
    machine: SiteMachine, observed: ObservedMachine | None, now: datetime, *, complete: bool
) -> MachineTransition | None:
    """What a report of the node that a machine is on makes of it; None if it contains nothing new.

    Args:
        machine: as the site knows it; its node has not given it up yet.
        observed: as the node has it, or None if the report does not speak of it.
        now: aware, UTC, whole seconds.
        complete: whether the report speaks of all that the node has.
    """
    if observed is None:
        if machine.migration is not None and machine.migration.phase == "dropping" and not machine.migration.seen:
            return None  # it came from another node, and the report is older than that
        return _missing(machine, now) if complete else None
    if machine.state.final:
        return apply_node_removal(machine, now) if observed.state.final else None
    seen: dict[str, Any] = {name: getattr(observed, name) for name in MachineStatus.model_fields}
    if machine.migration is not None and machine.migration.phase == "dropping":
        seen["migration"] = machine.migration.model_copy(update={"seen": True})
    if observed.state.final:
        seen |= {
            "desired": DesiredStatus.ENDED,
            "removed_from_node": True,
            "desired_reason": machine.desired_reason or observed.reason,
        }
    elif (
        observed.state is MachineState.STOPPED
        and machine.state is not MachineState.STOPPED
        and machine.desired is DesiredStatus.RUNNING
    ):
        seen |= {"desired": DesiredStatus.STOPPED, "desired_reason": observed.reason or "its guest powered off"}
    changed, saved = apply_save_report(machine.model_copy(update=seen), observed.saved)
    if changed == machine:
        return None
    events = list(saved)
    if observed.state is not machine.state:
        reason = observed.reason or (machine.desired_reason if observed.state.final else "")
        events.append((observed.state.value, reason))
    if observed.addresses and observed.addresses != machine.addresses:
        events.append(("addresses", ", ".join(observed.addresses)))
    return MachineTransition(changed, tuple(events))


def _missing(machine: SiteMachine, now: datetime) -> MachineTransition | None:
    """Its node has reported all its machines, and this one is not among them."""
    if machine.ending or machine.state not in STARTING_STATES:
        return apply_node_removal(machine, now, "its node does not have it any more")
    if machine.state is MachineState.PENDING:
        return None
    reason = "its node began anew"
    event = (MachineState.PENDING.value, reason)
    return machine.transition(event, state=MachineState.PENDING, reason=reason, changed=now, fetched=0)


def finish_machine(
    machine: SiteMachine, state: MachineState, reason: str, now: datetime, *, removed: bool
) -> MachineTransition:
    """A machine reaches a final state; `removed`: whether its node has nothing of it any more."""
    return machine.transition(
        (state.value, reason),
        state=state,
        reason=reason,
        changed=now,
        desired=DesiredStatus.ENDED,
        desired_reason=machine.desired_reason or reason,
        removed_from_node=removed,
    )


def expire_machine(machine: SiteMachine, now: datetime) -> MachineTransition | None:
    """The change of a machine that has expired; None if it has not, or is ending already."""
    if machine.ending or now < machine.expires:
        return None
    if machine.node is None:
        return finish_machine(machine, MachineState.ENDED, EXPIRED, now, removed=True)
    return machine.transition(("expired", EXPIRED), desired=DesiredStatus.ENDED, desired_reason=EXPIRED)


def warn_of_expiry(machine: SiteMachine) -> MachineTransition | None:
    """Warn the owner, once, when it expires; extending it lets them be warned again (`lifecycle`)."""
    if machine.warned or machine.ending:
        return None
    return machine.transition(("warned", f"it expires at {write_instant(machine.expires)}"), warned=True)


def apply_node_loss(
    machine: SiteMachine, policy: LostPolicy, now: datetime, *, fenced: bool = True
) -> MachineTransition | None:
    """What becomes of a machine whose node is lost; None while it waits.

    It may be running there still: the site cannot know. So it is not `removed_from_node`, its node has to end it should it come
    back, and only under the policy "replace" another one runs meanwhile.

    Args:
        machine: on a lost node.
        policy: what is to become of it.
        now: aware, UTC, whole seconds.
        fenced: whether it is sure that the node runs nothing any more. Until then nothing comes in the machine's place:
            neither the same machine elsewhere, nor, in a cluster, another one under its host name. When its own time is
            over its node has ended it, with contact or without.
    """
    if machine.state.final:
        return None
    if not fenced and machine.role and now < machine.expires:
        return None
    if machine.desired is DesiredStatus.ENDED:
        return finish_machine(
            machine,
            MachineState.ENDED,
            f"{machine.desired_reason or 'it was to end'}; its node is lost",
            now,
            removed=False,
        )
    if policy == "fail":
        return finish_machine(machine, MachineState.FAILED, "its node is lost", now, removed=False)
    if (
        fenced
        and policy == "replace"
        and machine.desired is DesiredStatus.RUNNING
        and machine.state not in RESTING_STATES
    ):
        return MachineTransition(reset_placement(machine, "its node is lost", now), (("replaced", "its node is lost"),))
    return None


def reset_placement(machine: SiteMachine, reason: str, now: datetime) -> SiteMachine:
    """A machine that has to be placed again: nothing that its last node or its guest reported is valid any more.

    A copy that an earlier node still has to drop is remembered: no machine that is made anew may find it there.
    """
    dropping = machine.migration if machine.migration is not None and machine.migration.phase == "dropping" else None
    anew = dict(MachineStatus(state=MachineState.PENDING, reason=reason, changed=now)) | {
        "node": None,
        "reserved_cost": None,
        "ready": None,
        "host_keys": (),
        "guest_addresses": (),
        "context": None,
        "migration": dropping.model_copy(update={"seen": True}) if dropping is not None else None,
        "migrated": None,
    }
    return machine.model_copy(update=anew)


def apply_node_removal(
    machine: SiteMachine, now: datetime, reason: str = "its node was removed from the site"
) -> MachineTransition | None:
    """The change of a machine that no node has any more, because its node was removed: it is over."""
    if machine.state.final:
        return None if machine.removed_from_node else machine.transition(removed_from_node=True)
    if machine.desired is DesiredStatus.ENDED:
        return finish_machine(machine, MachineState.ENDED, machine.desired_reason, now, removed=True)
    return finish_machine(machine, MachineState.FAILED, reason, now, removed=True)
