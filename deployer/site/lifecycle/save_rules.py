"""The rules for saving a machine as a new version of its image: requests and reports. Pure.

Disks are read while nothing writes to them, so a machine has to rest: paused, suspended or stopped. It may go on as soon as
they have been read; sending what was read does not delay it. The last saves are stored with their machine;
a repeated request, by the same key or for the same version, gets the same answer again.
"""

from datetime import datetime
from typing import Final

from catalog.errors import Conflict
from deployer.errors import MachineConflict
from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredStatus
from deployer.protocol.save import SaveStatus
from deployer.site.model.records import MachineTransition, SaveProgress, SiteMachine

KEPT: Final = 16
"""Saves that a machine remembers: who asks again does so within minutes, and the catalog has the rest."""

AT_REST: Final = {
    DesiredStatus.PAUSED: MachineState.PAUSED,
    DesiredStatus.SUSPENDED: MachineState.SUSPENDED,
    DesiredStatus.STOPPED: MachineState.STOPPED,
}

EventTexts = tuple[tuple[str, str], ...]
"""(what, reason) of each event, in order."""

_TOLD: Final = {"sending": "sending", "saved": "saved", "failed": "not-saved"}
"""What events call the states of a save; its begin is an event of the request."""


def request_save(machine: SiteMachine, version: str, key: str, reason: str, now: datetime) -> MachineTransition | None:
    """Let a machine be saved; None if that was asked for before.

    Args:
        machine: as it is.
        version: of the new image.
        key: idempotency; empty for none.
        reason: for the event.
        now: aware, UTC, whole seconds.

    Raises:
        MachineConflict: it does not rest, is being saved already, or has ended.
        Conflict: the key was used for another version.
    """
    for known in machine.saves:
        if key and known.key == key:
            if known.version != version:
                raise Conflict(
                    f"this idempotency key was used to save the machine as version {known.version}; choose another"
                )
            return None
        if known.version == version and known.state != "failed":
            return None
    if machine.ending:
        raise MachineConflict(f"machine {machine.hostname} has ended, or is about to, and cannot be saved")
    if (under_way := machine.saving) is not None:
        raise MachineConflict(
            f"machine {machine.hostname} is being saved as version {under_way.version}; wait until that is done"
        )
    if machine.migrating is not None:
        raise MachineConflict(f"machine {machine.hostname} is migrating; wait until it has arrived")
    if AT_REST.get(machine.desired) is not machine.state:
        instead = "wait until it is so" if machine.desired in AT_REST else "pause, suspend or stop it first"
        raise MachineConflict(
            f"machine {machine.hostname} is {machine.state.value}, and is saved while it rests; {instead}"
        )
    number = machine.saves[-1].number + 1 if machine.saves else 1
    fresh = SaveProgress(number=number, version=version, key=key, asked=now)
    detail = f"as version {version}" + (f": {reason}" if reason else "")
    return machine.transition(("saving", detail), saves=(*machine.saves, fresh)[-KEPT:])


def apply_save_report(machine: SiteMachine, status: SaveStatus | None) -> tuple[SiteMachine, EventTexts]:
    """The machine after a node's report on its save, and the events. A finished save stays as it was."""
    known = machine.saving
    if known is None or status is None or status.number != known.number:
        return machine, ()
    fresh = known.model_copy(update=dict(status))
    if fresh.state == known.state or fresh.state not in _TOLD:
        return _with(machine, fresh), ()
    return _with(machine, fresh), ((_TOLD[fresh.state], fresh.reason or f"{fresh.title} ({fresh.image_id})"),)


def abandon_save(machine: SiteMachine, why: str) -> tuple[SiteMachine, EventTexts]:
    """A machine that has ended, or lost its node, is saved no more."""
    known = machine.saving
    if known is None:
        return machine, ()
    return _with(machine, known.model_copy(update={"state": "failed", "reason": why})), ((_TOLD["failed"], why),)


def check_disks_read(machine: SiteMachine, done: str) -> None:
    """Raise MachineConflict where a machine cannot go on yet, since its disks are being read."""
    known = machine.saving
    if known is not None and known.state in {"asked", "reading"}:
        raise MachineConflict(
            f"machine {machine.hostname} is being saved as version {known.version} and cannot be {done} "
            "before its disks have been read; wait a little"
        )


def _with(machine: SiteMachine, fresh: SaveProgress) -> SiteMachine:
    saves = tuple(fresh if one.number == fresh.number else one for one in machine.saves)
    return machine.model_copy(update={"saves": saves})
