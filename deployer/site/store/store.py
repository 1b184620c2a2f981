"""What a site remembers, behind one class: each method is one transaction, and every commit wakes who waits for news.

Writers come one at a time (`database`). Whatever changes a machine writes its event and, where its node has to act, the
node's next revision, in the same transaction: no state without its story, and no order that nobody hears of.
"""

from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

from deployer.protocol.desired_state import NodeReport, Want
from deployer.site.db import clusters as store_clusters
from deployer.site.db import events as store_story
from deployer.site.db import machines as store_machines
from deployer.site.db import nodes as store_nodes
from deployer.site.db.engine import SiteDatabase
from deployer.site.lifecycle.report_rules import Change, LostPolicy
from deployer.site.model.current_actor import actor
from deployer.site.model.principal import Principal
from deployer.site.model.records import Deployment, NodeState, SiteCluster, SiteEvent, SiteMachine, SiteNode
from deployer.site.scheduling.node_capacity import Overcommit
from deployer.site.scheduling.placement import Place
from deployer.site.scheduling.proposal import Afford, Proposal
from deployer.site.store import admission as store_admission
from deployer.site.store import deadlines as store_time
from deployer.site.store import migration as store_moving
from deployer.site.store import reports as store_reports
from deployer.site.store.change_notifier import Newest, News
from deployer.site.store.queries import Reading
from deployer.site.store.unit_of_work import Changes, Work


