"""The saves of a machine: what its node's word makes of them, and what its end does. Pure; see `saving` for how one begins."""

from typing import Final

from deployer.errors import MachineConflict
from deployer.protocol.save import SaveStatus
from deployer.site.model.records import SaveProgress, SiteMachine

EventTexts = tuple[tuple[str, str], ...]
"""(what, reason) of each event, in order."""

_TOLD: Final = {"sending": "sending", "saved": "saved", "failed": "not-saved"}
"""What events call the states of a save; that it began is told by whoever asked for it."""

_SAID: Final = ("state", "reason", "image_id", "title", "changed", "done", "total")


def apply_save_report(machine: SiteMachine, said: SaveStatus | None) -> tuple[SiteMachine, EventTexts]:
    """What a node's word about a save makes of its machine, and what there is to tell. What is over stays as it was."""
    known = machine.saving
    if known is None or said is None or said.number != known.number:
        return machine, ()
    fresh = known.model_copy(update={name: getattr(said, name) for name in _SAID})
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
