"""A site's agent on a node: learns what machines there should be, sees to it, and reports what there is.

Three threads: one waits for what the site wants, one compares that with the node's records and hands out what is to be
done, one reports. What is done is done by a bounded number of others, one job per machine at a time. Nothing that matters
is kept here: whatever dies, at whatever instant, the next comparison finds what is left to do. While the site is away
machines go on, and end at their time; the keeper sees to that.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from catalog.errors import CatalogError
from deployer.deploying import Assigned
from deployer.errors import Cancelled, DeployerError, MachineConflict, NodeUnavailable, SiteUnavailable
from deployer.keeping import Keeper
from deployer.machine import State
from deployer.machines import MachineRecord
from deployer.observing import Beside, observed
from deployer.ordering import assigned_of, order_of, unmade
from deployer.reconciling import (
    Action,
    End,
    Forget,
    Make,
    Note,
    Pause,
    Prolong,
    Reactivate,
    Reboot,
    Resize,
    Resume,
    Stop,
    Suspend,
    actions,
)
from deployer.site.desired import Capacity, DesiredState, NodeReport
from deployer.site.request import Label
from deployer.verbs import Verbs
from deployer.wire import Deployed, Order, Step
from signer.errors import EXIT_UNAVAILABLE, SignerError
from stager.errors import StagerError

WAIT = 20.0
"""Seconds that the site is asked to wait for news."""

REPORT_EVERY = 10.0
"""Seconds between two reports when nothing changes: a site takes a node that is silent for minutes for lost."""

LOOK_EVERY = 1.0
"""Seconds between two comparisons when nobody says that something changed."""

FACTS_EVERY = 5.0
"""Seconds between two looks at what the node has room for, what it caches, and its machines' addresses."""

MAKES, VERBS = 4, 8
"""Machines that are made, and to which other things are done, side by side. Staging shares one network, booting one disk."""

FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0
"""Seconds until what could not be done is tried again: doubled each time, up to the second."""

log = logging.getLogger("partita.node")


class Site(Protocol):
    """The other side; `site_client.SiteClient` is one. Both raise SiteUnavailable."""

    def desired(self, after: int, wait: float) -> DesiredState | None:
        """What this node should have, when its revision is another than `after`; perhaps None when nothing is new."""

    def report(self, report: NodeReport) -> None:
        """Say how the node is."""


class Makes(Protocol):
    """What makes machines; `Node.deploy` is one."""

    def __call__(
        self,
        order: Order,
        tell: Callable[[Step], None],
        cancelled: threading.Event,
        assigned: Assigned | None = None,
    ) -> Deployed:
        """See `deploying.Deployer.deploy`."""


@dataclass(frozen=True)
class Facts:
    """How a node is, apart from its machines: the members of NodeReport."""

    architecture: str
    accelerator: str
    capacity: Capacity
    labels: dict[Label, Label] = field(default_factory=dict)
    cached: tuple[str, ...] = ()
    problem: str = ""


@dataclass
class _Job:
    """What is being done to a machine."""

    cancelled: threading.Event = field(default_factory=threading.Event)
    making: bool = False
    progress: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class _Later:
    """What could not be done, when it is tried again, and why it could not."""

    what: tuple[Action, ...]
    at: float
    tries: int
    reason: str


class _NotYet(Exception):
    """It will be done by itself."""