class SiteStore(Reading):
    """A site's memory. Safe to use from many threads, and beside other processes on the same database.

    Args:
        database: open; the store does not close it.
        clock: the present, UTC.
        new_uuid: a fresh UUID's text.
        overcommit: how much of nodes may be promised.
    """

    def __init__(
        self,
        database: SiteDatabase,
        clock: Callable[[], datetime],
        new_uuid: Callable[[], str],
        overcommit: Overcommit = Overcommit(),
    ) -> None:
        super().__init__(database, overcommit)
        self._clock, self._new_uuid = clock, new_uuid
        self._news = News(self.newest)

    def now(self) -> datetime:
        """The present as records carry it: whole seconds."""
        return self._clock().replace(microsecond=0)

    # Nodes

    def add_node(self, name: str, labels: Mapping[str, str], kind: str = "libvirt") -> SiteNode:
        """A new node, which has not reported yet; Conflict if there is one of that name that has not left."""
        with self._writing() as work:
            uuid = self._new_uuid()
            store_nodes.add_node(work.connection, uuid, name, labels, kind, work.now)
            work.tell("node", uuid, "joined", f"{name} joined the site")
            return store_nodes.node(work.connection, uuid)

    def set_node_state(self, uuid: str, state: NodeState, reason: str) -> SiteNode:
        """Drain a node, let it work again, say that it is lost, or remove it.

        A node that is lost stays so until it reports; draining and its end are remembered meanwhile. The machines of a
        node that leaves are over. What was said already changes nothing and is not told again.

        Raises:
            NodeNotFound: there is none.
            JoinRefused: it has left.
        """
        with self._writing() as work:
            node = store_nodes.node(work.connection, uuid, contents=False)
            if node.state is not state:
                store_reports.set_state(work, node, state, reason)
        return self.node(uuid)

    def new_join_token(self, digest: str, expires: datetime, name: str = "") -> None:
        """Remember a join token by the SHA-256 of its text, for a node that will have that name (or may choose)."""
        with self._writing() as work:
            store_story.add_token(work.connection, digest, name, expires)

    def redeem_join_token(self, digest: str, now: datetime) -> str:
        """Use a join token up, once and for all; returns the name that it was made for. JoinRefused if it is not good."""
        with self._writing() as work:
            return store_story.use_token(work.connection, digest, now)

    # Deployments and machines

    def admit(
        self, owner: Principal, key: str | None, proposal: Proposal, place: Place
    ) -> tuple[Deployment, tuple[SiteMachine, ...], bool]:
        """Admit a request: idempotency, quotas, room, machines with their nodes and the story, in one transaction.

        Args:
            owner: whose it is.
            key: the same key, owner and request give the same answer again, whatever has changed since.
            proposal: what the policy accepted.
            place: chooses the nodes.

        Returns:
            The deployment, its machines, and whether they are new.

        Raises:
            Conflict: the key asked for something else.
            OverQuota: see `Proposal.limit`.
            NoRoom: as `place` says.
        """
        with self._writing() as work:
            done = store_admission.admit(
                work.connection, work.now, self._new_uuid, self._overcommit, owner, key, proposal, place
            )
            deployment, machines, new = done
            if new:
                work.tell("deployment", deployment.uuid, "admitted", proposal.title, deployment.uuid)
                work.made(machines)
            return done

    def change_machine(
        self, uuid: str, change: Callable[[SiteMachine], SiteMachine], what: str, reason: str
    ) -> SiteMachine:
        """Change a machine and tell of it; its node hears of what concerns it.

        Args:
            uuid: which; MachineNotFound.
            change: from what it is to what it becomes; whatever it raises leaves all as it was. One that changes
                nothing is not told of.
            what, reason: of the event; an empty `what` is no event.
        """
        told = ((what, reason),) if what else ()
        with self._writing() as work:
            before = store_machines.machine(work.connection, uuid)
            work.change([before], lambda machine: Change(change(machine), told))
            return store_machines.machine(work.connection, uuid)

    def apply(self, uuid: str, change: Changes, afford: Afford | None = None) -> SiteMachine:
        """Change a machine by a rule that says itself what there is to tell (`lifecycle`), as `change_machine` does.

        Args:
            uuid, change: as there.
            afford: raises where a machine at EC2, as it becomes, costs too much; all is left as it was then.
        """
        with self._writing() as work:
            before = store_machines.machine(work.connection, uuid)
            work.change([before], change)
            after = store_machines.machine(work.connection, uuid)
            if afford is not None and after.node is not None and after.promise is not None:
                afford(after, store_nodes.promised(work.connection, after.node))
            return after

    def apply_all(self, deployment: str, change: Changes) -> tuple[SiteMachine, ...]:
        """The same for all machines of a deployment, all or none of them; returns them by number."""
        with self._writing() as work:
            work.change(store_machines.machines_of(work.connection, deployment), change)
            return store_machines.machines_of(work.connection, deployment)

    def move(self, uuid: str, to: str, then: Want, reason: str, place: Place) -> SiteMachine:
        """Let a machine that rests go to another node; it stays where it is until that one has all of it.

        Args:
            uuid: which; MachineNotFound.
            to: the node's UUID; empty for whichever `place` chooses.
            then: how it should be there.
            reason: who wants it.
            place: chooses the node.

        Raises:
            MachineConflict, NoRoom: see `store_moving.begin`.
        """
        with self._writing() as work:
            before = store_machines.machine(work.connection, uuid)
            change = store_moving.begin(work, self._overcommit, place, before, to, then, reason)
            work.change([before], lambda _: change)
            return store_machines.machine(work.connection, uuid)

    def look_at_moves(self) -> int:
        """Give up the moves from and to nodes that are lost; returns how many changes that made."""
        with self.database.reading() as connection:
            if not store_moving.lapsed(connection):
                return 0
        with self._writing() as work:
            store_moving.give_up(work)
        return len(work.events)

    def change_deployment(self, uuid: str, change: Callable[[Deployment], Deployment]) -> Deployment:
        """Change a deployment's record (its end, say); nothing is told. DeploymentNotFound."""
        with self._writing() as work:
            changed = change(store_machines.deployment(work.connection, uuid))
            store_machines.write_deployment(work.connection, changed)
            return changed

    # Agents

    def absorb(self, node_uuid: str, report: NodeReport) -> tuple[SiteEvent, ...]:
        """Take in what a node reports; returns the events that came of it.

        A report in which nothing is new writes that it came, and nothing else. One that is older than what was heard
        already (an answer that was lost, and sent again) says nothing of machines.

        Raises:
            NodeNotFound: there is no such node.
            JoinRefused: the node has left the site.
        """
        with self._writing() as work:
            store_reports.absorb(work, node_uuid, report)
        return tuple(work.events)

    # Time

    def look(
        self,
        warn_until: datetime,
        lost_before: datetime,
        policy: LostPolicy,
        now: datetime | None = None,
        fenced: Container[str] | None = None,
    ) -> int:
        """Do what time demands: expiry, warnings, nodes that are silent for too long; returns how many changes it made.

        Args:
            warn_until: owners of machines that end by then are told.
            lost_before: nodes that have not reported since are lost.
            policy: what becomes of their machines.
            now: machines that end by then are over; the present if not given.
            fenced: UUIDs of the nodes that surely run nothing any more, should they be lost; None: all of them.

        Looks in a reading transaction first: while nothing is due, nothing is written and nobody is held up.
        """
        demands = store_time.Demands(now or self.now(), warn_until, lost_before, policy, fenced)
        with self.database.reading() as connection:
            if not store_time.is_due(connection, demands):
                return 0
        with self._writing() as work:
            store_time.meet(work, demands)
        return len(work.events)

    def place_waiting(self, place: Place) -> int:
        """Find nodes for machines that have none; returns how many found one. The others say, once, that they wait.

        Looks in a reading transaction first: as long as nothing fits, nothing is written.
        """
        with self.database.reading() as connection:
            fitting = store_time.fitting(connection, self._overcommit, place)
        if fitting is None:
            return 0
        with self._writing() as work:
            return store_time.place_waiting(work, self._overcommit, place, fitting)

    # The story

    def append(self, kind: str, subject: str, what: str, reason: str, deployment: str | None = None) -> SiteEvent:
        """Tell of something that happened elsewhere."""
        with self._writing() as work:
            work.tell(kind, subject, what, reason, deployment)
        return work.events[0]

    def wait(self, after_event: int | None, node: str | None, after_revision: int, timeout: float) -> bool:
        """Until there is an event after that one, or the node's revision is another, or the time (seconds) is over.

        Returns whether there is news. Commits of this process wake at once, those of others within a second.
        """
        return self._news.wait(after_event, node, after_revision, timeout)

    def secret(self, name: str, make: Callable[[], bytes]) -> bytes:
        """One of the site's own secrets, made the first time and the same ever after."""
        with self._writing() as work:
            return store_story.secret(work.connection, name, make)

    # Clusters

    def add_cluster(self, owner: Principal, name: str, document: str, state: str = "") -> SiteCluster:
        """A new cluster; what the texts say is the caller's own."""
        with self._writing() as work:
            cluster = SiteCluster(
                uuid=self._new_uuid(), owner=owner, name=name, document=document, state=state, created=work.now
            )
            store_clusters.add(work.connection, cluster)
            work.tell("cluster", cluster.uuid, "admitted", name)
            return cluster

    def change_cluster(
        self, uuid: str, change: Callable[[SiteCluster], SiteCluster], what: str = "", reason: str = ""
    ) -> SiteCluster:
        """Change a cluster, and tell of it if `what` says something; ClusterNotFound. No change is not told of."""
        with self._writing() as work:
            before = store_clusters.get(work.connection, uuid)
            after = change(before)
            if after != before:
                store_clusters.write(work.connection, after)
                if what:
                    work.tell("cluster", uuid, what, reason)
            return after

    # Within

    @contextmanager
    def _writing(self) -> Iterator[Work]:
        """A writing transaction; what it has to tell is told when it is committed."""
        with self.database.writing() as connection:
            work = Work(connection, self.now(), by=actor())
            yield work
            revisions = work.finish()
        if work.events or revisions:
            self._news.told(Newest(work.events[-1].number if work.events else 0, revisions))
