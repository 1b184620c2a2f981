"""A site and its parts: database, policy, authorization, services and background tasks.

DIR/site.db      the database, unless the settings name another one
DIR/site.sock    the operator's socket (or a shorter path, see `deployer.web.socket_paths`)
DIR/tls.pem      the service's certificate and key, made by its own CA
DIR/broker.key   the key that guests' one-shot secrets are derived from
DIR/freshness    the verified TUF metadata of its catalog
DIR/lock         held by the service while it runs
"""

import logging
import secrets
import time
import uuid as uuids
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from catalog.client.credential_file import read_credential
from catalog.client.trusted import TrustedCatalog, read_pin
from catalog.image.manifest import Manifest
from deployer.errors import JoinRefused, SiteUnavailable
from deployer.pki.ca import CertificateAuthority, fingerprint
from deployer.policy.policy_files import reloaded_policy_file
from deployer.policy.store import PolicyStore
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.protocol.desired_state import DesiredState, NodeReport, ReportResponse
from deployer.protocol.machine_order import RequestDefaults
from deployer.site.auth.authenticator import make_authenticator
from deployer.site.auth.authorizer import SiteAuthorizer
from deployer.site.auth.grants import SiteGrants, quota_of
from deployer.site.broker.broker import Broker, BrokerEndpoint, broker_key
from deployer.site.clusters.controller import ClusterController
from deployer.site.clusters.dry_run import dry_run_cluster
from deployer.site.clusters.published import resolve_published
from deployer.site.db.clusters import get_cluster
from deployer.site.db.engine import SiteDatabase
from deployer.site.db.events import last_event
from deployer.site.db.machines import boot_history, count_machines, desired_state, get_deployment, usage_of
from deployer.site.db.nodes import get_node, list_nodes, node_capacities
from deployer.site.model.cluster import ClusterDocument
from deployer.site.model.current_actor import acting_as
from deployer.site.model.principal import Principal
from deployer.site.model.quota import ResourceUsage
from deployer.site.model.records import NodeState, SiteMachine
from deployer.site.operations.admission import AdmissionService
from deployer.site.operations.console_requests import ConsoleRequestQueue
from deployer.site.operations.expiry import SiteTimeouts, Sweeper
from deployer.site.operations.fencing import make_fencing
from deployer.site.operations.machine_changes import MachineService
from deployer.site.operations.node_joining import NodeJoinService
from deployer.site.operations.retention import LOOK_SECONDS, Pruner, retention_periods
from deployer.site.operations.revocations import RevocationService
from deployer.site.scheduling.node_capacity import Overcommit
from deployer.site.scheduling.placement import MachineReservation, Placer, place_machines, place_on_site
from deployer.site.scheduling.proposal import Proposal
from deployer.site.schema.clusters import ClusterDryRun
from deployer.site.schema.messages import SiteAnchors, SiteStatus
from deployer.site.service.background import BackgroundThreads, run_every
from deployer.site.service.server_tls import ServerTls
from deployer.site.settings import SiteSettings
from deployer.site.store.admission import AdmittedDeployment
from deployer.site.store.changes import secret
from deployer.site.store.migration import give_up_migrations
from deployer.site.store.reports import store_report
from deployer.site.store.store import SiteStore
from deployer.site.store.unit_of_work import UnitOfWork
from deployer.web.wakeup import Wakeup
from signer.errors import PartitaError
from signer.runtime import files
from signer.runtime.clock import utc_now
from signer.runtime.units import parse_duration

RENEW_SECONDS = 3600.0
"""Time between two checks whether the service's certificate is due for renewal."""

TIDY_SECONDS = 600.0
"""Time between two clean-ups of the context broker's guests that ended long ago."""

BROKER_KEY = "broker.key"

Clock = Callable[[], datetime]
log = logging.getLogger("partita.site")


class SiteExtension:
    """Lets a site's machines run elsewhere than on its nodes, such as at EC2; this base class offers nothing."""

    def burst(self, place: Placer, who: Principal, manifest: Manifest, proposal: Proposal) -> Placer:  # noqa: ARG002
        """A placer for a principal's machines; `place` is the one for nodes."""
        return place

    def afford(self, machine: SiteMachine, promised: Sequence[MachineReservation]) -> None:
        """Refuse a machine that runs elsewhere and exceeds the budget; a `CostCheck`."""

    def problems(self) -> Sequence[str]:
        """Its present problems, a sentence each."""
        return ()

    def run(self, site: "Site") -> AbstractContextManager[None]:  # noqa: ARG002
        """Work for the site until the block ends; entered before the site serves requests."""
        return nullcontext()


