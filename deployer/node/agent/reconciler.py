"""The actions that bring a node's machines to the state that its site desires. Pure: two lists in, actions out.

The state of a machine says what is, `DesiredStatus` what should be; only the difference is acted upon, so an action that was done
already, or half, is never done twice. One thing cannot be seen from the two: whether a machine that is stopped was stopped
because that was wanted, or powered itself off. So its record keeps what its site wanted last (`wanted`), noted before a
machine is brought to rest and after it was brought to run. A guest that powered itself off stays off.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from deployer.machine.state import MachineState
from deployer.protocol.actions import Action, ActionKind
from deployer.protocol.desired_state import DesiredMachine, DesiredState, DesiredStatus
from deployer.records.machine_store import MachineRecord

MAKING: Final = frozenset({MachineState.PENDING, MachineState.STAGING, MachineState.BOOTING})
LIVE: Final = frozenset({MachineState.RUNNING, MachineState.PAUSED})
UNKNOWN: Final = "its site does not know it any more"
MIGRATED: Final = "it was migrated to another node"


def plan_actions(desired: DesiredState, here: Sequence[MachineRecord]) -> tuple[Action, ...]:
    """What is to be done now. Those of one machine belong together, in their order; more may follow from what comes of them.

    Args:
        desired: all machines that the site wants on this node.
        here: the records of the machines of that site on this node, and no others.
    """
    records = {record.uuid: record for record in here}
    found: list[Action] = []
    for machine in desired.machines:
        record = records.pop(machine.uuid, None)
        if record is None and machine.migrated is not None and machine.desired is not DesiredStatus.ENDED:
            found.append(_do(ActionKind.REPORT_LOST, machine))
        elif record is None:
            # One that should rest has no state to rest with until it is wanted to run.
            if machine.desired in {DesiredStatus.RUNNING, DesiredStatus.PAUSED, DesiredStatus.SUSPENDED}:
                found.append(_do(ActionKind.MAKE, machine))
        else:
            found += _machine(machine, record)
    for incoming in desired.incoming or ():
        record = records.get(incoming.machine.uuid)
        if record is None:
            found.append(Action(ActionKind.TAKE, incoming.machine.uuid, incoming=incoming))
        elif record.incoming == incoming.number and not record.state.final:
            del records[record.uuid]  # it is here, or on its way, and waits for its site's word
    for record in records.values():
        if record.state.final:
            found.append(Action(ActionKind.FORGET, record.uuid))
        else:
            found.append(Action(ActionKind.END, record.uuid, MIGRATED if record.outgoing else UNKNOWN))
    return tuple(found)


def _do(kind: ActionKind, machine: DesiredMachine, reason: str = "") -> Action:
    return Action(kind, machine.uuid, reason, wanted=machine)


def _machine(machine: DesiredMachine, record: MachineRecord) -> Iterator[Action]:
    state = record.state
    if state.final:
        return  # its site has not heard of it yet
    if machine.desired is DesiredStatus.ENDED:
        yield _do(ActionKind.END, machine, machine.reason or "its site ended it")
        return
    if record.incoming is not None:
        # If it came by another migration than the one in the desired state, it is only a copy.
        adopted = record.incoming == machine.migrated
        yield _do(ActionKind.ADOPT, machine) if adopted else _do(ActionKind.END, machine, UNKNOWN)
        return
    if machine.expires != record.expires:
        yield _do(ActionKind.EXTEND, machine)
    if state in MAKING:
        return
    if (
        machine.desired is not DesiredStatus.RUNNING
        and record.desired != machine.desired
        and not _to_be_started(machine, record)
    ):
        yield _do(ActionKind.REMEMBER, machine)
    if machine.outgoing is not None and state in {MachineState.SUSPENDED, MachineState.STOPPED}:
        if record.outgoing != machine.outgoing:
            yield _do(ActionKind.GIVE, machine)
        return
    if machine.outgoing is None and record.outgoing is not None:
        yield _do(ActionKind.RETAIN, machine)
        return
    yield from _state(machine, record)
    if state in LIVE | {MachineState.STOPPED} and (machine.memory, machine.cores) != (record.memory, record.cores):
        yield _do(ActionKind.RESIZE, machine)


def _to_be_started(machine: DesiredMachine, record: MachineRecord) -> bool:
    """Whether a machine is stopped because that was wanted, and something else is wanted now. Before it can be paused or
    suspended it has to run; what came to be stopped while it was to be suspended has lost its memory, and waits for an order."""
    if record.state is not MachineState.STOPPED:
        return False
    return (
        record.desired != DesiredStatus.RUNNING
        if machine.desired is DesiredStatus.RUNNING
        else (
            machine.desired in {DesiredStatus.PAUSED, DesiredStatus.SUSPENDED}
            and record.desired == DesiredStatus.STOPPED
        )
    )


def _state(machine: DesiredMachine, record: MachineRecord) -> Iterator[Action]:
    match machine.desired, record.state:
        case DesiredStatus.RUNNING, MachineState.RUNNING:
            if record.desired != DesiredStatus.RUNNING:
                yield _do(ActionKind.REMEMBER, machine)
            if record.reboots < machine.reboots:
                yield _do(ActionKind.REBOOT, machine)
        case DesiredStatus.RUNNING, MachineState.PAUSED:
            yield _do(ActionKind.RESUME, machine)
        case ((DesiredStatus.RUNNING | DesiredStatus.PAUSED), MachineState.SUSPENDED):
            yield _do(ActionKind.START, machine)
        case ((DesiredStatus.RUNNING | DesiredStatus.PAUSED | DesiredStatus.SUSPENDED), MachineState.STOPPED):
            if _to_be_started(machine, record):
                yield _do(ActionKind.START, machine)
        case DesiredStatus.PAUSED, MachineState.RUNNING:
            yield _do(ActionKind.PAUSE, machine)
        case DesiredStatus.SUSPENDED, (MachineState.RUNNING | MachineState.PAUSED):
            yield _do(ActionKind.SUSPEND, machine)
        case DesiredStatus.STOPPED, (MachineState.RUNNING | MachineState.PAUSED | MachineState.SUSPENDED):
            yield _do(ActionKind.STOP, machine)
