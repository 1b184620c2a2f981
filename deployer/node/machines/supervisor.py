"""Keeping a node's machines: what happened to them, when they end, and what is left of them after a crash.

A node's records say which machines should exist, its hypervisor says which do. `recover` brings the two together when the
service starts: after kill -9, after a reboot, after half a deployment. `tick` ends what has reached the end of its life.
"""

import logging
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from deployer.errors import BackendFailed, MachineConflict, MachineNotFound
from deployer.hypervisor.libvirt import Hypervisor
from deployer.machine.state import MachineEvent, MachineState, next_state
from deployer.records.machine_store import MachineRecord, MachineStore, holder_of, is_holder
from stager.cache.cache import Cache

KEPT = timedelta(days=7)
"""How long record and console of a machine that has ended are kept, so that the reason can be read."""

LEASE_MARGIN = 86400
"""Seconds that a lease outlives its machine: room for staging, and for a node that is down for a while."""

MAX_CONSOLE = 16 << 20
KEPT_CONSOLE = 1 << 20
"""Bytes on storage that a console may take, and what is kept of its end when it has taken more."""

_LIVE: Final = frozenset({MachineState.RUNNING, MachineState.PAUSED})
_AT_REST: Final = frozenset({MachineState.STOPPED, MachineState.SUSPENDED})
_MAKING: Final = frozenset({MachineState.PENDING, MachineState.STAGING, MachineState.BOOTING})
_RAN: Final = _LIVE | {MachineState.BOOTING}
_ENDS: Final = frozenset(
    {MachineEvent.POWERED_OFF, MachineEvent.CRASHED, MachineEvent.DESTROYED, MachineEvent.SUSPENDED}
)
_CONTRADICTS: Final = {MachineEvent.PAUSED: MachineState.RUNNING, MachineEvent.RESUMED: MachineState.PAUSED}

log = logging.getLogger("partita.node")


