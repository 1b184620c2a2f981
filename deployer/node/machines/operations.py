"""What can be done to a machine that has been deployed: everything between its start and its end.

One verb at a time changes a machine; its end, by itself or on request, waits for none. Each verb returns when it
is done, with the record as it then is. What lets a machine that was at rest run again is admitted as if it were new.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from datetime import datetime

from catalog.errors import Misused
from deployer.errors import BackendFailed, MachineConflict, MachineNotFound
from deployer.machine.state import MachineEvent, MachineState
from deployer.node.machines.restart_admission import RestartAdmission
from deployer.node.machines.supervisor import MachineSupervisor
from deployer.records.machine_store import MachineRecord
from signer.runtime import files

ASK_AGAIN = 5.0
"""Seconds after which a guest that was asked to power off is asked again: while it boots it does not see its button."""

log = logging.getLogger("partita.node")


class MachineOperations:
    """The verbs of one node. Safe to use from several threads.

    Args:
        keeper: of the machines.
        admits: asked before a machine runs again.
        clock: seconds that only grow.
    """

    def __init__(
        self, keeper: MachineSupervisor, admits: RestartAdmission, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keeper, self._admits, self._clock = keeper, admits, clock

    def pause(self, uuid: str) -> MachineRecord:
        """Halt a machine, which stays in memory; MachineConflict if it does not run."""
        with self._keeper.alone(uuid) as record:
            _demand(record, {MachineState.RUNNING}, "paused")
            self._keeper.hypervisor.pause(uuid)
            return self._now(uuid, MachineEvent.PAUSED, "paused on request")

    def resume(self, uuid: str) -> MachineRecord:
        """Let a paused machine go on. Refused where the node paused it, and the policy still does not accept it."""
        with self._keeper.alone(uuid) as record:
            _demand(record, {MachineState.PAUSED}, "resumed")
            with self._admits(record, boots=False) if record.pause_reason else nullcontext():
                self._keeper.hypervisor.resume(uuid)
                return self._now(uuid, MachineEvent.RESUMED, "", pause_reason="")

    def suspend(self, uuid: str) -> MachineRecord:
        """Save a machine's memory beside its disks, and free what it takes of the node.

        Raises:
            MachineConflict: it neither runs nor is paused.
            BackendFailed: the hypervisor's reason; it goes on then.
        """
        with self._keeper.alone(uuid) as record:
            _demand(record, {MachineState.RUNNING, MachineState.PAUSED}, "suspended")
            place = self._keeper.store.memory(uuid)
            place.unlink(missing_ok=True)
            try:
                self._keeper.hypervisor.suspend(uuid, place)
            except BackendFailed:
                place.unlink(missing_ok=True)
                raise
            files.sync_path(place)
            return self._now(uuid, MachineEvent.SUSPENDED, "suspended on request")

    def reactivate(self, uuid: str) -> MachineRecord:
        """Let a suspended machine go on, and a stopped one boot again from its own disks.

        Raises:
            Refused: the policy does not accept it any more.
            MachineConflict: it is neither; or its memory is not that which belongs to its disks.
            Errors of catalog and stager: the current images are unknown; a content is not what was verified.
        """
        keeper = self._keeper
        with keeper.alone(uuid) as record:
            _demand(record, {MachineState.SUSPENDED, MachineState.STOPPED}, "reactivated")
            _demand_own(record)
            suspended, place = record.state is MachineState.SUSPENDED, keeper.store.memory(uuid)
            if suspended and not keeper.store.untouched(uuid):
                keeper.happened(uuid, MachineEvent.POWERED_OFF, "its memory is not of its disks any more")
                raise MachineConflict(f"the memory of machine {record.name} was lost; reactivate it to boot it again")
            if record.spec is None:
                raise MachineConflict(f"machine {record.name} was never put together")
            with self._admits(record, boots=True):
                if suspended:
                    keeper.hypervisor.restore(place)
                else:
                    keeper.hypervisor.start(record.spec.model_copy(update=record.properties()))
                last = self._now(uuid, MachineEvent.STARTED, "", pause_reason="")
            if last.state is not MachineState.RUNNING:  # it was ended meanwhile
                keeper.hypervisor.destroy(uuid)
            with suppress(OSError):
                place.unlink(missing_ok=True)
            return last

    def stop(self, uuid: str, deadline: float | None = None) -> MachineRecord:
        """Have a guest power off, or cut its power when it has not after so many seconds (the node's grace if not given).

        Its disks stay until it expires. A suspended machine's memory is given up.
        """
        keeper = self._keeper
        with keeper.alone(uuid) as record:
            _demand(record, {MachineState.RUNNING, MachineState.PAUSED, MachineState.SUSPENDED}, "stopped")
            _demand_own(record)
            if record.state is MachineState.SUSPENDED:
                keeper.store.memory(uuid).unlink(missing_ok=True)
                return self._now(uuid, MachineEvent.POWERED_OFF, "stopped while it was suspended")
            if record.state is MachineState.PAUSED and not record.pause_reason:
                keeper.hypervisor.resume(uuid)
            until = self._clock() + (keeper.grace.total_seconds() if deadline is None else deadline)
            if not record.pause_reason:
                record = self._ask(uuid, until)
            if record.state in {MachineState.RUNNING, MachineState.PAUSED}:
                record = self._now(uuid, MachineEvent.POWERED_OFF, "its power was cut: the guest did not power off")
                keeper.hypervisor.destroy(uuid)
            return record

    def _ask(self, uuid: str, until: float) -> MachineRecord:
        """Press the power button, again and again, until the guest has powered off or it is too late."""
        keeper = self._keeper
        asking: threading.Thread | None = None
        while (left := until - self._clock()) > 0:
            if asking is None or not asking.is_alive():
                asking = _aside(keeper.hypervisor.shutdown, uuid)
            record = keeper.wait(
                uuid, frozenset(MachineState) - {MachineState.RUNNING, MachineState.PAUSED}, min(left, ASK_AGAIN)
            )
            if record.state not in {MachineState.RUNNING, MachineState.PAUSED}:
                return record
        return keeper.store.get(uuid)

    def reboot(self, uuid: str, number: int | None = None) -> MachineRecord:
        """Have a guest boot again; if it has not within the node's grace, its reset button is pressed.

        Args:
            uuid: of the machine.
            number: what its count of reboots is then; one more if not given.
        """
        keeper = self._keeper
        with keeper.alone(uuid) as record:
            _demand(record, {MachineState.RUNNING}, "rebooted")
            seen = keeper.boots(uuid)
            asking = _aside(keeper.hypervisor.reboot, uuid)
            if not keeper.wait_boot(uuid, seen, keeper.grace.total_seconds()):
                if asking.is_alive():
                    raise BackendFailed(f"the emulator of machine {record.name} does not answer; destroy the machine")
                log.info("machine %s did not boot again when it was asked to; it is reset", uuid)
                keeper.hypervisor.reset(uuid)
            return keeper.change(uuid, reboots=record.reboots + 1 if number is None else number)

    def resize(self, uuid: str, memory: int, cores: int) -> MachineRecord:
        """Give a machine other amounts, within its maximum: at once if it runs, else from its next boot on.

        Raises:
            Misused: more than its maximum.
            MachineConflict: it is suspended, being made, or has ended.
            BackendFailed: the guest or the hypervisor cannot; what came of it is asked for again at its next boot.
        """
        keeper = self._keeper
        with keeper.alone(uuid) as record:
            _demand(record, {MachineState.RUNNING, MachineState.PAUSED, MachineState.STOPPED}, "resized")
            if not (0 < memory <= record.max_memory and 0 < cores <= record.max_cores) or memory % (1 << 20):
                raise Misused(
                    f"machine {record.name} may have at most {record.max_memory >> 20} MiB and {record.max_cores} cores; "
                    "ask for whole MiB within that"
                )
            if record.state is not MachineState.STOPPED:
                keeper.hypervisor.resize(uuid, memory, cores)
            return keeper.change(uuid, memory=memory, cores=cores)

    def extend(self, uuid: str, expires: datetime) -> MachineRecord:
        """Change when a machine expires: later, if the policy accepts so long a time from now on, or sooner.

        Raises:
            Refused: by the policy.
            MachineConflict: it has ended.
        """
        with self._keeper.alone(uuid) as record:
            _demand(record, [state for state in MachineState if not state.final], "extended")
            longer = record.model_copy(update={"expires": expires})
            with self._admits(longer, boots=False) if expires > record.expires else nullcontext():
                return self._keeper.set_expiry(uuid, expires)

    def _now(self, uuid: str, happening: MachineEvent, reason: str, **values: object) -> MachineRecord:
        record = self._keeper.happened(uuid, happening, reason, **values)
        if record is None:
            raise MachineNotFound(f"machine {uuid} was removed meanwhile")
        if reason and record.reason != reason and not record.state.final:  # the hypervisor's own words came first
            record = self._keeper.change(uuid, reason=reason)
        return record


def _aside(ask: Callable[[str], None], uuid: str) -> threading.Thread:
    """Ask an emulator for something in a thread of its own: one that hangs never answers."""

    def work() -> None:
        try:
            ask(uuid)
        except BackendFailed as exc:
            log.warning("machine %s: %s", uuid, exc)

    thread = threading.Thread(target=work, name="ask", daemon=True)
    thread.start()
    return thread


def _demand(record: MachineRecord, states: Iterable[MachineState], done: str) -> None:
    if record.state not in states:
        raise MachineConflict(f"machine {record.name} is {record.state.value} and cannot be {done}")


def _demand_own(record: MachineRecord) -> None:
    """It is wholly this node's."""
    if record.locked:
        raise MachineConflict(f"machine {record.name} {record.locked}")
