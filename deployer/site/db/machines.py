"""A site's deployments and machines, in the database. Queries only.

Each function takes the connection of an open transaction (`database`) and gives plain values.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, insert, or_, select, update

from deployer.errors import DeploymentNotFound, MachineNotFound
from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredMachine, DesiredState, IncomingMigration
from deployer.site.db.documents import DocumentTable, filter_conditions, prefix_condition
from deployer.site.db.nodes import get_node, migration_address
from deployer.site.db.tables import deployments, events, machines, nodes, orders
from deployer.site.model.principal import Principal
from deployer.site.model.quota import ResourceUsage
from deployer.site.model.records import Deployment, ListFilter, NodeState, SiteMachine
from deployer.site.scheduling.boot_estimate import BootHistory, BootRecord, ReadinessSample
from deployer.site.scheduling.placement import PlacementRequest

DEPLOYMENTS = DocumentTable(deployments, Deployment, DeploymentNotFound)
MACHINES = DocumentTable(machines, SiteMachine, MachineNotFound)

get_deployment = DEPLOYMENTS.get
"""The deployment of a UUID; DeploymentNotFound."""

get_machine = MACHINES.get
"""The machine of a UUID; MachineNotFound."""


SAME_COLUMNS = ("node", "hostname", "expires", "warned", "max_cores", "max_memory", "disk", "other_node")
"""Columns of machines that have the value of the document's attribute of that name."""


def machine_columns(machine: SiteMachine) -> dict[str, Any]:
    """What follows from a machine's document alone: its row but for what never changes."""
    return {name: getattr(machine, name) for name in SAME_COLUMNS} | {
        "state": machine.state.value,
        "desired": machine.desired.value,
        "counts_for_quota": not machine.state.final,
        "reserved": machine.node is not None and not machine.removed_from_node,
        "finished": machine.ending,
        "document": machine.model_dump_json(exclude_none=True),
    }


def add_deployment(
    connection: Connection, deployment: Deployment, ask: PlacementRequest, most: int | None, made: Sequence[SiteMachine]
) -> None:
    """A deployment and its machines. Of `ask`, what the machines do not contain is stored, to place one again later."""
    owner = deployment.owner
    whose = {"owner": owner.identity, "vo": owner.vo, "image_id": deployment.image_id, "cluster": deployment.cluster}
    connection.execute(
        insert(deployments).values(
            uuid=deployment.uuid,
            **whose,
            document=deployment.model_dump_json(exclude_none=True),
            placement_request=json.dumps(
                {"architecture": ask.architecture, "most": most, "addresses": dict(ask.addresses)}
            ),
        )
    )
    connection.execute(
        insert(machines),
        [{"uuid": one.uuid, "deployment": one.deployment} | whose | machine_columns(one) for one in made],
    )


def write_machines(connection: Connection, changed: Sequence[SiteMachine]) -> None:
    """Machines as they are now."""
    if changed:
        rows = [{"key": one.uuid} | machine_columns(one) for one in changed]
        names = [name for name in rows[0] if name != "key"]
        statement = update(machines).where(machines.c.uuid == bindparam("key"))
        connection.execute(statement.values({name: bindparam(name) for name in names}), rows)


def find_order(connection: Connection, owner: str, key: str) -> tuple[str, str] | None:
    """What a key has asked for: the digest of the request, and the deployment."""
    query = select(orders.c.digest, orders.c.deployment).where(orders.c.owner == owner, orders.c.key == key)
    row = connection.execute(query).first()
    return None if row is None else (row.digest, row.deployment)


def record_order(connection: Connection, owner: str, key: str, digest: str, deployment: str) -> None:
    """Remember it."""
    connection.execute(insert(orders).values(owner=owner, key=key, digest=digest, deployment=deployment))


def find_deployment(connection: Connection, text: str) -> Deployment:
    """The deployment that a UUID or the beginning of one means; DeploymentNotFound, or Misused if several."""
    return DEPLOYMENTS.find(connection, text, prefix_condition(deployments.c.uuid, text))


def write_deployment(connection: Connection, changed: Deployment) -> None:
    """A deployment as it is now."""
    document = changed.model_dump_json(exclude_none=True)
    connection.execute(update(deployments).where(deployments.c.uuid == changed.uuid).values(document=document))


def update_deployment_end(connection: Connection, uuid: str) -> None:
    """Let a deployment end with the last of its machines."""
    last = connection.execute(select(func.max(machines.c.expires)).where(machines.c.deployment == uuid)).scalar_one()
    write_deployment(connection, get_deployment(connection, uuid).model_copy(update={"expires": last}))


