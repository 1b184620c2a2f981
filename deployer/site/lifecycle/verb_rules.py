"""The verbs that people may apply to a machine. Pure: a machine and a verb in, a change or a refusal out.

A verb says how a machine should be from now on; its node sees to it. So what is allowed depends on how it should be
already (`desired`) and on how it was last reported (`state`). Who asks for what is so already, or on its way, changes nothing
and is not refused: a request that came twice has the same answer twice.
"""

from datetime import datetime
from enum import StrEnum
from typing import Final

from catalog.errors import Misused
from deployer.errors import MachineConflict
from deployer.machine.shape import MEMORY_UNIT
from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredStatus
from deployer.site.lifecycle.report_rules import STARTING_STATES, finish_machine
from deployer.site.lifecycle.save_rules import check_disks_read
from deployer.site.model.records import MachineTransition, SiteMachine
from signer.runtime.units import size_text
from signer.statements.endorsement import write_instant

MIN_MEMORY: Final = 16 << 20
"""Bytes: what a machine is given at least (`SiteMachine`, `MachineSpec`)."""


class Verb(StrEnum):
    """What can be asked of a machine by one word."""

    PAUSE = "pause"
    RESUME = "resume"
    SUSPEND = "suspend"
    REACTIVATE = "reactivate"
    REBOOT = "reboot"
    SHUTDOWN = "shutdown"
    DESTROY = "destroy"


_DONE: Final = {
    Verb.PAUSE: "paused",
    Verb.RESUME: "resumed",
    Verb.SUSPEND: "suspended",
    Verb.REACTIVATE: "reactivated",
    Verb.REBOOT: "rebooted",
    Verb.SHUTDOWN: "shut down",
    Verb.DESTROY: "destroyed",
}
_LEADS: Final = {
    Verb.PAUSE: DesiredStatus.PAUSED,
    Verb.RESUME: DesiredStatus.RUNNING,
    Verb.SUSPEND: DesiredStatus.SUSPENDED,
    Verb.REACTIVATE: DesiredStatus.RUNNING,
    Verb.SHUTDOWN: DesiredStatus.STOPPED,
}
_FROM: Final = {
    Verb.PAUSE: frozenset({DesiredStatus.RUNNING}),
    Verb.RESUME: frozenset({DesiredStatus.PAUSED}),
    Verb.SUSPEND: frozenset({DesiredStatus.RUNNING, DesiredStatus.PAUSED}),
    Verb.REACTIVATE: frozenset({DesiredStatus.SUSPENDED, DesiredStatus.STOPPED}),
    Verb.REBOOT: frozenset({DesiredStatus.RUNNING}),
    Verb.SHUTDOWN: frozenset({DesiredStatus.RUNNING, DesiredStatus.PAUSED, DesiredStatus.SUSPENDED}),
}
"""How a machine has to be wanted so far."""

_WHILE: Final = {
    Verb.PAUSE: frozenset({MachineState.RUNNING}),
    Verb.SUSPEND: frozenset({MachineState.RUNNING, MachineState.PAUSED}),
    Verb.REBOOT: frozenset({MachineState.RUNNING}),
    Verb.SHUTDOWN: frozenset({MachineState.RUNNING, MachineState.PAUSED, MachineState.SUSPENDED}),
}
"""How it has to be; verbs that undo another one follow it at once, however far that has come."""

_INSTEAD: Final = {
    DesiredStatus.PAUSED: "resume it first",
    DesiredStatus.SUSPENDED: "reactivate it first",
    DesiredStatus.STOPPED: "reactivate it first",
}


def apply_verb(machine: SiteMachine, verb: Verb, reason: str, now: datetime) -> MachineTransition | None:
    """Apply a verb to a machine; None if it is done already, or on its way.

    Args:
        machine: as it is.
        verb: what is asked for.
        reason: why, for the event and the node.
        now: aware, UTC, whole seconds.

    Raises:
        MachineConflict: the verb is not possible now; says why, and which ones are.
    """
    if verb is Verb.DESTROY:
        return _destroy(machine, reason, now)
    _demand_life(machine, _DONE[verb])
    if machine.migrating is not None:
        _demand_stay(machine, verb)
        return None
    if verb is not Verb.REBOOT and machine.desired is _LEADS[verb]:
        return None
    if verb is Verb.PAUSE and not machine.suspends:
        raise MachineConflict(
            f"machine {machine.hostname} cannot be paused: where it runs, at EC2, its memory would be lost; suspend it, which "
            "keeps its disks, or ask the site for an account with hibernation before you order the next"
        )
    if verb in {Verb.RESUME, Verb.REACTIVATE}:
        check_disks_read(machine, _DONE[verb])
    if machine.desired not in _FROM[verb]:
        instead = _INSTEAD.get(machine.desired) or f"it is neither {' nor '.join(sorted(_FROM[verb]))}"
        raise MachineConflict(f"machine {machine.hostname} is {_held(machine)} and cannot be {_DONE[verb]}; {instead}")
    if machine.state not in _WHILE.get(verb, frozenset(MachineState)):
        instead = "wait until it runs, or destroy it" if machine.state in STARTING_STATES else "wait until that is so"
        raise MachineConflict(
            f"machine {machine.hostname} is {machine.state.value} and should be {machine.desired.value}; "
            f"it cannot be {_DONE[verb]} now; {instead}"
        )
    if verb is Verb.REBOOT:
        return MachineTransition(machine.model_copy(update={"reboots": machine.reboots + 1}), (("rebooting", reason),))
    wanted = {"desired": _LEADS[verb], "desired_reason": reason}
    return MachineTransition(machine.model_copy(update=wanted), ((_TOLD[verb], reason),))


