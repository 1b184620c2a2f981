"""The use case: clusters are admitted, checked each second, scaled, repaired and ended.

`planner` decides what is to be done. Here it is carried out on the site's store: first the plan's state is
written down, then its steps are taken. Every step may be taken twice, so a service that is killed at any instant, or a
second one beside it, does no harm.

Admission reserves the capacity for all members (or each role's quorum) before any of them starts: they are held, and their nodes
know of them when those that they require are there. So a cluster that is accepted comes up whole as far as capacity goes,
and one that is refused leaves nothing.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from catalog.errors import CatalogError, Conflict, Misused
from deployer.errors import ClusterNotFound, DeployerError, MachineConflict, MachineNotFound
from deployer.protocol.deployment_request import DeploymentRequest
from deployer.site.clusters import planner as clustering
from deployer.site.clusters.planner import MemberBatch, MemberStep, OrderMembers, batch_steps
from deployer.site.db.clusters import active_clusters, find_cluster, get_cluster
from deployer.site.db.events import last_event
from deployer.site.db.machines import list_machines
from deployer.site.lifecycle.verb_rules import Verb
from deployer.site.model.cluster import Cluster, ClusterDocument, ClusterPhase, ClusterState
from deployer.site.model.principal import Principal
from deployer.site.model.records import ListFilter, MachineTransition, SiteMachine
from deployer.site.scheduling.proposal import ClusterMembership
from deployer.site.store.admission import AdmittedDeployment
from deployer.site.store.changes import add_cluster, change_cluster, change_machine, change_machines
from deployer.site.store.store import SiteStore
from signer.errors import PartitaError, SignerError
from signer.runtime.paging import walk_pages
from stager.errors import StagerError

RETRY = timedelta(seconds=30)
"""How long after members could not be had they are asked for again: capacity comes with the end of other machines."""

AT_LEAST_EVERY = timedelta(seconds=5)
"""How often clusters are checked when nothing happened: what only time changes can wait that long."""

PAGE = 1000
"""Machines or clusters that are read at a time."""

ADMISSION_ERRORS = (DeployerError, CatalogError, SignerError, StagerError)
"""What may keep members from being had."""

log = logging.getLogger("partita.site")


Admit = Callable[[DeploymentRequest, Principal, str | None, ClusterMembership], AdmittedDeployment]
"""`AdmissionService.admit`: by image, policy, rights, quotas and capacity; whatever refuses a request leaves nothing."""


@dataclass(eq=False)
class ClusterController:
    """The clusters of a site. Safe to use from several threads.

    Attributes:
        store: what the site remembers.
        admit: see there.
        lifetime: seconds, of a cluster whose document sets none.
        broker: whether the site has a context broker now, through which members can report that they are ready.
        now: the present, UTC, whole seconds.
    """

    store: SiteStore
    admit: Admit
    lifetime: int
    broker: Callable[[], bool]
    now: Callable[[], datetime]
    _creating: threading.Lock = field(default_factory=threading.Lock, init=False)
    _looked: datetime | None = field(default=None, init=False)
    _seen: int = field(default=-1, init=False)

    def get(self, uuid: str) -> Cluster:
        """A cluster by its UUID; ClusterNotFound."""
        return self.store.read(get_cluster, uuid)

    def members(self, uuid: str) -> tuple[SiteMachine, ...]:
        """All machines that a cluster ever had and the site still remembers, the oldest first."""
        which = ListFilter(cluster=uuid)
        found = list(walk_pages(lambda after: self.store.read(list_machines, which, PAGE, after)))
        return tuple(reversed(found))

    def create(
        self, document: ClusterDocument, who: Principal, key: str = "", reference: str = ""
    ) -> tuple[Cluster, bool]:
        """Admit a cluster and let its first members start.

        Args:
            document: of the cluster.
            who: as whom all its members are admitted, now and later.
            key: who asks again with the same key and document gets the same cluster.
            reference: what was published, if it was.

        Returns:
            The cluster, and whether it is new.

        Raises:
            Misused: a role waits for reports that its members cannot make here.
            Conflict: there is another active cluster of that name.
            Errors of `Admit`: nothing is left then but the events.
        """
        self.check(document)
        with self._creating:
            known = self._known(document, who, key)
            if known is not None:
                return known, False
            cluster = self._add(document, who, key, reference)
        images = dict[str, str]()
        try:
            for role in document.roles:
                images[role] = self._take_room(cluster, role)
        except BaseException as exc:
            why = str(exc) if isinstance(exc, Exception) else "the request was broken off"
            self._undo(cluster, why)
            raise
        started = {"phase": ClusterPhase.STARTING, "changed": self.now(), "images": images}
        return self._changed(cluster.uuid, lambda one: one.state.model_copy(update=started)), True

    def clash(self, document: ClusterDocument, who: Principal) -> str:
        """Why a requester cannot have another cluster of that name now; empty if they can."""
        try:
            self._known(document, who, "")
        except Conflict as exc:
            return str(exc)
        return ""

    def look(self, now: datetime) -> int:
        """Check all clusters; returns how many steps were taken. Called each second."""
        newest = self.store.read(last_event)
        if newest == self._seen and self._looked is not None and now - self._looked < AT_LEAST_EVERY:
            return 0
        taken = 0
        for uuid in self.store.read(active_clusters):
            try:
                taken += self._look_at(uuid)
            except ADMISSION_ERRORS as exc:  # the other clusters are checked all the same
                log.warning("cluster %s: %s", uuid, exc)
        self._seen, self._looked = (newest if taken == 0 else -1), now
        return taken

    def scale(self, uuid: str, role: str, count: int, reason: str) -> Cluster:
        """Have a role's members so many.

        Raises:
            ClusterNotFound, MachineConflict, Misused: see `clustering.scale_role`.
        """
        return self._changed(
            uuid, lambda one: clustering.scale_role(one, role, count), "scaled", f"{role} to {count}; {reason}"
        )

    def replace(self, uuid: str, member: str, reason: str) -> Cluster:
        """End a member, have another one in its place, and forget how often it failed.

        Args:
            uuid: of the cluster.
            member: its host name, its machine's UUID, or the beginning of that.
            reason: why, and by whom.

        Raises:
            ClusterNotFound, MachineConflict: see `clustering.forget_failures`.
            MachineNotFound: the cluster has no such member.
            Misused: it has several.
        """
        machine = self._member(uuid, member)
        self._change(
            uuid,
            lambda one: clustering.forget_failures(one, self.members(uuid), machine),
            "replacing",
            f"{machine.hostname}; {reason}",
        )
        end = MemberStep(machine.uuid, Verb.DESTROY, f"replaced: {reason}")
        self._apply(machine.uuid, lambda one: end.rule(one, self.now()))
        self._look_at(uuid)
        return self.get(uuid)

    def end(self, uuid: str, reason: str) -> Cluster:
        """End all of a cluster; one that has ended stays so. ClusterNotFound."""
        return self._changed(uuid, lambda one: clustering.end_cluster(one, self.now(), reason), "ending", reason)

    def check(self, document: ClusterDocument) -> None:
        """Raise Misused if a role waits for reports that its members cannot make here."""
        for name, role in document.roles.items():
            if role.ready == "reported" and not self.broker():
                raise Misused(
                    f"the role {name} is ready when its members report so, and this site has no context broker for "
                    'them; write ready = "running" for it'
                )

    def _known(self, document: ClusterDocument, who: Principal, key: str) -> Cluster | None:
        """The cluster that was asked for already; Conflict where another one has the name."""
        try:
            other = self.store.read(find_cluster, document.name, who)
        except (ClusterNotFound, Misused):  # of that name there is at most one; several UUIDs may begin like it
            return None
        if key and other.state.key == key and other.document == document:
            return other
        if other.name != document.name:  # the name happens to be the beginning of another cluster's UUID
            return None
        raise Conflict(
            f"cluster {other.name} ({other.uuid[:8]}) is {other.state.phase.value}, and its members have the host names "
            "that this one's would; end it first, or choose another name"
        )

    def _add(self, document: ClusterDocument, who: Principal, key: str, reference: str) -> Cluster:
        now = self.now()
        state = ClusterState(
            phase=ClusterPhase.ADMITTING,
            changed=now,
            expires=now + timedelta(seconds=document.lifetime or self.lifetime),
            reference=reference,
            key=key,
            counts={name: role.count for name, role in document.roles.items()},
        )
        return self.store.write(add_cluster, who, document, state)

    def _take_room(self, cluster: Cluster, role: str) -> str:
        """Room for a role's members, or for its quorum: all of them or none. Returns the image that they run."""
        request = cluster.document.initial_request(role, cluster.remaining(role, self.now()))
        key = f"cluster:{cluster.uuid}:{role}:first"
        part = ClusterMembership(cluster.uuid, role, held=True)
        return self.admit(request, cluster.owner, key, part).deployment.image_id

    def _undo(self, cluster: Cluster, why: str) -> None:
        """Nothing has started: whatever was taken is given back at once."""
        failed = {"phase": ClusterPhase.FAILED, "changed": self.now(), "reason": why}
        with suppress(PartitaError):  # what is not undone now is undone by the next look
            self._changed(cluster.uuid, lambda one: one.state.model_copy(update=failed), ClusterPhase.FAILED.value, why)
            self._look_at(cluster.uuid)  # and it is over

    def _look_at(self, uuid: str) -> int:
        """Plan, write down, carry out; returns how many steps were taken."""
        now = self.now()
        members = self.members(uuid)
        cluster = self.get(uuid)
        plans = [clustering.plan_cluster(cluster, members, now)]
        state = plans[0].state
        if state != cluster.state:

            def plan_again(one: Cluster) -> ClusterState:
                """Inside the transaction that writes the state: the cluster may have been scaled meanwhile."""
                plans.append(clustering.plan_cluster(one, members, now))
                return plans[-1].state

            self._change(
                uuid, plan_again, state.phase.value if state.phase is not cluster.state.phase else "", state.reason
            )
        deployments = {one.uuid: one.deployment for one in members}
        for step in batch_steps(plans[-1].steps, deployments):
            self._take(uuid, step, now)
        return len(plans[-1].steps)

    def _changed(
        self, uuid: str, change: Callable[[Cluster], ClusterState], what: str = "", reason: str = ""
    ) -> Cluster:
        """Change a cluster and take the next steps; returns what it has become."""
        self._change(uuid, change, what, reason)
        self._look_at(uuid)
        return self.get(uuid)

    def _change(self, uuid: str, change: Callable[[Cluster], ClusterState], what: str = "", reason: str = "") -> None:
        self.store.write(change_cluster, uuid, change, what, reason)

    def _take(self, uuid: str, step: OrderMembers | MemberStep | MemberBatch, now: datetime) -> None:
        if isinstance(step, OrderMembers):
            self._order(self.get(uuid), step, now)
        elif isinstance(step, MemberStep):
            self._apply(step.machine, lambda one: step.rule(one, now))
        else:
            self.store.write(change_machines, step.deployment, lambda one: step.rule(one, now))

    def _order(self, cluster: Cluster, order: OrderMembers, now: datetime) -> None:
        """Order members that are not there; where that fails, record the reason and try again later."""
        role = cluster.document.roles[order.role]
        hostnames = tuple(cluster.document.hostname(order.role, slot) for slot in order.slots)
        request = role.request(
            cluster.state.images.get(order.role, role.image),
            cluster.remaining(order.role, now),
            hostnames,
            whole=order.whole,
        )
        try:
            self.admit(request, cluster.owner, order.key, ClusterMembership(cluster.uuid, order.role))
        except Conflict:
            return  # another service ordered the same members at the same moment; the next look sees them
        except ADMISSION_ERRORS as exc:
            why = str(exc)
            before = cluster.state.waits.get(order.role)
            self._change(
                cluster.uuid,
                lambda one: clustering.record_refusal(one, order.role, why, now + RETRY),
                "" if before is not None and before.why == why else "waiting",
                f"{', '.join(hostnames[:3])}{' and more' if len(hostnames) > 3 else ''}: {why}",
            )

    def _apply(self, machine: str, rule: Callable[[SiteMachine], MachineTransition | None]) -> None:
        """A machine that meanwhile is such that a step cannot be taken is seen so at the next look."""
        with suppress(MachineConflict, MachineNotFound):
            self.store.write(change_machine, machine, rule)

    def _member(self, uuid: str, text: str) -> SiteMachine:
        found = [one for one in self.members(uuid) if text in {one.hostname, one.uuid} or _begins(one.uuid, text)]
        if not found:
            raise MachineNotFound(f"cluster {self.get(uuid).name} has no member {text[:80]!r}")
        if len({one.hostname for one in found}) > 1:
            raise Misused(f"{text[:80]!r} means several members; write a host name, or more of the UUID")
        return next((one for one in found if not one.state.final), found[-1])


def _begins(uuid: str, text: str) -> bool:
    return len(text) >= 4 and uuid.startswith(text)
