"""What a site remembers, as it is asked: each method is one reading transaction, and holds nobody up."""

from collections.abc import Collection

from deployer.protocol.deployment_request import DeploymentRequest
from deployer.protocol.desired_state import DesiredState
from deployer.site.db import audit as store_audit
from deployer.site.db import clusters as store_clusters
from deployer.site.db import events as store_story
from deployer.site.db import machines as store_machines
from deployer.site.db import nodes as store_nodes
from deployer.site.db.engine import SiteDatabase
from deployer.site.model.principal import Principal
from deployer.site.model.quota import Usage
from deployer.site.model.records import (
    AuditEntry,
    AuditFilter,
    Deployment,
    Filter,
    SiteCluster,
    SiteEvent,
    SiteMachine,
    SiteNode,
)
from deployer.site.scheduling.boot_estimate import Boot, Past
from deployer.site.scheduling.node_capacity import Overcommit
from deployer.site.scheduling.placement import Ask, NodeRoom, Place, Placed
from deployer.site.store import admission as store_admission
from deployer.site.store.change_notifier import Newest


class Reading:
    """The asking half of a site's memory; `store.SiteStore` is the whole. Safe to use from many threads.

    Args:
        database: open; the store does not close it.
        overcommit: how much of nodes may be promised.
    """

    def __init__(self, database: SiteDatabase, overcommit: Overcommit = Overcommit()) -> None:
        self.database, self._overcommit = database, overcommit

    # Nodes

    def node(self, uuid: str, *, contents: bool = True) -> SiteNode:
        """A node by its UUID; `contents` off leaves out what it caches. NodeNotFound."""
        with self.database.reading() as connection:
            return store_nodes.node(connection, uuid, contents=contents)

    def nodes(self, *, contents: bool = True) -> tuple[SiteNode, ...]:
        """All nodes by name, also those that have left; `contents` off leaves out what they cache."""
        with self.database.reading() as connection:
            return store_nodes.list_nodes(connection, contents=contents)

    def watched(self) -> tuple[SiteNode, ...]:
        """The nodes that have not left, by name, without what they cache."""
        with self.database.reading() as connection:
            return store_nodes.watched(connection)

    def find_node(self, text: str) -> SiteNode:
        """The node that a name, a UUID or the beginning of one means; NodeNotFound, or Misused if several."""
        with self.database.reading() as connection:
            return store_nodes.node(connection, store_nodes.find_node(connection, text))

    # Deployments and machines

    def ordered(
        self, owner: Principal, key: str, request: DeploymentRequest, cluster: str | None = None, role: str = ""
    ) -> tuple[Deployment, tuple[SiteMachine, ...]] | None:
        """What an owner was given for a key before, or None; Conflict if the key asked for something else."""
        with self.database.reading() as connection:
            return store_admission.ordered(connection, owner, key, request, cluster, role)

    def try_place(self, ask: Ask, place: Place, most: int | None = None) -> Placed:
        """Where machines would run now; nothing is kept. NoRoom as `place` says."""
        with self.database.reading() as connection:
            return store_admission.placed(connection, self._overcommit, ask, place, most)

    def rooms(self, addresses: Collection[str]) -> list[NodeRoom]:
        """All nodes as placement sees them now, with which of these contents they hold."""
        with self.database.reading() as connection:
            return store_nodes.rooms(connection, addresses, self._overcommit)

    def usage(self, *, owner: Principal | None = None, vo: str | None = None) -> Usage:
        """What an owner, or all of a VO, have now: all machines that have not ended."""
        with self.database.reading() as connection:
            return store_machines.usage(connection, owner=owner.identity if owner else None, vo=vo)

    def deployment(self, uuid: str) -> Deployment:
        """A deployment by its UUID; DeploymentNotFound."""
        with self.database.reading() as connection:
            return store_machines.deployment(connection, uuid)

    def find_deployment(self, text: str) -> Deployment:
        """The deployment that a UUID, or the beginning of one, means; DeploymentNotFound, or Misused if several."""
        with self.database.reading() as connection:
            return store_machines.deployment(connection, store_machines.find_deployment(connection, text))

    def deployments(
        self, which: Filter = Filter(), limit: int = 100, after: str | None = None
    ) -> tuple[tuple[Deployment, ...], str | None]:
        """A page of deployments, last admitted first, and what the next one comes after (None: there is no more).

        A filter's `states` and `node` mean: of which any machine is so.
        """
        with self.database.reading() as connection:
            return store_machines.list_deployments(connection, which, limit, after)

    def machines(
        self, which: Filter = Filter(), limit: int = 100, after: str | None = None
    ) -> tuple[tuple[SiteMachine, ...], str | None]:
        """A page of machines, last admitted first, and what the next one comes after (None: there is no more)."""
        with self.database.reading() as connection:
            return store_machines.list_machines(connection, which, limit, after)

    def machines_of(self, deployment: str) -> tuple[SiteMachine, ...]:
        """All machines of a deployment, by number."""
        with self.database.reading() as connection:
            return store_machines.machines_of(connection, deployment)

    def machine(self, uuid: str) -> SiteMachine:
        """A machine by its UUID; MachineNotFound."""
        with self.database.reading() as connection:
            return store_machines.machine(connection, uuid)

    def find_machine(self, text: str, owner: Principal | None = None) -> SiteMachine:
        """The machine that a UUID, the beginning of one, or a host name means, of all or of one owner's.

        Raises:
            MachineNotFound: none.
            Misused: several.
        """
        with self.database.reading() as connection:
            found = store_machines.find_machine(connection, text, owner.identity if owner else None)
            return store_machines.machine(connection, found)

    def counts(self) -> dict[str, int]:
        """How many machines are in each state."""
        with self.database.reading() as connection:
            return store_machines.counts(connection)

    # Agents

    def desired(self, node_uuid: str) -> DesiredState:
        """All machines that a node should have, and those that should end there; NodeNotFound.

        A machine of the site that is not among them should not be on the node at all.
        """
        with self.database.reading() as connection:
            node = store_nodes.node(connection, node_uuid, contents=False)
            machines = store_machines.desired(connection, node_uuid)
            incoming = store_machines.incoming(connection, node_uuid) or None
            return DesiredState(revision=node.revision, draining=node.draining, machines=machines, incoming=incoming)

    def revision(self, node_uuid: str) -> int:
        """The revision of a node's desired state; NodeNotFound."""
        with self.database.reading() as connection:
            return store_nodes.revision(connection, node_uuid)

    # The story

    def events(
        self,
        after: int = 0,
        limit: int = 1000,
        deployment: str | None = None,
        *,
        owner: str | None = None,
        vo: str | None = None,
        subject: str | None = None,
    ) -> tuple[SiteEvent, ...]:
        """Up to `limit` events after a number, in order: of one deployment, owner (identity), VO or subject if given."""
        with self.database.reading() as connection:
            return store_story.list_events(connection, after, limit, deployment, owner, vo, subject)

    def audit(
        self, wanted: AuditFilter, limit: int = 100, before: int | None = None
    ) -> tuple[tuple[AuditEntry, ...], int | None]:
        """A page of what was done, the last first: with numbers below `before`; and what the next page comes before."""
        with self.database.reading() as connection:
            return store_audit.audit(connection, wanted, limit, before)

    def boots(self, limit: int = 200) -> tuple[Boot, ...]:
        """What it took the machines that were admitted last to run, of those that have; clusters' members wait for others."""
        with self.database.reading() as connection:
            return store_machines.boots(connection, limit)

    def past(self, limit: int = 200) -> Past:
        """What the machines that were admitted last took to run, those of clusters from when they were released; and these to be ready."""
        with self.database.reading() as connection:
            members, settled = store_machines.members_past(connection, limit)
            return Past((*store_machines.boots(connection, limit), *members), settled)

    def last_event(self) -> int:
        """The number of the newest event; 0 before the first."""
        with self.database.reading() as connection:
            return store_story.last_event(connection)

    def newest(self) -> Newest:
        """How far the story has come, and the revision of each node."""
        with self.database.reading() as connection:
            return Newest(store_story.last_event(connection), store_nodes.revisions(connection))

    # Clusters

    def cluster(self, uuid: str) -> SiteCluster:
        """A cluster by its UUID; ClusterNotFound."""
        with self.database.reading() as connection:
            return store_clusters.get(connection, uuid)

    def find_cluster(self, text: str, owner: Principal | None = None) -> SiteCluster:
        """The cluster that a UUID, the beginning of one, or an active one's name means; ClusterNotFound, Misused."""
        with self.database.reading() as connection:
            found = store_clusters.find(connection, text, owner.identity if owner else None)
            return store_clusters.get(connection, found)

    def clusters(
        self, which: Filter = Filter(), limit: int = 100, after: str | None = None, *, active: bool | None = None
    ) -> tuple[tuple[SiteCluster, ...], str | None]:
        """A page of clusters (by owner, VO, cluster), the last made first, and what the next one comes after."""
        with self.database.reading() as connection:
            return store_clusters.page(connection, which, limit, after, active=active)