_TOLD: Final = {
    Verb.PAUSE: "pausing",
    Verb.RESUME: "resuming",
    Verb.SUSPEND: "suspending",
    Verb.REACTIVATE: "reactivating",
    Verb.SHUTDOWN: "stopping",
}
"""What events call a verb; the state that it leads to is told when the node has got there."""


def _demand_stay(machine: SiteMachine, verb: Verb) -> None:
    """One that is on its way to another node can be ended, and else waited for; to be reactivated there it goes already."""
    move = machine.migrating
    if move is not None and verb is Verb.REACTIVATE and move.desired is DesiredStatus.RUNNING:
        return
    raise MachineConflict(
        f"machine {machine.hostname} is being moved to another node and cannot be {_DONE[verb]}; "
        "wait until it is there, or destroy it"
    )


def _destroy(machine: SiteMachine, reason: str, now: datetime) -> MachineTransition | None:
    if machine.state.final or machine.desired is DesiredStatus.ENDED:
        return None
    why = reason or "destroyed on request"
    if machine.node is None or machine.withheld:
        return finish_machine(machine, MachineState.ENDED, why, now, gone=True)  # nobody was told of it
    return MachineTransition(
        machine.model_copy(update={"desired": DesiredStatus.ENDED, "desired_reason": why}), (("destroying", why),)
    )


def change_expiry(machine: SiteMachine, expires: datetime, now: datetime, reason: str = "") -> MachineTransition | None:
    """Change when a machine expires, to later or earlier; None if it is that already.

    Raises:
        MachineConflict: it has expired already.
        Misused: the instant has passed.
    """
    _demand_life(machine, "extended")
    if expires <= now:
        raise Misused(f"{write_instant(expires)} has passed; destroy machine {machine.hostname} to end it now")
    if expires == machine.expires:
        return None
    what = "extended" if expires > machine.expires else "shortened"
    told = f"it expires at {write_instant(expires)}" + (f": {reason}" if reason else "")
    return MachineTransition(machine.model_copy(update={"expires": expires, "warned": False}), ((what, told),))


def resize_machine(
    machine: SiteMachine, memory: int | None, cores: int | None, reason: str = ""
) -> MachineTransition | None:
    """Give a machine other amounts within its maximum; None if it has them already.

    Args:
        machine: as it is; one that is suspended has its memory on disk, and takes no other.
        memory: bytes, whole MiB; None leaves it.
        cores: None leaves them.
        reason: for the event.

    Raises:
        MachineConflict: more than its maximum, or its state does not allow it.
        Misused: amounts that no machine can have.
    """
    _demand_life(machine, "resized")
    if machine.migrating is not None:
        raise MachineConflict(f"machine {machine.hostname} is being moved to another node; resize it when it is there")
    memory, cores = memory or machine.memory, cores or machine.cores
    if memory % MEMORY_UNIT or memory < MIN_MEMORY or cores < 1:
        raise Misused("a machine has memory in whole MiB, at least 16MiB of it, and at least one core")
    if memory > machine.max_memory or cores > machine.max_cores:
        raise MachineConflict(
            f"machine {machine.hostname} may have at most {size_text(machine.max_memory)} of memory and "
            f"{machine.max_cores} cores, as it was ordered; ask for no more, or order another one"
        )
    if machine.desired is DesiredStatus.SUSPENDED:
        raise MachineConflict(f"machine {machine.hostname} is suspended and cannot be resized; reactivate it first")
    if (memory, cores) == (machine.memory, machine.cores):
        return None
    told = f"{size_text(memory)} of memory, {cores} core{'' if cores == 1 else 's'}" + (f": {reason}" if reason else "")
    return MachineTransition(machine.model_copy(update={"memory": memory, "cores": cores}), (("resized", told),))


def release_machine(machine: SiteMachine) -> MachineTransition | None:
    """Let the node of a machine that was held hear of it."""
    if not machine.held or machine.state.final:
        return None
    return MachineTransition(machine.model_copy(update={"held": False}), (("released", ""),))


def _demand_life(machine: SiteMachine, done: str) -> None:
    if machine.state.final:
        raise MachineConflict(f"machine {machine.hostname} has {_END[machine.state]} and cannot be {done}")
    if machine.desired is DesiredStatus.ENDED:
        why = f" ({machine.desired_reason})" if machine.desired_reason else ""
        raise MachineConflict(f"machine {machine.hostname} is being ended{why} and cannot be {done}")


_END: Final = {MachineState.ENDED: "ended", MachineState.FAILED: "failed"}


def _held(machine: SiteMachine) -> str:
    """How it is wanted, for people."""
    return "meant to run" if machine.desired is DesiredStatus.RUNNING else machine.desired.value
