"""The verbs that people may apply to a machine. Pure: a machine and a verb in, a change or a refusal out.

A verb says how a machine should be from now on; its node sees to it. So what is allowed depends on how it should be
already (`desired`) and on how it was last reported (`state`). Who asks for what is so already, or on its way, changes nothing
and is not refused: a request that came twice has the same answer twice.
"""

from dataclasses import dataclass
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


@dataclass(frozen=True)
class _VerbRule:
    """What a verb does, and when it is possible.

    Attributes:
        done: the participle, for messages.
        event: what events call the verb; the state that it leads to has an event when the node has got there.
        leads: how the machine should be from then on; None: as before.
        after: how it has to be desired so far.
        during: how it has to be; verbs that undo another one follow it at once, however far that has come.
    """

    done: str
    event: str
    leads: DesiredStatus | None
    after: frozenset[DesiredStatus]
    during: frozenset[MachineState] = frozenset(MachineState)


_D, _S = DesiredStatus, MachineState
_ACTIVE: Final = frozenset({_S.RUNNING, _S.PAUSED})
_RULES: Final = {
    Verb.PAUSE: _VerbRule("paused", "pausing", _D.PAUSED, frozenset({_D.RUNNING}), frozenset({_S.RUNNING})),
    Verb.RESUME: _VerbRule("resumed", "resuming", _D.RUNNING, frozenset({_D.PAUSED})),
    Verb.SUSPEND: _VerbRule("suspended", "suspending", _D.SUSPENDED, frozenset({_D.RUNNING, _D.PAUSED}), _ACTIVE),
    Verb.REACTIVATE: _VerbRule("reactivated", "reactivating", _D.RUNNING, frozenset({_D.SUSPENDED, _D.STOPPED})),
    Verb.REBOOT: _VerbRule("rebooted", "rebooting", None, frozenset({_D.RUNNING}), frozenset({_S.RUNNING})),
    Verb.SHUTDOWN: _VerbRule(
        "shut down",
        "stopping",
        _D.STOPPED,
        frozenset({_D.RUNNING, _D.PAUSED, _D.SUSPENDED}),
        _ACTIVE | {_S.SUSPENDED},
    ),
}

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
        MachineConflict: the verb is not possible now; the message has the reason and the possible verbs.
    """
    if verb is Verb.DESTROY:
        return _destroy(machine, reason, now)
    rule = _RULES[verb]
    _demand_life(machine, rule.done)
    if machine.migrating is not None:
        _demand_stay(machine, verb)
        return None
    if machine.desired is rule.leads:
        return None
    if verb is Verb.PAUSE and not machine.suspends:
        raise MachineConflict(
            f"machine {machine.hostname} cannot be paused: where it runs, at EC2, its memory would be lost; suspend it, which "
            "keeps its disks, or ask the site for an account with hibernation before you order the next"
        )
    if verb in {Verb.RESUME, Verb.REACTIVATE}:
        check_disks_read(machine, rule.done)
    if machine.desired not in rule.after:
        instead = _INSTEAD.get(machine.desired) or f"it is neither {' nor '.join(sorted(rule.after))}"
        raise MachineConflict(f"machine {machine.hostname} is {_held(machine)} and cannot be {rule.done}; {instead}")
    if machine.state not in rule.during:
        instead = "wait until it runs, or destroy it" if machine.state in STARTING_STATES else "wait until that is so"
        raise MachineConflict(
            f"machine {machine.hostname} is {machine.state.value} and should be {machine.desired.value}; "
            f"it cannot be {rule.done} now; {instead}"
        )
    if rule.leads is None:
        return machine.transition((rule.event, reason), reboots=machine.reboots + 1)
    return machine.transition((rule.event, reason), desired=rule.leads, desired_reason=reason)


def _demand_stay(machine: SiteMachine, verb: Verb) -> None:
    """One that is on its way to another node can be ended, and else waited for; to be reactivated there it goes already."""
    migration = machine.migrating
    if migration is not None and verb is Verb.REACTIVATE and migration.desired is DesiredStatus.RUNNING:
        return
    raise MachineConflict(
        f"machine {machine.hostname} is migrating to another node and cannot be {_RULES[verb].done}; "
        "wait until it is there, or destroy it"
    )


def _destroy(machine: SiteMachine, reason: str, now: datetime) -> MachineTransition | None:
    if machine.ending:
        return None
    why = reason or "destroyed on request"
    if machine.node is None or machine.withheld:
        return finish_machine(machine, MachineState.ENDED, why, now, removed=True)  # no node knows of it
    return machine.transition(("destroying", why), desired=DesiredStatus.ENDED, desired_reason=why)


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
    detail = f"it expires at {write_instant(expires)}" + (f": {reason}" if reason else "")
    return machine.transition((what, detail), expires=expires, warned=False)


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
        raise MachineConflict(f"machine {machine.hostname} is migrating to another node; resize it when it is there")
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
    amounts = f"{size_text(memory)} of memory, {cores} core{'' if cores == 1 else 's'}"
    detail = f"{amounts}: {reason}" if reason else amounts
    return machine.transition(("resized", detail), memory=memory, cores=cores)


def release_machine(machine: SiteMachine) -> MachineTransition | None:
    """Let the node of a machine that was held know of it."""
    if not machine.held or machine.state.final:
        return None
    return machine.transition(("released", ""), held=False)


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
