"""A site's deployments and machines, in the database. Queries only.

Each function takes the connection of an open transaction (`database`) and gives plain values.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, func, insert, or_, select, update

from catalog.errors import Misused
from deployer.errors import DeploymentNotFound, MachineNotFound
from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredMachine, DesiredState, DesiredStatus, IncomingMigration
from deployer.site.db.nodes import get_node, migration_address, prefix_condition
from deployer.site.db.tables import deployments, events, machines, nodes, orders
from deployer.site.model.principal import Principal
from deployer.site.model.quota import ResourceUsage
from deployer.site.model.records import Deployment, ListFilter, NodeState, SiteMachine
from deployer.site.scheduling.boot_estimate import BootHistory, BootRecord, ReadinessSample
from deployer.site.scheduling.placement import PlacementRequest

MAX_DIGITS = 9
"""Of a row's number: what PostgreSQL's integer takes."""


def machine_columns(machine: SiteMachine) -> dict[str, Any]:
    """What follows from a machine's document alone: its row but for what never changes."""
    return {
        "node": machine.node,
        "hostname": machine.hostname,
        "state": machine.state.value,
        "want": machine.want.value,
        "expires": machine.expires,
        "warned": machine.warned,
        "holds": not machine.state.final,
        "told": machine.node is not None and not machine.gone,
        "over": machine.want is DesiredStatus.ENDED or machine.state.final,
        "max_cores": machine.max_cores,
        "max_memory": machine.max_memory,
        "disk": machine.disk,
        "beside": machine.beside,
        "document": machine.model_dump_json(exclude_none=True),
    }


