"""A site's lease on its machines at a node: without contact to the site, the node stops them in time.

A site that starts a machine anew elsewhere has to be sure that the old one does not run. It cannot ask a node that it does
not hear; so the node promises beforehand (Gray and Cheriton, "Leases", SOSP 1989). It counts from when it *sent* the last
report that was answered, the site from when that report came in, and waits somewhat longer: whatever the link loses or
delays, the node's count ends first. Neither reads the other's clock.

What a node acts by is the shorter of what it was told last and what it has said it acts by, so a site that knows the
latter is never surprised, whatever answer was lost while its settings changed. A node whose lease ran out lets nothing
run until a report of it was answered *and* a wish of the site's that was asked for after that: before, the site may just
be giving its machines to others. The lease survives the service in a file, since machines do.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

from deployer.machine.state import MachineEvent, MachineState
from deployer.node.machines.supervisor import MachineSupervisor
from deployer.protocol.desired_state import LeaseTerms, ReportResponse
from deployer.records.machine_store import MachineRecord
from signer.errors import PartitaError
from signer.runtime import files

GUARD_EVERY: Final = 0.5
"""Seconds between two checks whether the lease has expired."""

TRIES_IN_A_LEASE: Final = 10
"""Attempts to report that a lease allows at least, however many of them fail."""

REPORTS_IN_A_LEASE: Final = 4
"""Reports of a node during a lease, at least."""

HANDS: Final = 8
"""Machines that are stopped at a time: one whose emulator hangs does not keep others running."""

LEASE_FILE: Final = "lease"
"""The file in DIR/site of a node."""

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

log = logging.getLogger("partita.node")


def since_boot() -> float:
    """Seconds since this computer was started, those in which it slept included: guests go on where they were, leases do not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """The identity of this boot of the computer; nothing that ran before another boot still runs."""
    return BOOT_ID.read_text().strip()


class NodeLease:
    """The lease at a node. Safe to use from several threads.

    Args:
        file: it is written here for the next start of the service; None for a lease that is not kept.
        clock: seconds that go on while the computer sleeps, the same for all services since it was started.
        boot: see `boot_id`.

    Attributes:
        then: what becomes of machines: "pause" or "end".
        frozen: whether nothing may run: the lease ran out, and the site has not been heard again.
    """

    def __init__(self, file: Path | None, clock: Callable[[], float] = since_boot, boot: str = "") -> None:
        self._file, self.now, self._boot = file, clock, boot
        self._lock = threading.Lock()
        self._told: LeaseTerms | None = None
        self._said: int | None = None
        self.then = "pause"
        self._sent = self._answered = 0.0
        self.frozen = False
        self._read()

    @property
    def said(self) -> int | None:
        """The lease that the node acts by, as its reports state it, in seconds."""
        with self._lock:
            return self._told.seconds if self._told else None

    @property
    def patience(self) -> float:
        """The longest delay before a failed report is retried, in seconds."""
        term = self._term()
        return float("inf") if term is None else max(0.2, term / TRIES_IN_A_LEASE)

    @property
    def rhythm(self) -> float:
        """Seconds between two reports at the most, though nothing is new: the lease must not end over that."""
        return self.patience * TRIES_IN_A_LEASE / REPORTS_IN_A_LEASE

    def heard(self, sent: float, said: int | None, answer: ReportResponse | None) -> None:
        """Record that a report was answered.

        Args:
            sent: when it was sent, by `now`.
            said: `NodeReport.lease` of it.
            answer: of the site; None where it has no content.
        """
        with self._lock:
            self._said, self._told = said, answer.lease if answer else None
            self._sent, self._answered = sent, self.now()
            if self._told is not None:
                self.then = self._told.then
            self._write()

    def over(self) -> bool:
        """Whether the lease has expired; from then on the node is frozen."""
        with self._lock:
            term = self._term()
            if term is None or self.now() - self._sent < term:
                return False
            self.frozen = True
            return True

    def confirmed(self, asked: float) -> bool:
        """Record that a desired state requested at that time (by `now`) arrived; returns whether that ends the freeze."""
        with self._lock:
            term = self._term()
            holds = term is None or self.now() - self._sent < term
            if not (self.frozen and holds and asked >= self._answered):
                return False
            self.frozen = False
            return True

    def _term(self) -> int | None:
        told = self._told.seconds if self._told else None
        return min((one for one in (told, self._said) if one is not None), default=None)

    def _read(self) -> None:
        """Go on with the lease of the service before, if that ran since the computer was started."""
        if self._file is None:
            return
        with suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(self._file.read_text())
            if kept["boot"] == self._boot:
                self._said, self.then, self._sent = kept["seconds"], kept["then"], float(kept["sent"])
                # Whether the site still counts on what runs here is not known before it was heard.
                self.frozen = self._said is not None
                self._answered = float("inf") if self.frozen else 0.0

    def _write(self) -> None:
        if self._file is None:
            return
        kept = {"boot": self._boot, "seconds": self._term(), "then": self.then, "sent": self._sent}
        try:
            files.write(self._file, json.dumps(kept), sync=None)  # of no use after the computer has been started again
        except OSError as exc:
            log.warning("%s: the site's lease cannot be kept: %s", self._file, exc.strerror)


