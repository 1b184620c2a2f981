"""What changes a site's nodes, machines and clusters, within a writing transaction: `SiteStore.write` runs these."""

from collections.abc import Callable, Mapping
from datetime import datetime

from deployer.errors import JoinRefused
from deployer.site.db import clusters as store_clusters
from deployer.site.db import events as store_events
from deployer.site.db import machines as store_machines
from deployer.site.db import nodes as store_nodes
from deployer.site.lifecycle import report_rules as absorbing
from deployer.site.model.cluster import Cluster, ClusterDocument, ClusterState
from deployer.site.model.principal import Principal
from deployer.site.model.records import NodeState, SiteMachine, SiteNode
from deployer.site.scheduling.proposal import CostCheck
from deployer.site.store.unit_of_work import TransitionRule, UnitOfWork


def add_node(work: UnitOfWork, name: str, labels: Mapping[str, str], kind: str = "libvirt") -> SiteNode:
    """A new node, which has not reported yet; Conflict if there is one of that name that has not left."""
    uuid = work.new_uuid()
    store_nodes.insert_node(work.connection, uuid, name, labels, kind, work.now)
    work.add_event("node", uuid, "joined", f"{name} joined the site")
    return store_nodes.get_node(work.connection, uuid)


def set_node_state(work: UnitOfWork, uuid: str, state: NodeState, reason: str) -> None:
    """Drain a node, use it again, declare it lost, or remove it.

    A node that is lost stays so until it reports; draining and its end are remembered meanwhile. The machines of a node
    that leaves are over. A repeated request changes nothing and has no event.

    Raises:
        NodeNotFound: the node is unknown.
        JoinRefused: it has left.
    """
    node = store_nodes.get_node(work.connection, uuid, contents=False)
    if node.state is state:
        return
    demand_member(node)
    draining = state is NodeState.DRAINING or (node.draining and state is not NodeState.READY)
    lost = node.state is NodeState.LOST and state is not NodeState.LEFT
    store_nodes.write_node_state(work.connection, uuid, NodeState.LOST if lost else state, draining=draining)
    if draining is not node.draining:
        work.touched.add(uuid)
    work.add_event("node", uuid, state.value, reason)
    if state is NodeState.LEFT:
        here = store_machines.machines_on_node(work.connection, uuid)
        work.change(here, lambda machine: absorbing.apply_node_removal(machine, work.now))


def demand_member(node: SiteNode) -> None:
    """JoinRefused unless a node belongs to the site still."""
    if node.state is NodeState.LEFT:
        raise JoinRefused(f"the node {node.name} has left the site; it has to join again")


def change_machine(work: UnitOfWork, uuid: str, rule: TransitionRule, afford: CostCheck | None = None) -> SiteMachine:
    """Change a machine by a rule, with its events; its node gets what concerns it. Returns what it has become.

    Args:
        work: the transaction.
        uuid: which; MachineNotFound.
        rule: the machine that it becomes, and the events. Without a change there are no events.
        afford: raises where a machine at EC2, as it becomes, costs too much.
    """
    work.change([store_machines.get_machine(work.connection, uuid)], rule)
    after = store_machines.get_machine(work.connection, uuid)
    if afford is not None and after.node is not None and after.reserved_cost is not None:
        afford(after, store_nodes.list_reservations(work.connection, after.node))
    return after


def change_machines(work: UnitOfWork, deployment: str, rule: TransitionRule) -> tuple[SiteMachine, ...]:
    """The same for all machines of a deployment, or none; returns them by number."""
    work.change(store_machines.machines_of(work.connection, deployment), rule)
    return store_machines.machines_of(work.connection, deployment)


def new_join_token(work: UnitOfWork, digest: str, expires: datetime, name: str = "") -> None:
    """Remember a join token by the SHA-256 of its text, for a node that will have that name (or may choose)."""
    store_events.add_token(work.connection, digest, name, expires)


def redeem_join_token(work: UnitOfWork, digest: str, now: datetime) -> str:
    """Use a join token up, once and for all; returns the name that it was made for. JoinRefused if it is not good."""
    return store_events.use_token(work.connection, digest, now)


def secret(work: UnitOfWork, name: str, make: Callable[[], bytes]) -> bytes:
    """One of the site's own secrets, made the first time and the same ever after."""
    return store_events.get_or_make_secret(work.connection, name, make)


def add_cluster(work: UnitOfWork, owner: Principal, document: ClusterDocument, state: ClusterState) -> Cluster:
    """Add a cluster."""
    cluster = Cluster(
        uuid=work.new_uuid(), owner=owner, name=document.name, document=document, state=state, created=work.now
    )
    store_clusters.insert_cluster(work.connection, cluster)
    work.add_event("cluster", cluster.uuid, "admitted", cluster.name)
    return cluster


def change_cluster(
    work: UnitOfWork, uuid: str, change: Callable[[Cluster], ClusterState], what: str = "", reason: str = ""
) -> Cluster:
    """Change a cluster's state, and write an event if it changed and `what` is not empty; ClusterNotFound."""
    before = store_clusters.get_cluster(work.connection, uuid)
    state = change(before)
    if state == before.state:
        return before
    after = before.model_copy(update={"state": state, "active": not state.finished})
    store_clusters.write_cluster(work.connection, after)
    if what:
        work.add_event("cluster", uuid, what, reason)
    return after
