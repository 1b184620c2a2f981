"""From how machines should be and how they are at EC2 to what is to be done next. Pure.

Everything is decided anew from what EC2 describes and what the books know, so a pool may die after any step and go on.
One step at a time for each machine; what takes EC2 a while is waited for by looking again. Only instances that carry the
pool's own tags are looked at: two pools in one account never meet.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime

from deployer.ec2.account.bookkeeping import MachineEntry
from deployer.ec2.aws.tags import END_TAG, SIZE_TAG, end_tag_value, size_tag_value
from deployer.ec2.model.hibernation import MEMORY_LOST, MEMORY_NOT_KEPT
from deployer.ec2.model.instances import Instance, machine_state
from deployer.machine.state import MachineState
from deployer.protocol.actions import Action, ActionKind
from deployer.protocol.desired_state import DesiredMachine, DesiredState, DesiredStatus, ObservedMachine

_WITH_MEMORY = frozenset({DesiredStatus.PAUSED, DesiredStatus.SUSPENDED})
_RESTING = frozenset({DesiredStatus.SUSPENDED, DesiredStatus.STOPPED})


def actions(
    desired: DesiredState, instances: Sequence[Instance], books: Mapping[str, MachineEntry], now: datetime
) -> tuple[Action, ...]:
    """What is to be done next.

    Args:
        desired: how the pool's machines should be.
        instances: all that carry the pool's tags.
        books: what is written down of machines, by UUID.
        now: a machine whose time is over is ended whatever is desired.
    """
    found: dict[str, list[Instance]] = defaultdict(list)
    for instance in instances:
        if instance.live:
            found[instance.machine].append(instance)
    wanted = {machine.uuid: machine for machine in desired.machines}
    decided: list[Action] = []
    for uuid in sorted(found.keys() - wanted.keys()):
        decided += [_end(each, "the machine is no longer desired") for each in _oldest_first(found[uuid])]
    for machine in desired.machines:
        live = _oldest_first(found.get(machine.uuid, ()))
        decided += [_end(each, "the machine was begun twice, and this is not the first") for each in live[1:]]
        decided += _for_one(machine, live[0] if live else None, books.get(machine.uuid), now)
    return tuple(decided)


def _for_one(machine: DesiredMachine, here: Instance | None, entry: MachineEntry | None, now: datetime) -> list[Action]:
    if here is None:
        return [Action(ActionKind.MAKE, machine.uuid, wanted=machine)] if _may_be_made(machine, entry, now) else []
    if machine.want is DesiredStatus.ENDED or now >= machine.ends:
        return [_end(here, machine.reason or "its time has come")]
    todo = []
    if here.tags.get(END_TAG) != end_tag_value(machine.ends):
        todo.append(_do(ActionKind.EXTEND, machine, here, "its end was changed"))
    if (step := _next(machine, here)) is not None:
        todo.append(step)
    return todo


def _do(kind: ActionKind, machine: DesiredMachine, here: Instance, reason: str = "") -> Action:
    return Action(kind, machine.uuid, reason, here.instance, machine)


def _next(machine: DesiredMachine, here: Instance) -> Action | None:
    """What the state of one that exists asks for; None while EC2 is at it, or all is as it should be."""
    other_size = here.tags.get(SIZE_TAG) != size_tag_value(machine.cores, machine.memory)
    if here.state == "stopped":
        if other_size:
            return _do(ActionKind.RESIZE, machine, here, "other cores or memory were asked for")
        return _do(ActionKind.START, machine, here) if machine.want is DesiredStatus.RUNNING else None
    if here.state != "running":
        return None
    if machine.want in _WITH_MEMORY and here.hibernates:
        return _do(ActionKind.SUSPEND, machine, here, f"it should be {machine.want.value}")
    if machine.want is DesiredStatus.PAUSED:  # a pause that costs the memory is none
        return None
    if machine.want in _RESTING:
        return _do(ActionKind.STOP, machine, here, f"it should be {machine.want.value}")
    if other_size:
        return _do(ActionKind.STOP, machine, here, "it gets other cores or memory")
    if here.reboots < machine.reboots:
        return _do(ActionKind.REBOOT, machine, here)
    return None


def _may_be_made(machine: DesiredMachine, entry: MachineEntry | None, now: datetime) -> bool:
    """A machine is made once. One whose instance the books know was made; without it, it may have come to nothing."""
    if machine.want is DesiredStatus.ENDED or machine.want is DesiredStatus.STOPPED or now >= machine.ends:
        return False
    return entry is None or (not entry.instance and not entry.ended)


def observe_machine(
    machine: DesiredMachine, instances: Sequence[Instance], entry: MachineEntry | None, now: datetime
) -> ObservedMachine | None:
    """A machine as it is reported; None where nothing is known of it.

    Args:
        machine: how it should be.
        instances: those with its UUID, ended ones included.
        entry: what is written down of it.
    """
    live = _oldest_first([each for each in instances if each.live])
    here = live[0] if live else None
    if here is not None:
        state = machine_state(here, machine.want)
    elif instances or (entry is not None and entry.ended):
        state = MachineState.ENDED
    elif entry is not None and entry.instance:
        state = MachineState.BOOTING  # lists at EC2 are late; the pool notes its end when they can no longer be
    else:
        return None
    return ObservedMachine(
        uuid=machine.uuid,
        state=state,
        reason=_reason(here, instances, entry, machine),
        changed=now.replace(microsecond=0),
        addresses=here.addresses if here is not None else (),
        memory=machine.memory if here is not None else 0,
        cores=machine.cores if here is not None else 0,
        reboots=here.reboots if here is not None else 0,
        virt="ec2",
        suspends=here is None or here.hibernates,
    )


def _reason(
    here: Instance | None, instances: Sequence[Instance], entry: MachineEntry | None, machine: DesiredMachine
) -> str:
    if here is not None:
        if machine.want in _WITH_MEMORY and here.state == "stopped" and not here.hibernated:
            return MEMORY_LOST
        return (
            MEMORY_NOT_KEPT
            if machine.want is DesiredStatus.PAUSED and here.state == "running" and not here.hibernates
            else ""
        )
    if entry is not None and entry.reason:
        return entry.reason
    told = next((each.reason for each in instances if each.reason), "")
    if not instances and entry is not None and not entry.ended:
        return ""
    return told or "EC2 has no such machine any more"


def _end(instance: Instance, reason: str) -> Action:
    return Action(ActionKind.END, instance.machine, reason, instance.instance)


def _oldest_first(instances: Sequence[Instance]) -> list[Instance]:
    return sorted(instances, key=lambda each: (each.launched.timestamp() if each.launched else 0.0, each.instance))
