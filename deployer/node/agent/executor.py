"""Execution of the actions that lead to a site's desired state: bounded workers, one job per machine at a time, with retries.

No state that matters is kept here: after a crash at any instant, the next comparison finds what is left to do.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from deployer.errors import Cancelled, MachineConflict, NodeUnavailable
from deployer.machine.state import MachineState
from deployer.node.agent.context import AgentContext
from deployer.node.backoff import RETRIES
from deployer.node.machines.construction import assignment_of, failed_record, order_of
from deployer.node.machines.operations import MachineOperations
from deployer.node.schema.orders import DeploymentStep
from deployer.protocol.actions import MIGRATION, Action, ActionKind
from deployer.protocol.desired_state import DesiredMachine
from deployer.records.machine_store import MachineRecord
from signer.errors import EXIT_UNAVAILABLE, PartitaError

MAKES, VERBS = 4, 8
"""Machines made, and other actions carried out, at a time. Staging shares one network, booting one disk."""


log = logging.getLogger("partita.node")

_VERBS: Mapping[ActionKind, Callable[[MachineOperations, str], object]] = {
    ActionKind.PAUSE: MachineOperations.pause,
    ActionKind.RESUME: MachineOperations.resume,
    ActionKind.SUSPEND: MachineOperations.suspend,
    ActionKind.START: MachineOperations.reactivate,
    ActionKind.STOP: MachineOperations.stop,
}


@dataclass
class Job:
    """An action on a machine that is under way."""

    cancelled: threading.Event = field(default_factory=threading.Event)
    making: bool = False
    progress: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class _Later:
    """Actions that failed: when to retry them, and why they failed."""

    what: tuple[Action, ...]
    at: float
    tries: int
    reason: str


class _NotYet(Exception):
    """The action will be carried out without the executor."""


class ActionExecutor:
    """Carries out the actions of one site's agent. Safe to use from several threads; one of them submits actions.

    Args:
        context: of the node.
        changed: called when an action has ended.
        news: called when an action has made progress.
    """

    def __init__(self, context: AgentContext, changed: Callable[[], None], news: Callable[[], None]) -> None:
        self._site, self._keeper, self._verbs, self._make = context.site, context.keeper, context.verbs, context.make
        self._clock, self._migration, self._changed, self._news = context.clock, context.migration, changed, news
        self._jobs: dict[str, Job] = {}
        self._later: dict[str, _Later] = {}
        self._lock = threading.Lock()
        self._makers = ThreadPoolExecutor(MAKES, thread_name_prefix="make")
        self._hands = ThreadPoolExecutor(VERBS, thread_name_prefix="verb")

    def cancel(self) -> None:
        """Cancel machines that are being made."""
        with self._lock:
            for job in self._jobs.values():
                job.cancelled.set()

    def close(self) -> None:
        """Cancel machines that are being made, and wait until the actions under way have ended."""
        self.cancel()
        self._makers.shutdown(cancel_futures=True)
        self._hands.shutdown(cancel_futures=True)

    def busy(self) -> Mapping[str, Job]:
        """The jobs under way, by machine."""
        with self._lock:
            return dict(self._jobs)

    def trouble(self) -> Mapping[str, str]:
        """Why actions that the site wants are still pending, by machine."""
        with self._lock:
            return {uuid: later.reason for uuid, later in self._later.items() if later.reason}

    def progress(self) -> Mapping[str, tuple[int, int]]:
        """Bytes staged so far and in all, of machines that are being made."""
        with self._lock:
            return {uuid: job.progress for uuid, job in self._jobs.items() if job.making}

    def hand_out(self, groups: Mapping[str, tuple[Action, ...]], busy: Mapping[str, Job]) -> None:
        """Begin actions that are neither under way nor waiting for a retry; END cancels what is under way.

        Args:
            groups: all that is to be done, by machine.
            busy: the jobs that were under way before the actions were planned.
        """
        with self._lock:
            self._later = {uuid: later for uuid, later in self._later.items() if uuid in groups}
        now = self._clock()
        for uuid, group in groups.items():
            self._begin(uuid, group, busy.get(uuid), now)

    def _begin(self, uuid: str, group: tuple[Action, ...], job: Job | None, now: float) -> None:
        if job is not None:
            if any(action.kind is ActionKind.END for action in group):
                job.cancelled.set()
            return
        with self._lock:
            later = self._later.get(uuid)
            if later is not None and later.what == group and now < later.at:
                return
            self._jobs[uuid] = job = Job(making=group[0].kind in {ActionKind.MAKE, ActionKind.TAKE})
        (self._makers if job.making else self._hands).submit(self._run, uuid, group, job)

    def _run(self, uuid: str, group: tuple[Action, ...], job: Job) -> None:
        trouble: tuple[str, bool] | None = None
        try:
            for action in group:
                self._do(action, job)
        except (_NotYet, MachineConflict):  # it is not as it was when this was decided: look again, soon
            trouble = "", False
        except Cancelled:
            pass
        except PartitaError as exc:
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
                self._later[uuid] = _Later(group, self._clock() + RETRIES.pause(tries), tries, reason)
            del self._jobs[uuid]
        self._changed()

    def _do(self, action: Action, job: Job) -> None:
        keeper, verbs, uuid = self._keeper, self._verbs, action.machine
        match action.kind:
            case ActionKind.MAKE:
                self._make_one(action.desired, job)
            case ActionKind.REBOOT:
                verbs.reboot(uuid, action.desired.reboots)
            case ActionKind.RESIZE:
                verbs.resize(uuid, action.desired.memory, action.desired.cores)
            case ActionKind.EXTEND:
                verbs.extend(uuid, action.desired.expires)
            case ActionKind.REMEMBER:
                keeper.change(uuid, desired=action.desired.desired.value)
            case ActionKind.END:
                self._end(keeper.store.get(uuid), action.reason)
            case ActionKind.FORGET:
                keeper.forget(uuid)
            case kind if kind in MIGRATION and self._migration is not None:
                self._migration.do(action, job.cancelled, self._news)
            case kind if kind in _VERBS:
                _VERBS[kind](verbs, uuid)

    def _end(self, record: MachineRecord, reason: str) -> None:
        """One that has expired gets its grace: the keeper is asking its guest to power off."""
        now = self._keeper.now()
        if record.state is MachineState.RUNNING and record.expires <= now < record.expires + self._keeper.grace:
            raise _NotYet
        self._keeper.end(record.uuid, reason)

    def _make_one(self, machine: DesiredMachine, job: Job) -> None:
        """Make a machine. What is unavailable for now is retried; any other failure is final, and its record says so."""

        def tell(step: DeploymentStep) -> None:
            if step.step == "staging" and step.total:
                job.progress = step.done or 0, step.total
                self._news()

        try:
            self._make(order_of(machine), tell, job.cancelled, assignment_of(machine, self._site))
        except (Cancelled, NodeUnavailable):
            raise Cancelled from None
        except PartitaError as exc:
            if exc.exit_code == EXIT_UNAVAILABLE:
                raise
            log.warning("machine %s cannot be made: %s", machine.uuid, exc)
            self._keeper.failed(failed_record(machine, self._site, str(exc), self._keeper.now()))
