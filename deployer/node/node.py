"""One node, put together: its cache, its hypervisor, its machines and what it deploys with. It owns its directory.

DIR/node-id            the node's identity
DIR/cache              the stager's
DIR/machines           the machines'
DIR/saves              images of machines being saved, until the catalog has them (`images.candidate_upload`)
DIR/libvirt            the embedded driver's (or a shorter path, `web.socket_paths`)
DIR/kvm.json           what the KVM probe found
DIR/site               the site that it belongs to, if it joined one
DIR/revocations.json   the revocations that it has seen
DIR/audit.jsonl        the audit log; receipts/, keys/ and requests.jsonl lie beside it (`records.recorder`)
"""

import logging
import threading
import uuid as uuids
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Self

from catalog.client.trusted import TrustedCatalog
from deployer.errors import NodeUnavailable, PolicyUnusable
from deployer.hypervisor.accelerator import (
    Accelerator,
    choose_accelerator,
    emulator_path,
    emulator_version,
    processor_digest,
)
from deployer.hypervisor.embedded_driver import MAX_ROOT
from deployer.hypervisor.libvirt import Hypervisor
from deployer.machine.state import MachineState
from deployer.node.agent.agent import Agent
from deployer.node.agent.context import AgentContext, NodeFacts
from deployer.node.agent.lease import LEASE_FILE, NodeLease, boot_id
from deployer.node.agent.membership import MembershipService
from deployer.node.agent.migration_runner import MigrationRunner
from deployer.node.agent.reporter import build_swarm_report
from deployer.node.background import NodeThreads
from deployer.node.images.image_writer import MachineSaver
from deployer.node.machines.capacity import measure_capacity, total_memory
from deployer.node.machines.construction import SiteAssignment
from deployer.node.machines.context import DeploymentContext
from deployer.node.machines.deployment import Deployer
from deployer.node.machines.operations import MachineOperations
from deployer.node.machines.restart_admission import RestartAdmission
from deployer.node.machines.revocation_watcher import RevocationWatcher
from deployer.node.machines.supervisor import MachineSupervisor
from deployer.node.membership.credentials import SiteMembership
from deployer.node.membership.site_client import NodeSiteClient
from deployer.node.migration.source import MigrationSource
from deployer.node.migration.target import MigrationTarget, TargetNode
from deployer.node.schema.orders import DeploymentResult, DeploymentStep, NodeStatus
from deployer.node.settings import DeploySettings
from deployer.policy.decision import Decision
from deployer.policy.store import PolicyStore
from deployer.protocol.machine_order import MachineOrder, RequestDefaults
from deployer.protocol.migration import Platform
from deployer.records.machine_store import MachineStore
from deployer.records.recorder import Recorder
from deployer.web.socket_paths import short_socket_path
from signer.errors import PartitaError, SignerError
from signer.runtime import files
from signer.runtime.clock import utc_now
from signer.runtime.units import parse_duration
from stager.factory import open_stager
from stager.settings import NodeSettings
from stager.staging import Stager

PATIENCE = 60.0
"""Seconds that deployments under way get to undo themselves when the node ends."""

NATIVE = "x86_64"

HOLDING = frozenset({MachineState.BOOTING, MachineState.RUNNING, MachineState.PAUSED})
"""States of machines that have been deployed and have not ended."""

log = logging.getLogger("partita.node")