def add_deployment(
    connection: Connection, deployment: Deployment, ask: PlacementRequest, most: int | None, made: Sequence[SiteMachine]
) -> None:
    """A deployment and its machines. Of `ask` is kept what they do not say themselves, for when one has to be placed again."""
    owner = deployment.owner
    whose = {"owner": owner.identity, "vo": owner.vo, "image_id": deployment.image_id, "cluster": deployment.cluster}
    connection.execute(
        insert(deployments).values(
            uuid=deployment.uuid,
            **whose,
            document=deployment.model_dump_json(exclude_none=True),
            ask=json.dumps({"architecture": ask.architecture, "most": most, "addresses": dict(ask.addresses)}),
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


def get_deployment(connection: Connection, uuid: str) -> Deployment:
    """A deployment; DeploymentNotFound."""
    found = connection.execute(select(deployments.c.document).where(deployments.c.uuid == uuid)).scalar()
    if found is None:
        raise DeploymentNotFound(f"no such deployment at this site: {uuid[:80]!r}")
    return Deployment.model_validate_json(found)


def find_deployment(connection: Connection, text: str) -> Deployment:
    """The deployment that a UUID or the beginning of one means; DeploymentNotFound, or Misused if several."""
    query = select(deployments.c.uuid).where(*prefix_condition(deployments.c.uuid, text)).limit(2)
    uuids = list(connection.execute(query).scalars())
    if len(uuids) > 1:
        raise Misused(f"{text!r} means several deployments; write more of the UUID")
    if not uuids:
        raise DeploymentNotFound(f"no such deployment at this site: {text[:80]!r}")
    return get_deployment(connection, uuids[0])


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
    text = connection.execute(select(deployments.c.ask).where(deployments.c.uuid == uuid)).scalar_one()
    members = json.loads(text)
    most: int | None = members.pop("most")
    wishes = get_deployment(connection, uuid).request.wishes
    return PlacementRequest(count=1, shape=machine.shape, disk=machine.disk, wishes=wishes, **members), most


def get_machine(connection: Connection, uuid: str) -> SiteMachine:
    """A machine; MachineNotFound."""
    found = connection.execute(select(machines.c.document).where(machines.c.uuid == uuid)).scalar()
    if found is None:
        raise MachineNotFound(f"no such machine at this site: {uuid[:80]!r}")
    return SiteMachine.model_validate_json(found)


def find_machine(connection: Connection, text: str, owner: Principal | None = None) -> SiteMachine:
    """The machine that a UUID, the beginning of one, or a host name means, of all or of one owner's.

    Of machines with the same host name, the one that lives is meant.

    Raises:
        MachineNotFound: none.
        Misused: several.
    """
    whose = () if owner is None else (machines.c.owner == owner.identity,)
    by_name = select(machines.c.uuid).where(machines.c.hostname == text, *whose)
    for query in (
        by_name.where(machines.c.holds.is_(True)),
        select(machines.c.uuid).where(*prefix_condition(machines.c.uuid, text), *whose),
        by_name,
    ):
        uuids = list(connection.execute(query.limit(2)).scalars())
        if len(uuids) > 1:
            raise Misused(f"{text[:80]!r} means several machines; write a UUID, or more of one")
        if uuids:
            return get_machine(connection, uuids[0])
    raise MachineNotFound(f"no such machine at this site: {text[:80]!r}")


def list_deployments(
    connection: Connection, which: ListFilter = ListFilter(), limit: int = 100, after: str | None = None
) -> tuple[tuple[Deployment, ...], str | None]:
    """Up to `limit` deployments, last admitted first; and, if there are more, what to go on from.

    A filter's `states` and `node` mean: of which any machine is so.
    """
    query = _which(select(deployments.c.sequence, deployments.c.document), deployments, which)
    if which.states is not None or which.node is not None:
        inner = select(machines.c.deployment)
        if which.states is not None:
            inner = inner.where(machines.c.state.in_([state.value for state in which.states]))
        if which.node is not None:
            inner = inner.where(machines.c.node == which.node)
        query = query.where(deployments.c.uuid.in_(inner))
    if which.deployment is not None:
        query = query.where(deployments.c.uuid == which.deployment)
    found, more = _page(connection, query, deployments, limit, after)
    return tuple(Deployment.model_validate_json(document) for document in found), more


def list_machines(
    connection: Connection, which: ListFilter = ListFilter(), limit: int = 100, after: str | None = None
) -> tuple[tuple[SiteMachine, ...], str | None]:
    """Up to `limit` machines, last admitted first; and, if there are more, what to go on from."""
    query = _which(select(machines.c.sequence, machines.c.document), machines, which)
    if which.states is not None:
        query = query.where(machines.c.state.in_([state.value for state in which.states]))
    if which.node is not None:
        query = query.where(machines.c.node == which.node)
    if which.deployment is not None:
        query = query.where(machines.c.deployment == which.deployment)
    found, more = _page(connection, query, machines, limit, after)
    return tuple(SiteMachine.model_validate_json(document) for document in found), more


def _which(query: Select[Any], table: Any, which: ListFilter) -> Select[Any]:
    for name in ("owner", "vo", "image_id", "cluster"):
        if (value := getattr(which, name)) is not None:
            query = query.where(table.c[name] == value)
    return query


def _page(
    connection: Connection, query: Select[Any], table: Any, limit: int, after: str | None
) -> tuple[list[str], str | None]:
    if after is not None:
        query = query.where(table.c.sequence < parse_cursor(after))
    rows = connection.execute(query.order_by(table.c.sequence.desc()).limit(limit + 1)).all()
    shown = rows[:limit]
    return [row.document for row in shown], str(shown[-1].sequence) if len(rows) > limit and shown else None


def parse_cursor(after: str) -> int:
    """Where a list goes on, as an earlier page said; Misused if none did."""
    if not (after.isascii() and after.isdigit() and len(after) <= MAX_DIGITS):
        raise Misused(f"{after[:40]!r} is not a valid pagination token; use `next` from the previous page")
    return int(after)


def machines_of(connection: Connection, deployment: str) -> tuple[SiteMachine, ...]:
    """All machines of a deployment, by number."""
    return _machines(
        connection, select(machines.c.sequence, machines.c.document).where(machines.c.deployment == deployment)
    )


def machines_on_node(connection: Connection, node: str) -> tuple[SiteMachine, ...]:
    """The machines that a node has, should have, or may have."""
    query = select(machines.c.sequence, machines.c.document).where(machines.c.told.is_(True), machines.c.node == node)
    return _machines(connection, query)


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
    return tuple(machine.desired(requests[machine.deployment]) for machine in found)


def migrating_machines(connection: Connection, node: str | None = None) -> tuple[SiteMachine, ...]:
    """The machines of which a node has, or may come to have, something although they are another's; of all nodes if None."""
    column = machines.c.beside
    return _machines(
        connection,
        select(machines.c.sequence, machines.c.document).where(column.is_not(None) if node is None else column == node),
    )


def incoming_machines(connection: Connection, node: str) -> tuple[IncomingMigration, ...]:
    """The machines that are to be brought to a node from others that give them."""
    found = []
    for machine in migrating_machines(connection, node):
        move = machine.moving
        if move is None or move.target != node:
            continue
        url = migration_address(connection, move.source)
        if url:
            wanted = machine.desired(get_deployment(connection, machine.deployment).request)
            bare = wanted.model_copy(update={"giving": None, "moved": None})
            found.append(IncomingMigration(number=move.number, source=move.source, url=url, machine=bare))
    return tuple(found)


def due_machines(connection: Connection, now: datetime, warn: datetime) -> tuple[SiteMachine, ...]:
    """The machines whose time has come, or whose owners have to be told by now that it will."""
    expires = machines.c.expires
    wanted = or_(expires <= now, and_(expires <= warn, machines.c.warned.is_(False)))
    # The outer bound is what the index answers; without it planners are tempted to read all machines in order.
    query = select(machines.c.sequence, machines.c.document)
    return _machines(connection, query.where(machines.c.over.is_(False), expires <= max(now, warn), wanted))


def machines_on_lost_nodes(connection: Connection) -> tuple[SiteMachine, ...]:
    """The machines that have not ended and whose nodes are lost."""
    query = (
        select(machines.c.sequence, machines.c.document)
        .join(nodes, nodes.c.uuid == machines.c.node)
        .where(nodes.c.state == NodeState.LOST.value, machines.c.told.is_(True), machines.c.holds.is_(True))
    )
    return _machines(connection, query)


def unplaced_machines(connection: Connection) -> tuple[SiteMachine, ...]:
    """The machines that wait for a node."""
    query = select(machines.c.sequence, machines.c.document).where(
        machines.c.node.is_(None), machines.c.over.is_(False)
    )
    return _machines(connection, query)


def usage_of(connection: Connection, *, owner: Principal | None = None, vo: str | None = None) -> ResourceUsage:
    """What is held by all machines of an owner, or of a VO, that have not ended."""
    table = machines.c
    query = select(
        func.count(), func.coalesce(func.sum(table.max_cores), 0), func.coalesce(func.sum(table.max_memory), 0)
    )
    query = query.select_from(machines).where(table.holds.is_(True))
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
    query = select(machines.c.document).where(machines.c.cluster.is_(None), machines.c.node.is_not(None))
    found = connection.execute(query.order_by(machines.c.sequence.desc()).limit(limit)).scalars()
    last = {one.uuid: one for one in map(SiteMachine.model_validate_json, found)}
    ran = connection.execute(
        select(events.c.subject, func.min(events.c.at))
        .where(events.c.subject.in_(list(last)), events.c.what == MachineState.RUNNING.value)
        .group_by(events.c.subject)
    )
    at = {str(uuid): instant for uuid, instant in ran}
    return tuple(
        BootRecord(one.node, one.from_network, (at[uuid] - one.created).total_seconds())
        for uuid, one in last.items()
        if uuid in at and one.node is not None
    )


def boot_history(connection: Connection, limit: int = 200) -> BootHistory:
    """What the last machines took to run, those of clusters from when they were released; and these to be ready."""
    members, settled = _members_past(connection, limit)
    return BootHistory((*recent_boots(connection, limit), *members), settled)


def _members_past(connection: Connection, limit: int) -> tuple[tuple[BootRecord, ...], tuple[ReadinessSample, ...]]:
    """What it took the last members of clusters to run, from when they were released; and then to be ready."""
    query = select(machines.c.document).where(machines.c.cluster.is_not(None), machines.c.node.is_not(None))
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
    return tuple(boots), tuple(settled)


def _machines(connection: Connection, query: Select[Any]) -> tuple[SiteMachine, ...]:
    """Machines in the order of their admission, which is made here: a database that has to might take it for the way in."""
    rows = sorted(connection.execute(query).all(), key=lambda row: int(row.sequence))
    return tuple(SiteMachine.model_validate_json(row.document) for row in rows)