class Site:
    """A site in operation: open one with `Site.open`, and close it at the end. Machines keep running without it.

    Attributes:
        url: its own URL.
        store, access, node_joins, admission, machine_changes, clusters, background, wakeup, console_requests, tls,
            authority, anchors: its parts.
    """

    def __init__(
        self,
        settings: SiteSettings,
        url: str,
        store: SiteStore,
        catalog: TrustedCatalog,
        clock: Clock,
        extension: SiteExtension,
    ) -> None:
        self.settings, self.url, self.store, self.catalog, self._clock = settings, url, store, catalog, clock
        self._extension = extension
        now = clock()
        self.authority = CertificateAuthority.parse(
            store.write(secret, "authority", lambda: CertificateAuthority.make(now).joined())
        )
        self.tls = ServerTls(settings, self.authority, now)
        anchors = self.tls.anchors
        self.anchors = SiteAnchors(certificates=anchors.decode("ascii"), fingerprint=fingerprint(anchors))
        self.node_joins = NodeJoinService(
            store,
            self.authority,
            self.anchors.fingerprint,
            url,
            timedelta(seconds=parse_duration(settings.node_certificates)),
            secrets.token_bytes,
        )
        self.policies = PolicyStore(settings.policy)
        self.rights = reloaded_policy_file("rights", settings.rights, SiteGrants.load, SiteGrants(), log)
        self.wakeup, self.broker_wakeup, self.console_requests = Wakeup(), Wakeup(), ConsoleRequestQueue()
        self.broker: Broker | None = None
        self._authenticator = make_authenticator(settings, self.authority, url, clock, time.monotonic)
        self.access = SiteAuthorizer(
            self._authenticator,
            self.rights.current,
            self._node_is_in,
            lambda uuid: store.read(get_deployment, uuid),
            lambda uuid: store.read(get_cluster, uuid),
        )
        self._withdrawing = RevocationService(
            catalog, settings.directory, settings.blocked, self.policies.current, clock
        )
        self.admission = AdmissionService(
            store,
            catalog,
            self.policies.current,
            lambda who, manifest: quota_of(self.rights.current(), who, manifest),
            RequestDefaults(settings.network, settings.lifetime),
            clock,
            self._withdrawing.current,
            extension.burst,
        )
        self.clusters = ClusterController(
            store, self.admission.admit, parse_duration(settings.lifetime), lambda: self.broker is not None, self.now
        )
        self.machine_changes = MachineService(
            store,
            self.policies.current,
            self.access.owner,
            lambda who: quota_of(self.rights.current(), who),
            extension.afford,
        )
        self._fencing = make_fencing(settings, self._add_node_event)
        self.pruner = Pruner(store.database, retention_periods(settings))
        duties = [
            self._sweeper().look,
            self.clusters.look,
            lambda _now: give_up_migrations(store),
            run_every(RENEW_SECONDS, lambda: self.tls.renew(clock())),
            run_every(LOOK_SECONDS, lambda: self.pruner.look(self.now())),
            run_every(TIDY_SECONDS, lambda: self.broker.tidy() if self.broker else 0),
        ]
        self.background = BackgroundThreads(store, catalog, (self.wakeup, self.broker_wakeup), duties)
        self._closing = ExitStack()

    @classmethod
    def open(
        cls, settings: SiteSettings, url: str, clock: Clock = utc_now, extension: SiteExtension = SiteExtension()
    ) -> Self:
        """Open a site's directory, which is made if absent, and its database.

        Raises:
            SiteUnavailable: another process owns the directory, or the database cannot be used.
            Misused: a file that the settings name cannot be used.
        """
        with ExitStack() as undo:
            _own(settings.directory, undo)
            database = SiteDatabase(settings.database_url)
            undo.callback(database.close)
            overcommit = Overcommit(settings.overcommit_cores, settings.overcommit_memory)
            store = SiteStore(database, clock, lambda: str(uuids.uuid4()), overcommit)
            catalog = undo.enter_context(_catalog(settings, clock))
            site = cls(settings, url, store, catalog, clock, extension)
            site._closing = undo.pop_all()
        return site

    def invite(self, url: str) -> Broker:
        """Make the context broker, which guests reach at that URL; called before `start`."""
        directory, shown = self.settings.directory, (lambda: self.tls.shown) if url.startswith("https:") else lambda: ""
        self.broker = Broker(
            self.store,
            self.authority,
            BrokerEndpoint(url, broker_key(directory / BROKER_KEY), shown),
            self._clock,
            news=self.broker_wakeup.notify,
        )
        return self.broker

    def desired(self, node: str) -> DesiredState:
        """The desired state of a node, with the access to the context broker for each machine."""
        state = self.store.read(desired_state, node)
        return state if self.broker is None else self.broker.introduce(node, state)

    def start(self) -> None:
        """Start the background tasks."""
        self.background.start()

    def close(self) -> None:
        """Close everything. Machines keep running."""
        self.wakeup.end()
        self.background.close()
        self._closing.close()

    def now(self) -> datetime:
        """The present, UTC, whole seconds."""
        return self.store.now()

    def status(self) -> SiteStatus:
        """The state of the site: its policy, nodes, machines and problems."""
        digest, problems = None, []
        try:
            digest = self.policies.current().digest
        except PartitaError as exc:
            problems.append(str(exc))
        if self.policies.problem:
            problems.append(f"the policy files are not in force: {self.policies.problem}")
        self.rights.current()
        if self.rights.problem:
            problems.append(f"the rights file is not in force: {self.rights.problem}")
        problems += self._authenticator.problems()
        problems += self._extension.problems()
        if fresh := self.catalog.freshness().problem:
            problems.append(fresh)
        nodes = self.store.read(list_nodes, contents=False)
        return SiteStatus(
            url=self.url,
            fingerprint=self.anchors.fingerprint,
            catalog=self.settings.catalog,
            policy_digest=digest,
            problems=tuple(problems),
            nodes=dict(Counter(one.state.value for one in nodes)),
            machines=self.store.read(count_machines),
            events=self.store.read(last_event),
        )

    def check(self) -> None:
        """Raise SiteUnavailable unless the database answers, and the background tasks run."""
        self.store.read(last_event)
        self.background.check()

    def absorb(self, node: str, report: NodeReport) -> ReportResponse:
        """Store a node's report, and answer it."""
        self.store.write(store_report, node, report)
        return ReportResponse(lease=self._fencing.lease)

    def admit(self, request: DeploymentRequest, who: Principal, key: str | None) -> AdmittedDeployment:
        """Order machines; errors as in `AdmissionService.admit`."""
        with acting_as(who):
            return self.admission.admit(request, who, key)

    def published_cluster(self, reference: str) -> tuple[str, ClusterDocument]:
        """The cluster document published in the catalog under a name, if the policy accepts it; errors as in `resolve_published`."""
        policy = self.policies.current().policy
        return resolve_published(self.catalog, reference, policy, self._withdrawing.current(), self._clock())

    def try_cluster(self, document: ClusterDocument, who: Principal) -> ClusterDryRun:
        """Dry-run a cluster; nothing is done. Errors as in `AdmissionService.try_out` for each of its roles."""
        self.clusters.check(document)
        lifetime = document.lifetime or parse_duration(self.settings.lifetime)
        proposed = {
            name: self.admission.propose(document.initial_request(name, min(lifetime, role.lifetime or lifetime)), who)
            for name, role in document.roles.items()
        }
        addresses = {one for proposal in proposed.values() for one in proposal.placement_request.addresses}
        together = self.store.read(usage_of, vo=who.vo) if who.vo else ResourceUsage()
        clash = self.clusters.clash(document, who)
        return dry_run_cluster(
            document,
            proposed,
            self.store.read(node_capacities, addresses, self.store.overcommit),
            place_machines,
            (self.store.read(usage_of, owner=who), together),
            self.store.read(boot_history),
            (clash,) if clash else (),
        )

    def _node_is_in(self, uuid: str) -> None:
        if self.store.read(get_node, uuid, contents=False).state is NodeState.LEFT:
            raise JoinRefused("this node was removed from the site; it has to join again")

    def _sweeper(self) -> Sweeper:
        settings = self.settings
        lost_after, warn_before = (
            timedelta(seconds=parse_duration(text)) for text in (settings.lost_after, settings.warn_before)
        )
        patience = SiteTimeouts(lost_after, warn_before, settings.lost_machines)
        return Sweeper(self.store, place_on_site(place_machines), patience, self.now(), self._fencing.look)

    def _add_node_event(self, uuid: str, what: str, why: str) -> None:
        self.store.write(UnitOfWork.add_event, "node", uuid, what, why)


def _catalog(settings: SiteSettings, clock: Clock) -> TrustedCatalog:
    credential = "" if settings.credential is None else read_credential(settings.credential)
    return TrustedCatalog(
        settings.freshness,
        lambda: read_pin(settings.pinned_root),
        (settings.catalog, *settings.mirrors),
        clock,
        credential=credential,
    )


def _own(directory: Path, undo: ExitStack) -> None:
    """Make the directory, and hold its lock: one service per directory."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        undo.enter_context(files.locked(directory / "lock"))
    except files.LockHeld as exc:
        raise SiteUnavailable(
            f"{directory}: another site's service uses this directory ({exc.strerror}); stop that first"
        ) from exc
    except OSError as exc:
        raise SiteUnavailable(f"{directory}: cannot be created or used: {exc.strerror}") from exc
