"""A site's agent on a node: fetches the desired state, reconciles the node's machines with it, and reports the result.

Three threads: one waits for the desired state, one compares it with the node's records and submits the actions that are
left, one reports. A bounded number of workers carries the actions out, one job per machine at a time. No state that
matters is kept here: after a crash at any instant, the next comparison finds what is left to do. While the site is
unreachable, machines keep running and expire at their time; the supervisor ends them.
"""

import logging
import threading
from collections.abc import Callable

from deployer.errors import SiteUnavailable
from deployer.node.agent.context import AgentContext
from deployer.node.agent.executor import ActionExecutor
from deployer.node.agent.lease import LeaseGuard
from deployer.node.agent.reconciler import plan_actions
from deployer.node.agent.reporter import Reporter
from deployer.node.backoff import RETRIES
from deployer.node.machines.console import ConsoleReader
from deployer.node.membership.site_client import NodeSiteClient
from deployer.protocol.actions import Action
from deployer.protocol.desired_state import DesiredState
from deployer.records.machine_store import MachineRecord

WAIT = 20.0
"""Seconds that the site is asked to wait for news."""

LOOK_EVERY = 1.0
"""Seconds between two comparisons without a notice of a change."""

log = logging.getLogger("partita.node")


class Agent:
    """Work for one site until closed.

    Args:
        site: the other side.
        context: of the node.
    """

    def __init__(self, site: NodeSiteClient, context: AgentContext) -> None:
        self._site, self._identity, self._keeper, self._clock = site, context.site, context.keeper, context.clock
        self._migration, self._offers, self._fence = context.migration, context.offers, context.fence
        self.problem = ""
        """Why the site is not heard, or empty."""
        self._desired: DesiredState | None = None
        self._wake, self._news, self._ended = threading.Event(), threading.Event(), threading.Event()
        self._executor = ActionExecutor(context, self._changed, self._news.set)
        self._guard = LeaseGuard(self._fence, self._keeper, self.records, self._executor.cancel)
        self._reporter = Reporter(context, site.report, self._executor, self.records, lambda: self._desired)
        self._serial = ConsoleReader(site, self._identity, self._keeper, self._clock)
        self._threads = [
            threading.Thread(target=self._forever, args=(work, name), name=f"agent-{name}", daemon=True)
            for name, work in (
                ("listen", self._listen),
                ("work", self._work),
                ("report", lambda: self._reporter.run(self._news, self._ended)),
                ("guard", lambda: self._guard.run(self._ended)),
            )
        ]
        self._keeper.on_change(self._changed)

    def start(self) -> None:
        """Begin to work."""
        if self._migration is not None:
            self._migration.start()
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Cancel machines that are being made, wait for actions under way, and stop. Machines keep running."""
        self._ended.set()
        self._wake.set()
        self._news.set()
        self._keeper.off_change(self._changed)
        if self._migration is not None:
            self._migration.close()
        self._executor.close()
        self._serial.close()
        if self._offers is not None:
            self._offers.close()
        self._guard.close()
        for thread in self._threads[1:]:  # the first may wait for the site
            if thread.is_alive():
                thread.join(RETRIES.max_pause)

    def _changed(self) -> None:
        self._wake.set()
        self._news.set()

    def _forever(self, work: Callable[[], None], name: str) -> None:
        """Log every failure and go on: an agent that silently stopped would be the worst."""
        while not self._ended.is_set():
            try:
                work()
            except Exception:
                log.exception("the site's agent (%s) failed; it goes on", name)
                self._ended.wait(RETRIES.pause(1))

    # What the site wants

    def _listen(self) -> None:
        tries = 0
        while not self._ended.is_set():
            known = self._desired.revision if self._desired else -1
            began = self._clock()
            asked = self._fence.now()
            try:
                found = self._site.desired(known, 0.0 if self._fence.frozen else WAIT)
            except SiteUnavailable as exc:
                tries += 1
                if str(exc) != self.problem:
                    log.warning("%s; machines go on meanwhile", exc)
                self.problem = str(exc)
                self._ended.wait(RETRIES.pause(tries))
                continue
            if self.problem:
                log.info("the site answers again")
            tries, self.problem = 0, ""
            fresh = found is not None and self._accept(found)
            if not (found and found.console_requests) and self._fence.confirmed(asked):
                log.info("the site is heard again; machines go on as it wants")
                self._changed()
            if not fresh and self._clock() - began < RETRIES.pause(1):
                self._ended.wait(RETRIES.pause(1))  # it answered at once, with nothing new

    def _accept(self, found: DesiredState) -> bool:
        """Act on a desired state from now on, unless it is older than the known one."""
        if found.console_requests:
            self._serial.asked(found.console_requests)
            return True
        if self._desired is not None and found.revision <= self._desired.revision:
            return False
        log.info("the site wants %d machines here (revision %d)", len(found.machines), found.revision)
        self._desired = found
        self._reporter.expect(found)
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
        """Compare once, and hand out the actions. One thread calls this."""
        desired = self._desired
        if desired is None or self._ended.is_set() or self._fence.frozen:
            return
        busy = self._executor.busy()  # first: what is under way now may be settled in the records that are read next
        groups: dict[str, tuple[Action, ...]] = {}
        todo = plan_actions(desired, self.records())
        for action in self._migration.undone(todo) if self._migration is not None else todo:
            groups[action.machine] = (*groups.get(action.machine, ()), action)
        self._executor.hand_out(groups, busy)
        if self._offers is not None:
            self._offers.look(desired, self.records())
        if self._migration is not None:
            self._migration.tidy(desired, {*busy, *groups})
        for uuid, job in busy.items():
            if uuid not in groups and job.making and not _wanted(desired, uuid):
                job.cancelled.set()  # it is not even begun, and it is no longer wanted


def _wanted(desired: DesiredState, uuid: str) -> bool:
    return any(machine.uuid == uuid and machine.desired != "ended" for machine in desired.machines) or any(
        incoming.machine.uuid == uuid for incoming in desired.incoming or ()
    )
