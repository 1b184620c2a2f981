"""One site, put together: what it remembers, by which rules it decides, who may ask, and what it does in time.

DIR/site.db      what it remembers, unless the settings name another database
DIR/site.sock    the operator's socket (or a shorter place, see `places`)
DIR/tls.pem      the certificate and key that it shows, made by its own CA
DIR/broker.key   what guests' one-shot secrets are derived from
DIR/freshness    what is known to be current of its catalog
DIR/lock         held by the service while it runs
"""

import fcntl
import logging
import math
import os
import secrets
import threading
import time
import uuid as uuids
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from catalog.credentials import read_credential
from catalog.errors import CatalogError
from catalog.trusted import TrustedCatalog
from deployer.amounts import duration_text, parse_duration
from deployer.deploying import Defaults
from deployer.ec2.bursting import at_home
from deployer.errors import (
    DeployerError,
    JoinRefused,
    Misused,
    OverQuota,
    SiteUnavailable,
)
from deployer.policy_store import PolicyStore
from deployer.site import lifecycle, store_nodes, store_story
from deployer.site.access import Access
from deployer.site.admitting import Admitting
from deployer.site.allowances import Usage
from deployer.site.authenticating import make_authenticator
from deployer.site.authority import Authority, fingerprint
from deployer.site.bell import Bell
from deployer.site.brokering import Broker, broker_key
from deployer.site.cluster import Cluster, ClusterDocument
from deployer.site.cluster_keeping import ClusterKeeper
from deployer.site.database import SiteDatabase
from deployer.site.desired import DesiredState, NodeReport
from deployer.site.joining import Joining
from deployer.site.lifecycle import Verb
from deployer.site.placement import place
from deployer.site.principal import LOCAL, Principal
from deployer.site.published_clusters import published
from deployer.site.records import NodeState, SiteMachine, SiteNode
from deployer.site.request import DeploymentRequest
from deployer.site.rereading import FileInForce
from deployer.site.rights import Rights, quota
from deployer.site.rooms import Overcommit
from deployer.site.settings import SiteSettings
from deployer.site.store import SiteStore
from deployer.site.sweeping import Patience, Sweeper
from deployer.site.tls import ServerTls
from deployer.site.wire import Anchors, MachineChange, Ordered, SiteStatus, Trial
from deployer.site.withdrawing import Withdrawing

TICK = 1.0
"""Seconds between two looks at what has to be done in time."""

GATHER_SECONDS = 0.05
"""How long news are gathered: a thousand events in a row do not wake a thousand nodes a thousand times."""

LATE = 60.0
"""Seconds without such a look after which the service is not ready: something holds it up."""

FRESHNESS_SECONDS = 600.0
"""How often a site looks at what is current when nobody orders machines: often against a lifetime of a day."""

RENEW_SECONDS = 3600.0
"""How often it is looked whether the service's certificate is due."""

TIDY_SECONDS = 600.0
"""How often the context broker forgets guests that are long gone."""

END_SECONDS = 10.0

BROKER_KEY = "broker.key"

Clock = Callable[[], datetime]
Duty = Callable[[datetime], object]
"""Something that has to be done in time, called each second; twice does no harm."""

log = logging.getLogger("partita.site")