def placement_request_of(connection: Connection, machine: SiteMachine) -> tuple[PlacementRequest, int | None]:
    """What a machine takes, for when it has to be placed again, and how many machines the policy allowed on one node."""
    uuid = machine.deployment
    text = connection.execute(select(deployments.c.placement_request).where(deployments.c.uuid == uuid)).scalar_one()
    members = json.loads(text)
    most: int | None = members.pop("most")
    wishes = get_deployment(connection, uuid).request.placement_options
    return PlacementRequest(count=1, shape=machine.shape, disk=machine.disk, options=wishes, **members), most


def find_machine(connection: Connection, text: str, owner: Principal | None = None) -> SiteMachine:
    """The machine that a UUID, the beginning of one, or a host name means, of all or of one owner's.

    Of machines with the same host name, the one that lives is meant.

    Raises:
        MachineNotFound: none.
        Misused: several.
    """
    whose = () if owner is None else (machines.c.owner == owner.identity,)
    by_name = (machines.c.hostname == text, *whose)
    by_uuid = (*prefix_condition(machines.c.uuid, text), *whose)
    return MACHINES.find(connection, text, (*by_name, machines.c.counts_for_quota.is_(True)), by_uuid, by_name)


def list_deployments(
    connection: Connection, which: ListFilter = ListFilter(), limit: int = 100, after: str | None = None
) -> tuple[tuple[Deployment, ...], str | None]:
    """Up to `limit` deployments, last admitted first; and, if there are more, what to go on from.

    A filter's `states` and `node` mean: of which any machine is so.
    """
    conditions = filter_conditions(deployments, which, "owner", "vo", "image_id", "cluster")
    if of_machines := [*filter_conditions(machines, which, "node"), *_in_states(which)]:
        conditions.append(deployments.c.uuid.in_(select(machines.c.deployment).where(*of_machines)))
    if which.deployment is not None:
        conditions.append(deployments.c.uuid == which.deployment)
    return DEPLOYMENTS.page(connection, conditions, limit, after)


def list_machines(
    connection: Connection, which: ListFilter = ListFilter(), limit: int = 100, after: str | None = None
) -> tuple[tuple[SiteMachine, ...], str | None]:
    """Up to `limit` machines, last admitted first; and, if there are more, what to go on from."""
    conditions = filter_conditions(machines, which, "owner", "vo", "image_id", "cluster", "node", "deployment")
    return MACHINES.page(connection, [*conditions, *_in_states(which)], limit, after)


def _in_states(which: ListFilter) -> list[Any]:
    return [] if which.states is None else [machines.c.state.in_([state.value for state in which.states])]


def machines_of(connection: Connection, deployment: str) -> tuple[SiteMachine, ...]:
    """All machines of a deployment, by number."""
    return _machines(connection, machines.c.deployment == deployment)


def machines_on_node(connection: Connection, node: str) -> tuple[SiteMachine, ...]:
    """The machines that a node has, should have, or may have."""
    return _machines(connection, machines.c.reserved.is_(True), machines.c.node == node)


def desired_state(connection: Connection, node: str) -> DesiredState:
    """All machines that a node should have, and those that should end there; NodeNotFound.

    A machine of the site that is not among them should not be on the node at all.
    """
    known = get_node(connection, node, contents=False)
    return DesiredState(
        revision=known.revision,
        draining=known.draining,
        machines=_desired(connection, node),
        incoming=incoming_machines(connection, node) or None,
    )


def _desired(connection: Connection, node: str) -> tuple[DesiredMachine, ...]:
    found = [machine for machine in machines_on_node(connection, node) if not machine.withheld]
    requests = {
        uuid: get_deployment(connection, uuid).request
        for uuid in dict.fromkeys(machine.deployment for machine in found)
    }
    return tuple(machine.desired_machine(requests[machine.deployment]) for machine in found)


def migrating_machines(connection: Connection, node: str | None = None) -> tuple[SiteMachine, ...]:
    """The machines of which a node has, or may come to have, something although they are another's; of all nodes if None."""
    column = machines.c.other_node
    return _machines(connection, column.is_not(None) if node is None else column == node)


def incoming_machines(connection: Connection, node: str) -> tuple[IncomingMigration, ...]:
    """The machines that are to be brought to a node from others that give them."""
    found = []
    for machine in migrating_machines(connection, node):
        migration = machine.migrating
        if migration is None or migration.target != node:
            continue
        url = migration_address(connection, migration.source)
        if url:
            wanted = machine.desired_machine(get_deployment(connection, machine.deployment).request)
            bare = wanted.model_copy(update={"outgoing": None, "migrated": None})
            found.append(IncomingMigration(number=migration.number, source=migration.source, url=url, machine=bare))
    return tuple(found)