class Agent:
    """Works for one site until it is closed.

    Args:
        site: the other side.
        identity: of the site; its machines are told from others by it.
        keeper, verbs, make: of the node.
        facts: how the node is now.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        site: Site,
        identity: str,
        keeper: Keeper,
        verbs: Verbs,
        make: Makes,
        facts: Callable[[], Facts],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._site, self._identity = site, identity
        self._keeper, self._verbs, self._make, self._facts = keeper, verbs, make, facts
        self._clock = clock
        self.problem = ""
        """Why the site is not heard, or empty."""
        self._desired: DesiredState | None = None
        self._jobs: dict[str, _Job] = {}
        self._later: dict[str, _Later] = {}
        self._begun: dict[str, datetime] = {}
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._lock = threading.Lock()
        self._wake, self._news, self._ended = threading.Event(), threading.Event(), threading.Event()
        self._makers = ThreadPoolExecutor(MAKES, thread_name_prefix="make")
        self._hands = ThreadPoolExecutor(VERBS, thread_name_prefix="verb")
        self._threads = [
            threading.Thread(target=self._forever, args=(work, name), name=f"agent-{name}", daemon=True)
            for name, work in (("listen", self._listen), ("work", self._work), ("report", self._report))
        ]
        keeper.on_change(self._changed)

    def start(self) -> None:
        """Begin to work."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Cancel what is being made, wait until what is under way has come to an end, and stop. Machines go on."""
        self._ended.set()
        self._wake.set()
        self._news.set()
        self._keeper.off_change(self._changed)
        with self._lock:
            for job in self._jobs.values():
                job.cancelled.set()
        self._makers.shutdown(cancel_futures=True)
        self._hands.shutdown(cancel_futures=True)
        for thread in self._threads[1:]:  # the first may wait for the site
            if thread.is_alive():
                thread.join(LONGEST_DELAY)

    def _changed(self) -> None:
        self._wake.set()
        self._news.set()

    def _forever(self, work: Callable[[], None], name: str) -> None:
        """An agent that stopped working without a word would be the worst: whatever comes is logged, and it goes on."""
        while not self._ended.is_set():
            try:
                work()
            except Exception:
                log.exception("the site's agent (%s) failed; it goes on", name)
                self._ended.wait(FIRST_DELAY)

    # What the site wants

    def _listen(self) -> None:
        tries = 0
        while not self._ended.is_set():
            known = self._desired.revision if self._desired else -1
            began = self._clock()
            try:
                found = self._site.desired(known, WAIT)
            except SiteUnavailable as exc:
                tries += 1
                if str(exc) != self.problem:
                    log.warning("%s; machines go on meanwhile", exc)
                self.problem = str(exc)
                self._ended.wait(_delay(tries))
                continue
            if self.problem:
                log.info("the site answers again")
            tries, self.problem = 0, ""
            if (found is None or not self._accept(found)) and self._clock() - began < FIRST_DELAY:
                self._ended.wait(FIRST_DELAY)  # it answered at once, with nothing new

    def _accept(self, found: DesiredState) -> bool:
        """Act on it from now on, unless it is late: what is older than what is known counts no more."""
        if self._desired is not None and found.revision <= self._desired.revision:
            return False
        log.info("the site wants %d machines here (revision %d)", len(found.machines), found.revision)
        self._desired = found
        now = self._keeper.now()
        self._begun = {machine.uuid: self._begun.get(machine.uuid, now) for machine in found.machines}
        self._changed()
        return True

    # What is to be done

    def _work(self) -> None:
        while not self._ended.is_set():
            self._wake.wait(LOOK_EVERY)
            self._wake.clear()
            self.reconcile()

    def records(self) -> list[MachineRecord]:
        """Of the site's machines on this node."""
        return [record for record in self._keeper.store.all() if record.site == self._identity]

    def reconcile(self) -> None:
        """Compare once, and hand out what is to be done. One thread calls this."""
        desired = self._desired
        if desired is None or self._ended.is_set():
            return
        with self._lock:  # first: what is under way now may be settled in the records that are read next
            busy = dict(self._jobs)
        groups: dict[str, list[Action]] = {}
        for action in actions(desired, self.records()):
            groups.setdefault(action.uuid, []).append(action)
        with self._lock:
            self._later = {uuid: later for uuid, later in self._later.items() if uuid in groups}
        now = self._clock()
        for uuid, group in groups.items():
            self._hand_out(uuid, tuple(group), busy.get(uuid), now)
        for uuid, job in busy.items():
            if uuid not in groups and job.making and not _wanted(desired, uuid):
                job.cancelled.set()  # it is not even begun, and nobody wants it any more

    def _hand_out(self, uuid: str, group: tuple[Action, ...], job: _Job | None, now: float) -> None:
        if job is not None:
            if any(isinstance(action, End) for action in group):
                job.cancelled.set()
            return
        with self._lock:
            later = self._later.get(uuid)
            if later is not None and later.what == group and now < later.at:
                return
            self._jobs[uuid] = job = _Job(making=isinstance(group[0], Make))
        (self._makers if job.making else self._hands).submit(self._run, uuid, group, job)

    def _run(self, uuid: str, group: tuple[Action, ...], job: _Job) -> None:
        trouble: tuple[str, bool] | None = None
        try:
            for action in group:
                self._do(action, job)
        except (_NotYet, MachineConflict):  # it is not as it was when this was decided: look again, soon
            trouble = "", False
        except Cancelled:
            pass
        except (DeployerError, StagerError, CatalogError, SignerError) as exc:
            log.warning("machine %s: %s", uuid, exc)
            trouble = str(exc), True
        except Exception as exc:
            log.exception("machine %s", uuid)
            trouble = f"the node failed ({type(exc).__name__}); its log has the reason", True
        with self._lock:
            known = self._later.pop(uuid, None)
            if trouble is not None:
                reason, grows = trouble
                tries = known.tries + 1 if known and known.what == group and grows else 1
                self._later[uuid] = _Later(group, self._clock() + _delay(tries), tries, reason)
            del self._jobs[uuid]
        self._changed()

    def _do(self, action: Action, job: _Job) -> None:
        keeper, verbs, uuid = self._keeper, self._verbs, action.uuid
        match action:
            case Make():
                self._make_one(action, job)
            case Pause() | Resume() | Suspend() | Reactivate() | Stop():
                getattr(verbs, type(action).__name__.lower())(uuid)
            case Reboot(number=number):
                verbs.reboot(uuid, number)
            case Resize(memory=memory, cores=cores):
                verbs.resize(uuid, memory, cores)
            case Prolong(ends=ends):
                verbs.until(uuid, ends)
            case Note(want=want):
                keeper.change(uuid, wanted=want.value)
            case End(reason=reason):
                self._end(keeper.store.get(uuid), reason)
            case Forget():
                keeper.forget(uuid)

    def _end(self, record: MachineRecord, reason: str) -> None:
        """One whose time is over gets its grace: the keeper is asking its guest to power off."""
        now = self._keeper.now()
        if record.state is State.RUNNING and record.ends <= now < record.ends + self._keeper.grace:
            raise _NotYet
        self._keeper.end(record.uuid, reason)

    def _make_one(self, action: Make, job: _Job) -> None:
        """What cannot be had for now is tried again; what fails otherwise has failed, and its record says so."""
        machine = action.machine

        def tell(step: Step) -> None:
            if step.step == "staging" and step.total:
                job.progress = step.done or 0, step.total
                self._news.set()

        try:
            self._make(order_of(machine), tell, job.cancelled, assigned_of(machine, self._identity))
        except (Cancelled, NodeUnavailable):
            raise Cancelled from None
        except (DeployerError, StagerError, CatalogError, SignerError) as exc:
            if exc.exit_code == EXIT_UNAVAILABLE:
                raise
            log.warning("machine %s cannot be made: %s", machine.uuid, exc)
            self._keeper.failed(unmade(machine, self._identity, str(exc), self._keeper.now()))

    # What there is

    def _report(self) -> None:
        last, sent, known = None, 0.0, 0.0
        tries = 0
        facts = self._facts()
        while not self._ended.is_set():
            self._news.wait(LOOK_EVERY)
            self._news.clear()
            if self._desired is None or self._ended.is_set():
                continue
            if self._clock() - known >= FACTS_EVERY:
                facts, known = self._facts(), self._clock()
                self._look_at_addresses()
            report = self.report(facts)
            if report == last and self._clock() - sent < REPORT_EVERY:
                continue
            try:
                self._site.report(report)
            except SiteUnavailable as exc:
                tries += 1
                log.info("a report did not get through: %s", exc)
                self._ended.wait(_delay(tries))
                last = None
            else:
                last, sent, tries = report, self._clock(), 0
            self._ended.wait(TELL_EVERY)

    def report(self, facts: Facts) -> NodeReport:
        """All that there is to tell now."""
        desired = self._desired or DesiredState(revision=0)
        with self._lock:  # first: what is under way now may be settled in the records that are read next
            beside = Beside(
                self._begun,
                {uuid: later.reason for uuid, later in self._later.items() if later.reason},
                {uuid: job.progress for uuid, job in self._jobs.items() if job.making},
                self._addresses,
            )
        return NodeReport(
            revision=desired.revision,
            architecture=facts.architecture,
            accelerator=facts.accelerator,
            capacity=facts.capacity,
            labels=facts.labels,
            cached=facts.cached,
            machines=observed(desired, self.records(), beside, self._keeper.now()),
            problem=facts.problem,
        )

    def _look_at_addresses(self) -> None:
        found = {}
        for record in self.records():
            if record.state is State.RUNNING and record.network.partition(":")[0] not in WITHOUT_ADDRESSES:
                try:
                    found[record.uuid] = self._keeper.backend.addresses(record.uuid)
                except DeployerError as exc:
                    log.info("machine %s: %s", record.uuid, exc)
        self._addresses = found


TELL_EVERY = 0.2
"""Seconds between two reports at the least: what happens at once is told at once."""

WITHOUT_ADDRESSES: Final = frozenset({"none", "user"})
"""Kinds of networks in which a guest has no address that means anything to others."""


def _delay(tries: int) -> float:
    return float(min(FIRST_DELAY * 2 ** (tries - 1), LONGEST_DELAY))


def _wanted(desired: DesiredState, uuid: str) -> bool:
    return any(machine.uuid == uuid and machine.want != "ended" for machine in desired.machines)