class Node:
    """A node that works: open one with `Node.open`, close it when done. Machines go on without it."""

    def __init__(
        self,
        identity: str,
        settings: NodeSettings,
        deploy: DeploySettings,
        stager: Stager,
        client: TrustedCatalog,
        clock: Callable[[], datetime],
    ) -> None:
        self.settings, self._deploy = settings, deploy
        self._identity = identity
        self._records = Recorder(settings.directory, identity, clock)
        self._policies = PolicyStore(deploy.policy, self._records.policy)
        grace = timedelta(seconds=parse_duration(deploy.grace))
        self.keeper = MachineSupervisor(
            MachineStore(settings.directory / "machines"), stager.cache, clock, grace, self._records.ended
        )
        self._catalog, self._clock = client, clock
        self.stager, self.images = stager, client
        self.watcher = RevocationWatcher(
            client,
            settings.directory,
            deploy.blocked,
            self._policies.current,
            self.keeper,
            self._records.exposed,
            clock,
        )
        context = DeploymentContext(
            images=client,
            stager=stager,
            keeper=self.keeper,
            rules=self._policies.current,
            withdrawn=self.watcher.current,
            records=self._records,
            owner=identity,
            clock=clock,
        )
        self._deployer = Deployer(context, self.accelerator, RequestDefaults(deploy.network, deploy.lifetime))
        self._admits = RestartAdmission(context)
        self.verbs = MachineOperations(self.keeper, self._admits)
        self.saver = MachineSaver(settings, self.keeper, stager.cache)
        watching = timedelta(seconds=parse_duration(deploy.revocations_every))
        self._threads = NodeThreads(self.keeper, self._policies, client, self.watcher, watching, self._warm_up)
        self._probing = threading.Lock()
        self._under_way: dict[threading.Event, threading.Event] = {}
        self._under_way_lock = threading.Lock()
        self._ending = False
        self._member = MembershipService(
            settings.directory / "site", self._work_for, clock, listens=bool(deploy.migration_listen)
        )
        self._saved_by: Platform | None = None
        self._closing = ExitStack()

    @classmethod
    def open(cls, settings: NodeSettings, deploy: DeploySettings, clock: Callable[[], datetime] = utc_now) -> Self:
        """Take over a node's directory, which is made if absent, and everything that runs from it.

        Raises:
            CacheBusy: another process owns the directory.
            BackendFailed: libvirt cannot be opened.
            Misused: the directory's path is too long.
        """
        directory = settings.directory.absolute()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with ExitStack() as undo:
            stager, client = undo.enter_context(
                open_stager(settings, lambda: clock().timestamp(), service=True, alarm=lambda said: node._alarm(said))
            )
            node = cls(_identity(directory / "node-id"), settings, deploy, stager, client, clock)
            hypervisor = node._open_hypervisor(directory)
            undo.callback(hypervisor.close)
            node.keeper.recover(hypervisor)
            node._records.settle([record.uuid for record in node.keeper.store.all() if record.state in HOLDING])
            node._closing = undo.pop_all()
        node._threads.start()
        node._member.start()
        return node

    def close(self) -> None:
        """Cancel what is being deployed, wait until it is undone, and let go. Machines go on."""
        self.cancel()
        self._threads.end()
        self._member.close()
        for finished in list(self._under_way.values()):
            finished.wait(PATIENCE)
        self._threads.close()
        self._closing.close()
        self._records.close()

    def cancel(self) -> None:
        """The node is about to end: take no more orders, and undo those under way. Returns at once."""
        with self._under_way_lock:
            self._ending = True
            for cancelled in self._under_way:
                cancelled.set()

    def deploy(
        self,
        order: MachineOrder,
        tell: Callable[[DeploymentStep], None],
        cancelled: threading.Event,
        assigned: SiteAssignment | None = None,
    ) -> DeploymentResult:
        """See Deployer.deploy; NodeUnavailable when the node is about to end."""
        finished = threading.Event()
        with self._under_way_lock:
            if self._ending:
                raise NodeUnavailable("the node is stopping; start it again with `partita node serve`")
            self._under_way[cancelled] = finished
        try:
            return self._deployer.deploy(order, tell, cancelled, assigned)
        finally:
            with self._under_way_lock:
                del self._under_way[cancelled]
            finished.set()

    def decide(self, order: MachineOrder) -> Decision:
        """See Deployer.dry_run."""
        return self._deployer.dry_run(order)

    def accelerator(self, architecture: str) -> Accelerator:
        """What machines of that architecture run on; the first time, this takes some seconds where KVM hangs."""
        with self._probing:
            return choose_accelerator(self._deploy.accelerator, architecture, self.settings.directory / "kvm.json")

    def status(self) -> NodeStatus:
        """How the node is doing."""
        rules, problem = None, ""
        try:
            rules = self._policies.current()
        except PolicyUnusable as exc:
            problem = str(exc)
        fresh = self._catalog.freshness()
        return NodeStatus(
            node=self._identity,
            directory=str(self.settings.directory.absolute()),
            catalog=self.settings.catalog,
            fresh_until=fresh.expires,
            fresh_problem=fresh.problem,
            policy=str(self._deploy.policy),
            policy_digest=rules.digest if rules else None,
            policy_problem=problem or self._policies.problem or (rules.shadow_problem if rules else None) or None,
            shadow_digest=rules.shadow.digest if rules and rules.shadow else None,
            audit=str(self._records.audit.head),
            hypervisor=f"{self._hypervisor.version}, {emulator_version(emulator_path(NATIVE))}",
            accelerator=self.accelerator(NATIVE),
            site=self._member.site,
            site_problem=self._member.problem,
            machines=dict(Counter(record.state.value for record in self.keeper.store.all())),
        )

    def end_machines(self) -> None:
        """Destroy every machine: for a node that is only tried out."""
        for record in self.keeper.store.all():
            with suppress(PartitaError):
                self.keeper.destroy(record.uuid)

    def _work_for(self, site: NodeSiteClient, member: SiteMembership) -> Agent:
        """What works for the site that the node belongs to."""
        fence = NodeLease(self.settings.directory / "site" / LEASE_FILE, boot=boot_id())
        migration = self._migration(member)
        context = AgentContext(
            site=member.identity,
            keeper=self.keeper,
            verbs=self.verbs,
            make=self.deploy,
            facts=partial(self._facts, member.identity),
            offers=self.saver.offering(),
            fence=fence,
            migration=migration,
        )
        return Agent(site, context)

    def _migration(self, member: SiteMembership) -> MigrationRunner:
        """What brings machines from other nodes of the site, and gives them away."""
        keeper, stager, images, receipts = self.keeper, self.stager, self.images, self._records.receipts
        policy = lambda: self._policies.current().digest  # noqa: E731 - one of five
        here = TargetNode(self._identity, member.identity, self._platform, self.accelerator, policy)
        giver = MigrationSource(keeper, stager.cache, images.manifest, self._platform, receipts.files)
        incoming = self.settings.directory.absolute() / "incoming"
        taker = MigrationTarget(keeper, images, stager, self._admits, receipts, here, incoming)
        where, url = self._deploy.migration_listen, self._deploy.migration_url
        return MigrationRunner(member, keeper, giver, taker, self._platform, where, url)

    def _platform(self) -> Platform:
        """What memory is saved by here."""
        with self._probing:
            if self._saved_by is None:
                virt = choose_accelerator(self._deploy.accelerator, NATIVE, self.settings.directory / "kvm.json").virt
                self._saved_by = Platform(
                    emulator=emulator_version(emulator_path(NATIVE)),
                    libvirt=self._hypervisor.version,
                    processor=processor_digest() if virt == "kvm" else "",
                )
            return self._saved_by

    def _facts(self, site: str) -> NodeFacts:
        """How the node is, for its site."""
        return NodeFacts(
            architecture=NATIVE,
            accelerator=self.accelerator(NATIVE).virt,
            capacity=measure_capacity(
                self._deploy, self.settings.directory / "machines", self.keeper.store.all(), site, total_memory()
            ),
            labels=self.settings.labels,
            cached=tuple(entry.key for entry in self.stager.cache.entries() if not entry.digest),
            problem=self._hindrance(),
            swarm=build_swarm_report(self.stager),
        )

    def _hindrance(self) -> str:
        """What keeps the node from starting any machine, or empty. What will do so soon is said by its status alone."""
        try:
            self._policies.current()
        except (PolicyUnusable, SignerError) as exc:
            return str(exc)
        fresh = self._catalog.freshness()
        if not fresh.pinned or (fresh.expires is not None and fresh.expires <= self._clock()):
            return fresh.problem or "the current images are unknown"
        return ""

    def _open_hypervisor(self, directory: Path) -> Hypervisor:
        if self._deploy.libvirt:
            self._hypervisor = Hypervisor(self._deploy.libvirt, self._identity, self._threads.tell)
        else:
            root = short_socket_path(directory, "libvirt", MAX_ROOT)
            self._hypervisor = Hypervisor.embedded(root, self._identity, self._threads.tell)
        return self._hypervisor

    def _alarm(self, said: str) -> None:
        """The catalog says two things of one name and version: on record before the order is refused."""
        self._records.audit.append("alarm", {"said": said}, self._clock())

    def _warm_up(self) -> None:
        """Probe the accelerator and QEMU's capabilities before a request waits for them."""
        self._records.warm_up()
        with suppress(PartitaError):
            self._hypervisor.prepare(NATIVE, self.accelerator(NATIVE).virt)


def _identity(path: Path) -> str:
    """The node's UUID, made once."""
    try:
        return str(uuids.UUID(path.read_text().strip()))
    except (FileNotFoundError, ValueError):
        identity = str(uuids.uuid4())
        files.write(path, identity + "\n")
        return identity
