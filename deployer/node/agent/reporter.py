"""Reports of a node to its site: its facts, its machines and their problems; after every change, and at regular intervals."""

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Final

from catalog.image.address import Address
from deployer.errors import SiteUnavailable
from deployer.machine.state import MachineState
from deployer.node.agent.context import AgentContext, NodeFacts
from deployer.node.agent.executor import ActionExecutor
from deployer.node.agent.observed_state import LiveFacts, observe_machines
from deployer.node.backoff import RETRIES
from deployer.protocol.desired_state import DesiredState, NodeReport, ReportResponse
from deployer.protocol.swarm_report import ContentFeed, SwarmReport
from deployer.records.machine_store import MachineRecord
from signer.errors import PartitaError
from stager.content.transfer_stats import TransferProgress
from stager.staging import Stager

REPORT_EVERY = 10.0
"""Seconds between two reports when nothing changes: a site considers a node lost after minutes without one."""

LOOK_EVERY = 1.0
"""Seconds between two checks for something to report, without a notice of a change."""

FACTS_EVERY = 5.0
"""Seconds between two queries of the node's capacity, its cached contents, and its machines' addresses."""

TELL_EVERY = 0.2
"""Shortest time between two reports, in seconds: changes at about the same time are reported together."""

WITHOUT_ADDRESSES: Final = frozenset({"none", "user"})
"""Kinds of networks in which other machines cannot use a guest's address."""

MAX_REPORTED = 16
"""Contents in a report: those that are arriving, then those that came last. A report stays within some kilobytes."""

log = logging.getLogger("partita.node")


class Reporter:
    """Sends reports to one site, from one thread.

    Args:
        context: of the node.
        send: sends a report to the site; raises SiteUnavailable.
        executor: of the actions; has their progress and failures.
        records: of the site's machines.
        desired: the desired state that is acted on; None before the first one arrived.
    """

    def __init__(
        self,
        context: AgentContext,
        send: Callable[[NodeReport], ReportResponse | None],
        executor: ActionExecutor,
        records: Callable[[], list[MachineRecord]],
        desired: Callable[[], DesiredState | None],
    ) -> None:
        self._send, self._executor, self._records, self._desired = send, executor, records, desired
        self._keeper, self._facts, self._clock = context.keeper, context.facts, context.clock
        self._migration, self._offers, self._fence = context.migration, context.offers, context.fence
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._begun: dict[str, datetime] = {}

    def expect(self, desired: DesiredState) -> None:
        """Remember since when machines of a desired state that have no record yet are known."""
        now = self._keeper.now()
        self._begun = {machine.uuid: self._begun.get(machine.uuid, now) for machine in desired.machines}

    def run(self, news: threading.Event, ended: threading.Event) -> None:
        """Report until `ended` is set: soon after `news` is set, and every ten seconds."""
        last, sent, known = None, 0.0, 0.0
        tries = 0
        facts = self._facts()
        while not ended.is_set():
            news.wait(LOOK_EVERY)
            news.clear()
            if self._desired() is None or ended.is_set():
                continue
            if self._clock() - known >= FACTS_EVERY:
                facts, known = self._facts(), self._clock()
                self._look_at_addresses()
            report = self.report(facts)
            if report == last and self._clock() - sent < min(REPORT_EVERY, self._fence.rhythm):
                continue
            asked = self._fence.now()
            try:
                heard = self._send(report)
            except SiteUnavailable as exc:
                tries += 1
                log.info("a report did not get through: %s", exc)
                ended.wait(min(RETRIES.pause(tries), self._fence.patience))
                last = None
            else:
                self._fence.heard(asked, report.lease, heard)
                last, sent, tries = report, self._clock(), 0
            ended.wait(TELL_EVERY)

    def report(self, facts: NodeFacts) -> NodeReport:
        """The present report."""
        desired = self._desired() or DesiredState(revision=0)
        # First: what is under way now may be settled in the records that are read next.
        trouble, progress = self._executor.trouble(), self._executor.progress()
        records = self._records()
        saving = self._offers.progress() if self._offers is not None else {}
        live = LiveFacts(self._begun, trouble, progress, self._addresses, saving)
        support = self._migration.movable if self._migration else None
        return NodeReport(
            **dict(facts) | {"lease": self._fence.said, "migration_support": support},
            revision=desired.revision,
            machines=observe_machines(desired, records, live, self._keeper.now()),
            incoming=self._migration.arrivals(desired, records) if self._migration else None,
        )

    def _look_at_addresses(self) -> None:
        found = {}
        for record in self._records():
            if record.state is MachineState.RUNNING and record.network.kind not in WITHOUT_ADDRESSES:
                try:
                    found[record.uuid] = self._keeper.hypervisor.addresses(record.uuid)
                except PartitaError as exc:
                    log.info("machine %s: %s", record.uuid, exc)
        self._addresses = found


def build_swarm_report(stager: Stager) -> SwarmReport | None:
    """The present swarm report; None for a node that takes part in no swarm and fetched nothing lately.

    It is the same from one look to the next while nothing arrives, so that an idle node's reports stay the same.
    """
    name = stager.sharing.swarm.name if stager.sharing is not None else ""
    contents: dict[Address, ContentFeed] = {}
    for one in (*stager.transfers.snapshot(), *stager.transfers.recent()):
        if (one.from_peers or one.from_origin) and len(contents) < MAX_REPORTED:
            contents.setdefault(one.address, _feed(one))
    return SwarmReport(name=name, contents=tuple(contents.values())) if name or contents else None


def _feed(one: TransferProgress) -> ContentFeed:
    return ContentFeed(
        address=str(one.address),
        image=one.image,
        arriving=one.ended is None,
        from_peers=one.from_peers,
        from_origin=one.from_origin,
        origin_rate=int(one.origin_rate),
        feeders=one.feeders,
    )