class MachineSupervisor:
    """The machines of one node.

    Args:
        store: their records.
        leases: of their contents.
        clock: the present, UTC.
        grace: how long a guest may take to power off when it expires, before it is ended.
        ended: told, once, of each machine that ran and has ended.
    """

    def __init__(
        self,
        store: MachineStore,
        leases: Cache,
        clock: Callable[[], datetime],
        grace: timedelta,
        ended: Callable[[MachineRecord], None] = lambda _: None,
    ) -> None:
        self.store, self._ended = store, ended
        self._leases, self._clock, self.grace = leases, clock, grace
        self._hypervisor: Hypervisor | None = None
        self._asked: dict[str, datetime] = {}
        self._changed = threading.Condition()
        self._boots: Counter[str] = Counter()
        self._locks: dict[str, threading.Lock] = {}
        self._listeners: list[Callable[[], None]] = []
        self._entering: set[str] = set()
        self.admission = threading.Lock()
        """Held while the policy decides and what it accepts is counted: two never both take the last place."""

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call a listener, from any thread, when a machine changes; it must return at once."""
        self._listeners.append(listener)

    def off_change(self, listener: Callable[[], None]) -> None:
        """Remove a listener, if it is there."""
        self._listeners = [other for other in self._listeners if other != listener]

    @contextmanager
    def alone(self, uuid: str) -> Iterator[MachineRecord]:
        """The record of a machine, locked against other operations while the block runs; it may still end."""
        with self._changed:
            lock = self._locks.setdefault(uuid, threading.Lock())
        with lock:
            yield self.store.get(uuid)

    def present(self) -> list[MachineRecord]:
        """The machines that count against the policy's limit: those that run, are being made, or are let go on."""
        return [
            record
            for record in self.store.all()
            if record.uuid in self._entering or not (record.state.final or record.state in _AT_REST)
        ]

    @contextmanager
    def entering(self, uuid: str) -> Iterator[None]:
        """Count a machine at rest among those present while the block runs."""
        self._entering.add(uuid)
        try:
            yield
        finally:
            self._entering.discard(uuid)

    def now(self) -> datetime:
        """The present as records carry it: whole seconds."""
        return self._clock().replace(microsecond=0)

    @property
    def hypervisor(self) -> Hypervisor:
        """The hypervisor; known after `recover`."""
        if self._hypervisor is None:
            raise BackendFailed("the node has not opened its hypervisor yet; try again in a moment")
        return self._hypervisor

    def recover(self, hypervisor: Hypervisor) -> None:
        """Adopt running machines, end unknown ones, remove half-made ones. Called once, before anything is served."""
        self._hypervisor = hypervisor
        running = hypervisor.found()
        for uuid in running:
            record = next((record for record in self.store.all() if record.uuid == uuid), None)
            if record is not None and record.state in _AT_REST:
                # The service died after it had let it go on, and before it had said so.
                self.happened(uuid, MachineEvent.STARTED, "")
            elif record is None or record.state not in _LIVE:
                log.warning("machine %s runs without a record that says so; it is ended", uuid)
                hypervisor.destroy(uuid)
        for uuid in self.store.broken:
            log.warning("machine %s has no usable record; removing its files", uuid)
            self._forget(uuid)
        known = {record.holder for record in self.store.all()}
        for holder in [holder for holder in self._leases.holders() if is_holder(holder) and holder not in known]:
            self._leases.release(holder)
        for record in self.store.all():
            if record.state in _MAKING:
                log.warning("machine %s was being made when the node ended; it is removed", record.uuid)
                self._unmade(record, "it was being made when the node ended")
                self._forget(record.uuid)
            elif record.state in _LIVE and record.uuid not in running:
                self._ended_unseen(record)
            elif record.state in _LIVE:
                self.store.memory(record.uuid).unlink(missing_ok=True)  # of before it went on, or half saved
                self._follow(record)
                log.info("machine %s runs and is adopted", record.uuid)
            elif record.state.final:
                self.store.strip(record.uuid)
                self._leases.release(record.holder)

    def _ended_unseen(self, record: MachineRecord) -> None:
        """A machine that ran is not there. Its memory may have been saved just before the service died."""
        if self.hypervisor.saved(self.store.memory(record.uuid)) and self.store.untouched(record.uuid):
            self.happened(record.uuid, MachineEvent.SUSPENDED, "its memory was saved")
        else:
            self.happened(record.uuid, MachineEvent.POWERED_OFF, "it ended while the node's service was not running")

    def _follow(self, record: MachineRecord) -> None:
        """It may have been paused or resumed while the service was down."""
        now = self.hypervisor.state(record.uuid)
        if now is MachineState.PAUSED:
            self.happened(record.uuid, MachineEvent.PAUSED, "the machine was paused")
        elif now is MachineState.RUNNING:
            self.happened(record.uuid, MachineEvent.RESUMED, "")

    def begin(self, record: MachineRecord) -> Path:
        """A machine is being made; returns its directory."""
        directory = self.store.add(record)
        self.tell()
        return directory

    def tell(self) -> None:
        """Notify waiters and listeners of a change."""
        with self._changed:
            self._changed.notify_all()
        for listener in self._listeners:
            listener()

    def started(self, uuid: str, expires: datetime) -> MachineRecord:
        """The hypervisor runs a machine. One that has ended already, faster than we could say so, stays ended."""
        with self._changed:
            if self.store.get(uuid).state is MachineState.BOOTING:
                self.happened(uuid, MachineEvent.STARTED, "", expires=expires)
            return self.store.get(uuid)

    def told(self, uuid: str, happening: MachineEvent, reason: str) -> None:
        """What the hypervisor tells, which may be of an earlier life of the machine: what it says now counts."""
        try:
            record = self.store.get(uuid)
            now = self.hypervisor.state(uuid)
        except MachineNotFound:
            return
        if happening is MachineEvent.REBOOTED:
            with self._changed:
                self._boots[uuid] += 1
                self._changed.notify_all()
        elif happening in _ENDS and (now is not None or record.state not in _RAN):
            log.debug("machine %s is said to be %s, and is not", uuid, happening)
        elif happening not in _CONTRADICTS or now is not _CONTRADICTS[happening]:
            self.happened(uuid, happening, reason)

    def happened(self, uuid: str, happening: MachineEvent, reason: str, **values: object) -> MachineRecord | None:
        """Something happened to a machine: its record follows, and what it no longer needs is given back.

        Safe to call late, twice, and for machines that are gone; returns the record as it now is, if there is one.
        """
        with self._changed:
            try:
                record = self.store.get(uuid)
            except MachineNotFound:
                return None
            before, state = record.state, next_state(record.state, happening)
            if state is not record.state or values:
                told = {"reason": reason} if state is not record.state else {}
                record = self.store.change(uuid, self.now(), state=state, **told, **values) or record
                self.tell()
        if before in _RAN and record.state not in _RAN:
            self._ended(record)
        if record.state not in _RAN:
            self._asked.pop(uuid, None)
        if record.state.final:
            self.store.strip(uuid)
            self._leases.release(record.holder)
        return record

    def change(self, uuid: str, **values: object) -> MachineRecord:
        """Save a record with some values replaced; since when it is in its state stays. MachineNotFound if it is gone."""
        record = self.store.change(uuid, self.store.get(uuid).changed, **values)
        self.tell()
        return record or self.store.get(uuid)

    def set_expiry(self, uuid: str, expires: datetime) -> MachineRecord:
        """Change when a machine expires, and its leases with it; MachineConflict if it has ended."""
        record = self.store.get(uuid)
        if record.state.final:
            raise MachineConflict(f"machine {record.name} is {record.state.value}; it cannot be extended")
        self._leases.renew(record.holder, max(0.0, (expires - self._clock()).total_seconds()) + LEASE_MARGIN)
        return self.change(uuid, expires=expires.replace(microsecond=0))

    def boots(self, uuid: str) -> int:
        """How often a guest has been seen to boot again since the service started."""
        return self._boots[uuid]

    def wait_boot(self, uuid: str, seen: int, seconds: float) -> bool:
        """Wait until a guest boots once more than `seen` often, at most so many seconds; whether it did."""
        with self._changed:
            return self._changed.wait_for(lambda: self._boots[uuid] > seen, seconds)

    def wait(self, uuid: str, states: frozenset[MachineState], seconds: float) -> MachineRecord:
        """The record once it is in one of the states, or after that many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self.store.get(uuid).state in states, seconds)
            return self.store.get(uuid)

    def shutdown(self, uuid: str) -> MachineRecord:
        """Ask the guest to power off; MachineConflict if it does not run."""
        record = self.store.get(uuid)
        if record.state is not MachineState.RUNNING:
            raise MachineConflict(f"machine {record.name} is {record.state.value} and cannot be asked to power off")
        self.hypervisor.shutdown(uuid)
        return record

    def destroy(self, uuid: str) -> MachineRecord:
        """End a machine now and remove all that is left of it; returns its last record.

        MachineConflict while it is being made: cancel the deployment instead.
        """
        record = self.store.get(uuid)
        if record.state in _MAKING:
            raise MachineConflict(f"machine {record.name} is still being made; end the command that deploys it")
        self.hypervisor.destroy(uuid)
        last = self.happened(uuid, MachineEvent.DESTROYED, "destroyed on request") or record
        if not record.site:  # a site learns of it first
            self._forget(uuid)
        return last

    def hold(self, uuid: str, reason: str) -> None:
        """Pause a machine that may not go on; it is resumed only if the policy accepts it again."""
        self.change(uuid, pause_reason=reason)
        self.hypervisor.pause(uuid)

    def drain(self, uuid: str) -> None:
        """Let a machine's time be up now: its guest is asked to power off, and ended if it does not."""
        record = self.store.get(uuid)
        if record.state in _LIVE and record.expires > self.now():
            self.store.change(uuid, self.now(), expires=self.now())

    def end(self, uuid: str, reason: str) -> None:
        """End a machine now; its record stays and says why."""
        record = self.store.get(uuid)
        if record.state in _MAKING:
            raise MachineConflict(f"machine {record.name} is still being made; cancel that")
        self.happened(uuid, MachineEvent.DESTROYED, reason)  # first the record, as when its time has come
        self.hypervisor.destroy(uuid)

    def failed(self, record: MachineRecord) -> None:
        """Keep the record of a machine that could not be made, for its site to read."""
        self.begin(record.model_copy(update={"state": MachineState.FAILED, "spec": None}))

    def forget(self, uuid: str) -> None:
        """Remove the record of a machine that has ended; one that has not is left alone."""
        with suppress(MachineNotFound):
            if self.store.get(uuid).state.final:
                self._forget(uuid)

    def undo(self, uuid: str) -> None:
        """Remove a machine that did not come to run, its domain included."""
        with suppress(MachineNotFound):
            self._unmade(self.store.get(uuid), "its deployment did not succeed and was undone")
        try:
            self.hypervisor.destroy(uuid)
        finally:
            self._forget(uuid)

    def tick(self) -> None:
        """Look at every machine once: end those that have expired, trim consoles, forget what ended long ago."""
        now = self._clock()
        for record in self.store.all():
            try:
                self._look(record, now)
            except (BackendFailed, OSError) as exc:
                # A failure with one machine does not affect the others; the next tick retries.
                log.warning("machine %s: %s", record.uuid, exc)

    def _look(self, record: MachineRecord, now: datetime) -> None:
        if record.state in _LIVE:
            _trim(self.store.console(record.uuid))
            if now >= record.expires:
                self._expire(record, now)
        elif record.state in _AT_REST and now >= record.expires:
            self.happened(record.uuid, MachineEvent.EXPIRED, "it expired")
        elif record.state.final and not record.site and now >= record.changed + KEPT:
            self._forget(record.uuid)

    def _expire(self, record: MachineRecord, now: datetime) -> None:
        asked = self._asked.get(record.uuid)
        if asked is None and record.state is MachineState.RUNNING and now < record.expires + self.grace:
            self._asked[record.uuid] = now
            log.info("machine %s has expired and is asked to power off", record.uuid)
            # An emulator that hangs does not answer: it must not hold up who looks after the other machines.
            threading.Thread(target=self._ask, args=(record.uuid,), name="shutdown", daemon=True).start()
        elif asked is None or now >= asked + self.grace:
            # First the record, so that the event of the end finds it said already.
            self.happened(record.uuid, MachineEvent.EXPIRED, "it expired, and the guest did not power off by itself")
            self.hypervisor.destroy(record.uuid)

    def _ask(self, uuid: str) -> None:
        try:
            self.hypervisor.shutdown(uuid)
        except BackendFailed as exc:
            log.warning("machine %s: %s", uuid, exc)

    def _unmade(self, record: MachineRecord, reason: str) -> None:
        """A machine that was about to boot, and is said to have been deployed, has come to nothing."""
        if record.spec is not None:
            self._ended(record.model_copy(update={"state": MachineState.FAILED, "reason": reason}))

    def _forget(self, uuid: str) -> None:
        self.store.remove(uuid)
        self._leases.release(holder_of(uuid))
        self._asked.pop(uuid, None)
        with self._changed:
            self._locks.pop(uuid, None)
            self._boots.pop(uuid, None)
        self.tell()


def _trim(console: Path) -> None:
    """Give back the storage of a console's beginning when a guest writes without end; offsets in it do not change."""
    try:
        status = console.stat()
    except FileNotFoundError:
        return
    if status.st_blocks * 512 > MAX_CONSOLE:
        length = (status.st_size - KEPT_CONSOLE) & ~4095
        command = ["fallocate", "--punch-hole", "--offset", "0", "--length", str(length), str(console)]
        subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=30)