class Site:
    """A site that works: open one with `Site.open`, close it when done. Machines go on without it.

    Attributes:
        url: what it calls itself.
        store, access, joining, bell, tls, authority, anchors, clusters: see there.
        revisions: of each node's desired state, as of the last ring of the bell.
        duties: what is done each second beside the sweeping; whoever adds one does so before `start`.
    """

    def __init__(
        self, settings: SiteSettings, url: str, store: SiteStore, catalog: TrustedCatalog, clock: Clock
    ) -> None:
        self.settings, self.url, self.store, self.catalog, self._clock = settings, url, store, catalog, clock
        now = clock()
        self.authority = Authority.parse(store.secret("authority", lambda: Authority.make(now).joined()))
        self.tls = ServerTls(settings, self.authority, now)
        anchors = self.tls.anchors
        self.anchors = Anchors(certificates=anchors.decode("ascii"), fingerprint=fingerprint(anchors))
        self.joining = Joining(
            store,
            self.authority,
            self.anchors.fingerprint,
            url,
            timedelta(seconds=parse_duration(settings.node_certificates)),
            secrets.token_bytes,
        )
        self.policies = PolicyStore(settings.policy)
        self.rights = FileInForce(settings.rights, Rights.load, Rights())
        self.bell, self.broker_bell = Bell(), Bell()
        self.broker: Broker | None = None
        self.duties: list[Duty] = []
        self._authenticator = make_authenticator(settings, self.authority, url, clock, time.monotonic)
        self.access = Access(
            self._authenticator,
            self.rights.current,
            self._node_is_in,
            store.deployment,
            store.cluster,
        )
        self._withdrawing = Withdrawing(catalog, settings.directory, settings.blocked, self.policies.current, clock)
        self.admitting = Admitting(
            store,
            catalog,
            self.policies.current,
            lambda who, manifest: quota(self.rights.current(), who, manifest),
            place,
            Defaults(settings.network, settings.lifetime),
            clock,
            self._withdrawing.current,
        )
        self.clusters = ClusterKeeper(
            store,
            self.admitting.admit,
            parse_duration(settings.lifetime),
            lambda: self.broker is not None,
            self.now,
        )
        self.duties.append(self.clusters.look)
        self.revisions: Mapping[str, int] = {}
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._looked: float | None = None
        self._tidied = time.monotonic()
        self._closing = ExitStack()

    @classmethod
    def open(cls, settings: SiteSettings, url: str, clock: Clock = lambda: datetime.now(UTC)) -> Self:
        """Take over a site's directory, which is made if absent, and what it remembers.

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
            site = cls(settings, url, store, catalog, clock)
            site._closing = undo.pop_all()
        return site

    def invite(self, url: str) -> Broker:
        """Have a context broker, which guests reach under that URL; called before `start`."""
        directory = self.settings.directory
        self.broker = Broker(
            self.store,
            self.store.database,
            lambda uuid: Cluster.of(self.store.cluster(uuid)),
            self.authority,
            broker_key(directory / BROKER_KEY),
            url,
            (lambda: self.tls.shown) if url.startswith("https:") else lambda: "",
            self._clock,
            news=self.broker_bell.ring,
        )
        self.duties.append(lambda _now: self._tidy())
        return self.broker

    def desired(self, node: str) -> DesiredState:
        """What a node should have, with the way to the context broker for each machine."""
        state = self.store.desired(node)
        return state if self.broker is None else self.broker.introduce(node, state)

    def start(self) -> None:
        """Begin to do in time what has to be done."""
        for name, work in (("sweeper", self._sweep), ("ringer", self._ring), ("freshness", self._stay_fresh)):
            thread = threading.Thread(target=work, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Let go. Machines go on."""
        self.bell.end()
        self._ended.set()
        for thread in self._threads:
            thread.join(END_SECONDS)
        self._closing.close()

    def now(self) -> datetime:
        """The present, UTC, whole seconds."""
        return self.store.now()

    def status(self) -> SiteStatus:
        """How the site is doing."""
        digest, problems = None, []
        try:
            digest = self.policies.current().digest
        except DeployerError as exc:
            problems.append(str(exc))
        if self.policies.problem:
            problems.append(f"the policy is not in force as its files are: {self.policies.problem}")
        self.rights.current()
        if self.rights.problem:
            problems.append(f"the rights are not in force as their file is: {self.rights.problem}")
        problems += self._authenticator.problems()
        if fresh := self.catalog.freshness().problem:
            problems.append(fresh)
        nodes = self.store.nodes(contents=False)
        return SiteStatus(
            url=self.url,
            fingerprint=self.anchors.fingerprint,
            catalog=self.settings.catalog,
            policy_digest=digest,
            problems=tuple(problems),
            nodes=dict(Counter(one.state.value for one in nodes)),
            machines=self.store.counts(),
            events=self.store.last_event(),
        )

    def check(self) -> None:
        """Raise SiteUnavailable unless the database answers, and what has to be done in time is done."""
        self.store.last_event()
        if self._looked is None or time.monotonic() - self._looked > LATE:
            raise SiteUnavailable("what has to be done in time is not done; the service's log has the reason")

    def absorb(self, node: str, report: NodeReport) -> None:
        """Take in what a node reports."""
        self.store.absorb(node, report)

    def set_node(self, node: SiteNode, state: NodeState, who: Principal, reason: str) -> SiteNode:
        """Drain a node, use it again, or take it out; who did it stands in the story."""
        return self.store.set_node_state(node.uuid, state, _by(who, reason))

    def admit(self, request: DeploymentRequest, who: Principal, key: str | None) -> Ordered:
        """Order machines; errors as `Admitting.admit` has them."""
        return self.admitting.admit(request, who, key)

    def published_cluster(self, reference: str) -> tuple[str, ClusterDocument]:
        """The cluster document that a catalog has published under that name, if the policy takes it; errors as there."""
        policy = self.policies.current().policy
        return published(self.catalog, reference, policy, self._withdrawing.current(), self._clock())

    def try_out(self, request: DeploymentRequest, who: Principal) -> Trial:
        """What would come of an order; nothing is done."""
        return self.admitting.try_out(request, who)

    def act(self, machine: str, verb: Verb, who: Principal, reason: str) -> SiteMachine:
        """Let a verb be done to a machine; MachineConflict where that cannot be."""
        return self.store.apply(machine, lambda found: lifecycle.act(found, verb, _by(who, reason), self.now()))

    def end_deployment(self, deployment: str, who: Principal) -> tuple[SiteMachine, ...]:
        """End all machines of a deployment."""
        return self.store.apply_all(
            deployment, lambda found: lifecycle.act(found, Verb.DESTROY, _by(who, ""), self.now())
        )

    def change(self, machine: str, wanted: MachineChange, who: Principal) -> SiteMachine:
        """Change a machine's end, memory or cores.

        Raises:
            Misused: nothing, or two ends, are asked for.
            MachineConflict: its state, or what was granted, does not allow it.
            OverQuota: the new end is later than its owner's quotas, or the policy, allow.
        """
        if wanted.ends is not None and wanted.lifetime is not None:
            raise Misused("say when the machine should end either by `ends` or by `lifetime`")
        now = self.now()
        ends = now + timedelta(seconds=wanted.lifetime) if wanted.lifetime is not None else wanted.ends
        found = self.store.machine(machine)
        if ends is not None and ends > found.ends:
            self._demand_time(found, ends, now, who)
        if ends is not None:
            found = self.store.apply(machine, lambda one: lifecycle.move_end(one, ends, now, _by(who, "")))
        if wanted.memory is not None or wanted.cores is not None:
            found = self.store.apply(
                machine, lambda one: lifecycle.resize(one, wanted.memory, wanted.cores, _by(who, ""))
            )
        return found

    def _demand_time(self, machine: SiteMachine, ends: datetime, now: datetime, who: Principal) -> None:
        """The policy's lifetime bounds an extension as it bounds an order, and so do the quotas of who owns the machine."""
        if who.means == LOCAL.means:
            return
        seconds = math.ceil((ends - now).total_seconds())
        most = self.policies.current().policy.limits.lifetime
        if seconds > most:
            raise OverQuota(f"the site's policy lets machines run for {duration_text(most)} from now, and no longer")
        owner = self.access.owner(machine.deployment)
        allowed = quota(self.rights.current(), who if who.identity == owner.identity else owner)
        if said := allowed.check(Usage(), Usage(lifetime=seconds)):
            raise OverQuota(said)

    def _tidy(self) -> None:
        """Let the broker forget what is long over, now and then."""
        if self.broker is not None and time.monotonic() - self._tidied > TIDY_SECONDS:
            self._tidied = time.monotonic()
            self.broker.tidy()

    def _node_is_in(self, uuid: str) -> None:
        if self.store.node(uuid).state is NodeState.LEFT:
            raise JoinRefused("this node has left the site; it has to join again")

    def _sweep(self) -> None:
        """Each second: what has to be done in time."""
        settings = self.settings
        lost_after, warn_before = (
            timedelta(seconds=parse_duration(text)) for text in (settings.lost_after, settings.warn_before)
        )
        sweeper = Sweeper(
            self.store, at_home(place), Patience(lost_after, warn_before, settings.lost_machines), self.now()
        )
        renewed = time.monotonic()
        while True:
            now = self.now()
            try:
                sweeper.look(now)
                for duty in self.duties:
                    duty(now)
                if time.monotonic() - renewed > RENEW_SECONDS:
                    self.tls.renew(self._clock())
                    renewed = time.monotonic()
                self._looked = time.monotonic()
            except (DeployerError, CatalogError) as exc:  # the next second tries again; the service goes on
                log.warning("what has to be done in time failed: %s", exc)
            except Exception:
                log.exception("what has to be done in time failed; it goes on")
            if self._ended.wait(TICK):
                return

    def _ring(self) -> None:
        """Wake whoever waits for news. However many wait, one query tells what is new for which node."""
        last = 0
        while not self._ended.wait(GATHER_SECONDS):
            try:
                self.store.wait(last, None, 0, TICK)
                with self.store.database.reading() as connection:
                    event, revisions = store_story.last_event(connection), store_nodes.revisions(connection)
            except DeployerError as exc:
                log.warning("news of the site cannot be looked for: %s", exc)
                self._ended.wait(TICK)
                continue
            if event != last or revisions != self.revisions:
                last, self.revisions = event, revisions
                self.bell.ring()
                self.broker_bell.ring()

    def _stay_fresh(self) -> None:
        """Look at the catalog now and then, so that what is about to expire is said before it keeps machines from starting."""
        told: str | None = None
        while not self._ended.wait(FRESHNESS_SECONDS):
            with suppress(CatalogError):  # said by the status, and by whoever orders a machine
                self.catalog.refresh()
            problem = self.catalog.freshness().problem
            if problem is not None and problem != told:
                log.warning("%s", problem)
            told = problem


def _by(who: Principal, reason: str) -> str:
    """Why something was done, and by whom."""
    return f"{reason} (by {who.subject})" if reason else f"asked for by {who.subject}"


def _catalog(settings: SiteSettings, clock: Clock) -> TrustedCatalog:
    def root() -> bytes | None:
        try:
            return settings.pinned_root.read_bytes()
        except FileNotFoundError:
            return None

    credential = "" if settings.credential is None else read_credential(settings.credential)
    return TrustedCatalog(settings.freshness, root, (settings.catalog, *settings.mirrors), clock, credential=credential)


def _own(directory: Path, undo: ExitStack) -> None:
    """Make the directory, and hold its lock: one service each."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        undo.callback(os.close, held)
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise SiteUnavailable(f"{directory}: another site's service works there; end that first") from exc
    except OSError as exc:
        raise SiteUnavailable(f"{directory}: cannot be made or used: {exc.strerror}") from exc