class LeaseGuard:
    """Stops the site's machines when the lease has expired.

    Args:
        fence: the lease.
        keeper: of the node's machines.
        records: of the site's machines on the node.
        cancel: cancels machines that are being made.
    """

    def __init__(
        self,
        fence: NodeLease,
        keeper: MachineSupervisor,
        records: Callable[[], list[MachineRecord]],
        cancel: Callable[[], None],
    ) -> None:
        self._fence, self._keeper, self._records, self._cancel = fence, keeper, records, cancel
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self._hands = ThreadPoolExecutor(HANDS, thread_name_prefix="fence")

    def run(self, ended: threading.Event) -> None:
        """Check regularly until `ended` is set."""
        while not ended.wait(GUARD_EVERY):
            self.look()

    def close(self) -> None:
        """Wait until the operations under way have ended."""
        self._hands.shutdown(cancel_futures=True)

    def look(self) -> None:
        """Stop machines that may not run; repeated at each check, since one may have been about to start."""
        before = self._fence.frozen
        if not self._fence.over():
            return
        if not before:
            log.warning(
                "the site has not been heard for too long; its machines are stopped here (%s)", self._fence.then
            )
        self._cancel()
        for record in self._records():
            if record.state is MachineState.RUNNING:
                with self._lock:
                    if record.uuid in self._busy:
                        continue
                    self._busy.add(record.uuid)
                self._hands.submit(self._stop, record)

    def _stop(self, record: MachineRecord) -> None:
        uuid, keeper = record.uuid, self._keeper
        try:
            if self._fence.then == "end":
                keeper.hypervisor.destroy(uuid)  # first: a record that has ended is looked at no more
                keeper.end(uuid, LEASE_REASON)
                keeper.forget(uuid)  # should the site still want it here, it is made anew
                return
            keeper.hypervisor.pause(uuid)
            record = keeper.happened(uuid, MachineEvent.PAUSED, LEASE_REASON) or record
            if not record.state.final and record.reason != LEASE_REASON:  # the hypervisor's own words came first
                keeper.change(uuid, reason=LEASE_REASON)
        except PartitaError as exc:
            log.warning("machine %s cannot be paused, and is ended instead: %s", uuid, exc)
            with suppress(PartitaError):  # retried for as long as it runs
                keeper.hypervisor.destroy(uuid)
                keeper.end(uuid, f"{LEASE_REASON}, and it could not be paused")
        except Exception:
            log.exception("machine %s", uuid)
        finally:
            with self._lock:
                self._busy.discard(uuid)


LEASE_REASON: Final = "its node has not heard of the site for too long"
