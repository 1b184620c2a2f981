"""The next actions for the machines of a pool, from their desired state and their state at EC2. Pure.

Everything is decided anew from EC2's descriptions and the books, so a pool may die after any step and go on. Each machine
gets one step at a time; a step that takes EC2 a while is awaited by looking again. Only instances with the pool's own tags
are looked at: two pools in one account never touch each other's machines.
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
    """The next actions.

    Args:
        desired: the desired state of the pool's machines.
        instances: all that carry the pool's tags.
        books: the booked machines, by UUID.
        now: a machine whose time is over is ended, whatever is desired.
    """
    found: dict[str, list[Instance]] = defaultdict(list)
    for instance in instances:
        if instance.live:
            found[instance.machine].append(instance)
    wanted = {machine.uuid: machine for machine in desired.machines}
    decided: list[Action] = []
    for uuid in sorted(found.keys() - wanted.keys()):
        decided += [_end(each, "the machine should not exist any longer") for each in _oldest_first(found[uuid])]
    for machine in desired.machines:
        live = _oldest_first(found.get(machine.uuid, ()))
        decided += [
            _end(each, "the machine was started twice, and this is not the first instance") for each in live[1:]
        ]
        decided += _for_one(machine, live[0] if live else None, books.get(machine.uuid), now)
    return tuple(decided)


def _for_one(machine: DesiredMachine, here: Instance | None, entry: MachineEntry | None, now: datetime) -> list[Action]:
    if here is None:
        return [Action(ActionKind.MAKE, machine.uuid, wanted=machine)] if _may_be_made(machine, entry, now) else []
    if machine.desired is DesiredStatus.ENDED or now >= machine.expires:
        return [_end(here, machine.reason or "it expired")]
    todo = []
    if here.tags.get(END_TAG) != end_tag_value(machine.expires):
        todo.append(_do(ActionKind.EXTEND, machine, here, "its expiry was changed"))
    if (step := _next(machine, here)) is not None:
        todo.append(step)
    return todo


def _do(kind: ActionKind, machine: DesiredMachine, here: Instance, reason: str = "") -> Action:
    return Action(kind, machine.uuid, reason, here.instance, machine)


def _next(machine: DesiredMachine, here: Instance) -> Action | None:
    """The next action for an instance; None while EC2 works on it, or when it is as desired."""
    other_size = here.tags.get(SIZE_TAG) != size_tag_value(machine.cores, machine.memory)
    if here.state == "stopped":
        if other_size:
            return _do(ActionKind.RESIZE, machine, here, "its cores or memory were changed")
        return _do(ActionKind.START, machine, here) if machine.desired is DesiredStatus.RUNNING else None
    if here.state != "running":
        return None
    if machine.desired in _WITH_MEMORY and here.hibernates:
        return _do(ActionKind.SUSPEND, machine, here, f"it should be {machine.desired.value}")
    if machine.desired is DesiredStatus.PAUSED:  # a pause must not lose the memory
        return None
    if machine.desired in _RESTING:
        return _do(ActionKind.STOP, machine, here, f"it should be {machine.desired.value}")
    if other_size:
        return _do(ActionKind.STOP, machine, here, "its cores or memory will change")
    if here.reboots < machine.reboots:
        return _do(ActionKind.REBOOT, machine, here)
    return None


def _may_be_made(machine: DesiredMachine, entry: MachineEntry | None, now: datetime) -> bool:
    """A machine is made once. If the books know its instance it was made; without an instance the attempt may have failed."""
    if machine.desired is DesiredStatus.ENDED or machine.desired is DesiredStatus.STOPPED or now >= machine.expires:
        return False
    return entry is None or (not entry.instance and not entry.ended)


def observe_machine(
    machine: DesiredMachine, instances: Sequence[Instance], entry: MachineEntry | None, now: datetime
) -> ObservedMachine | None:
    """A machine as it is reported; None if it is unknown at EC2 and in the books.

    Args:
        machine: its desired state.
        instances: those with its UUID, ended ones included.
        entry: its entry in the books.
    """
    live = _oldest_first([each for each in instances if each.live])
    here = live[0] if live else None
    if here is not None:
        state = machine_state(here, machine.desired)
    elif instances or (entry is not None and entry.ended):
        state = MachineState.ENDED
    elif entry is not None and entry.instance:
        state = MachineState.BOOTING  # the lists of EC2 are late; the pool notes its end once that cannot be the reason
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
        if machine.desired in _WITH_MEMORY and here.state == "stopped" and not here.hibernated:
            return MEMORY_LOST
        running = machine.desired is DesiredStatus.PAUSED and here.state == "running" and not here.hibernates
        return MEMORY_NOT_KEPT if running else ""
    if entry is not None and entry.reason:
        return entry.reason
    if not instances and entry is not None and not entry.ended:
        return ""
    return next((each.reason for each in instances if each.reason), "the machine no longer exists at EC2")


def _end(instance: Instance, reason: str) -> Action:
    return Action(ActionKind.END, instance.machine, reason, instance.instance)


def _oldest_first(instances: Sequence[Instance]) -> list[Instance]:
    return sorted(instances, key=lambda each: (each.launched.timestamp() if each.launched else 0.0, each.instance))