def due_machines(connection: Connection, now: datetime, warn: datetime) -> tuple[SiteMachine, ...]:
    """The machines that have expired, or whose owners have to be warned by now."""
    expires = machines.c.expires
    wanted = or_(expires <= now, and_(expires <= warn, machines.c.warned.is_(False)))
    # The outer bound is what the index answers; without it planners are tempted to read all machines in order.
    return _machines(connection, machines.c.finished.is_(False), expires <= max(now, warn), wanted)


def machines_on_lost_nodes(connection: Connection) -> tuple[SiteMachine, ...]:
    """The machines that have not ended and whose nodes are lost."""
    lost = select(nodes.c.uuid).where(nodes.c.state == NodeState.LOST.value)
    return _machines(
        connection, machines.c.node.in_(lost), machines.c.reserved.is_(True), machines.c.counts_for_quota.is_(True)
    )


def unplaced_machines(connection: Connection) -> tuple[SiteMachine, ...]:
    """The machines that wait for a node."""
    return _machines(connection, machines.c.node.is_(None), machines.c.finished.is_(False))


def usage_of(connection: Connection, *, owner: Principal | None = None, vo: str | None = None) -> ResourceUsage:
    """What is held by all machines of an owner, or of a VO, that have not ended."""
    table = machines.c
    total_cores = func.coalesce(func.sum(table.max_cores), 0)
    total_memory = func.coalesce(func.sum(table.max_memory), 0)
    query = select(func.count(), total_cores, total_memory).where(table.counts_for_quota.is_(True))
    if owner is not None:
        query = query.where(table.owner == owner.identity)
    if vo is not None:
        query = query.where(table.vo == vo)
    number, cores, memory = connection.execute(query).one()
    return ResourceUsage(int(number), int(cores), int(memory))


def count_machines(connection: Connection) -> dict[str, int]:
    """How many machines are in each state."""
    rows = connection.execute(select(machines.c.state, func.count()).group_by(machines.c.state))
    return {str(state): int(number) for state, number in rows}


def recent_boots(connection: Connection, limit: int = 200) -> tuple[BootRecord, ...]:
    """What it took the last machines to run, the last admitted first; those of clusters wait for others and do not count."""
    return _history(connection, machines.c.cluster.is_(None), limit).boots


def boot_history(connection: Connection, limit: int = 200) -> BootHistory:
    """What the last machines took to run, those of clusters from when they were released; and these to be ready."""
    members = _history(connection, machines.c.cluster.is_not(None), limit)
    return BootHistory((*recent_boots(connection, limit), *members.boots), members.settled)


def _history(connection: Connection, condition: Any, limit: int) -> BootHistory:
    """What it took the last machines of a kind to run, from their release if they had one; and then to be ready."""
    query = select(machines.c.document).where(condition, machines.c.node.is_not(None))
    found = connection.execute(query.order_by(machines.c.sequence.desc()).limit(limit)).scalars()
    last = {one.uuid: one for one in map(SiteMachine.model_validate_json, found)}
    whats = ("released", MachineState.RUNNING.value, "ready")
    rows = connection.execute(
        select(events.c.subject, events.c.what, func.min(events.c.at))
        .where(events.c.subject.in_(list(last)), events.c.what.in_(whats))
        .group_by(events.c.subject, events.c.what)
    )
    at = {(str(uuid), str(what)): instant for uuid, what, instant in rows}
    boots, settled = list[BootRecord](), list[ReadinessSample]()
    for uuid, one in last.items():
        ran = at.get((uuid, MachineState.RUNNING.value))
        if ran is None or one.node is None:
            continue
        began = at.get((uuid, "released"), one.created)
        boots.append(BootRecord(one.node, one.from_network, (ran - began).total_seconds()))
        if (ready := at.get((uuid, "ready"))) is not None and ready >= ran:
            settled.append(ReadinessSample(one.image_id, (ready - ran).total_seconds()))
    return BootHistory(tuple(boots), tuple(settled))


def _machines(connection: Connection, *conditions: Any) -> tuple[SiteMachine, ...]:
    """Machines in the order of their admission, which is made here: a database that had to might choose a slower plan for it."""
    query = select(machines.c.sequence, machines.c.document).where(*conditions)
    rows = sorted(connection.execute(query).all(), key=lambda row: int(row.sequence))
    return tuple(SiteMachine.model_validate_json(row.document) for row in rows)
