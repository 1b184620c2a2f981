"""A site's nodes and their capacity, in the database. Queries only.

Each function takes the connection of an open transaction (`database`) and gives plain values.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, Row, delete, func, insert, select, update

from catalog.errors import Conflict
from deployer.errors import NodeNotFound
from deployer.protocol.desired_state import Capacity, NodeReport, NodeStatus
from deployer.protocol.migration import MigrationSupport
from deployer.protocol.swarm_report import SwarmReport
from deployer.site.db.documents import chunks, find_uuid, prefix_condition
from deployer.site.db.tables import cached, machines, nodes, strays, swarms
from deployer.site.model.records import NodeState, SiteMachine, SiteNode
from deployer.site.scheduling.node_capacity import Overcommit, UsedCapacity, capacity_of
from deployer.site.scheduling.placement import EC2, MachineReservation, NodeCapacity
from signer.documents import canonical, parse

NOTHING = Capacity(cores=0, memory=0, disk=0)


def insert_node(
    connection: Connection, uuid: str, name: str, labels: Mapping[str, str], kind: str, now: datetime
) -> None:
    """Add a node that has not reported yet; Conflict if there is one of that name that has not left.

    One of that name that has left gives the name up and keeps its UUID, which old events contain.
    """
    held = connection.execute(select(nodes.c.uuid, nodes.c.state).where(nodes.c.name == name)).first()
    if held is not None and held.state != NodeState.LEFT:
        raise Conflict(f"the site has a node {name}; choose another name, or remove that one first")
    if held is not None:
        connection.execute(update(nodes).where(nodes.c.uuid == held.uuid).values(name=f"{name} ({held.uuid[:8]})"))
    connection.execute(
        insert(nodes).values(
            uuid=uuid,
            name=name,
            kind=kind,
            state=NodeState.READY.value,
            joined=now,
            capacity=_text(NOTHING.model_dump()),
            labels=_text(dict(labels)),
            contents=_digest(()),
        )
    )


def get_node(connection: Connection, uuid: str, *, contents: bool = True) -> SiteNode:
    """A node, with what it caches or without; NodeNotFound."""
    row = connection.execute(select(nodes).where(nodes.c.uuid == uuid)).first()
    if row is None:
        raise NodeNotFound(f"no such node at this site: {uuid}; `partita site nodes` lists them")
    if not contents:
        return _node(row, frozenset())
    held = connection.execute(select(cached.c.address).where(cached.c.node == uuid)).scalars()
    return _node(row, frozenset(held), _swarms(connection, uuid).get(uuid))


def list_nodes(connection: Connection, *, contents: bool = True) -> tuple[SiteNode, ...]:
    """All nodes by name; with what they cache, or without."""
    if not contents:
        return _nodes(connection)
    return _nodes(connection, held=_contents(connection, None), fed=_swarms(connection))


def find_node(connection: Connection, text: str) -> SiteNode:
    """The node that a name, a UUID or the beginning of one means; NodeNotFound, or Misused if several."""
    uuid = find_uuid(connection, nodes, text, (nodes.c.name == text,), prefix_condition(nodes.c.uuid, text))
    if uuid is None:
        raise NodeNotFound(f"no such node at this site: {text[:80]!r}; `partita site nodes` lists them")
    return get_node(connection, uuid)


def write_node_state(connection: Connection, uuid: str, state: NodeState, *, draining: bool) -> None:
    """Let a node's state be that."""
    connection.execute(update(nodes).where(nodes.c.uuid == uuid).values(state=state.value, draining=draining))


def bump_revisions(connection: Connection, uuids: Iterable[str]) -> dict[str, int]:
    """What these nodes should have is another: the next revision of each."""
    wanted = sorted(set(uuids))
    if not wanted:
        return {}
    connection.execute(update(nodes).where(nodes.c.uuid.in_(wanted)).values(revision=nodes.c.revision + 1))
    rows = connection.execute(select(nodes.c.uuid, nodes.c.revision).where(nodes.c.uuid.in_(wanted)))
    return {row.uuid: row.revision for row in rows}


def revision_of(connection: Connection, uuid: str) -> int:
    """A node's revision; NodeNotFound."""
    found = connection.execute(select(nodes.c.revision).where(nodes.c.uuid == uuid)).scalar()
    if found is None:
        raise NodeNotFound(f"no such node at this site: {uuid}")
    return int(found)


def revisions(connection: Connection) -> dict[str, int]:
    """Every node's."""
    return {row.uuid: row.revision for row in connection.execute(select(nodes.c.uuid, nodes.c.revision))}


def write_report(connection: Connection, known: SiteNode, report: NodeReport, state: NodeState, now: datetime) -> None:
    """A node reported: `reported` is written, and of the rest what is another than was known."""
    changed: dict[str, Any] = {
        name: getattr(report, name)
        for name in NodeStatus.model_fields.keys() - {"swarm"}
        if getattr(known, name) != getattr(report, name)
    }
    changed |= {"state": state.value, "seen": report.revision}
    if "capacity" in changed:
        changed["capacity"] = _text(report.capacity.model_dump())
    if "labels" in changed:
        changed["labels"] = _text(report.labels)
    if "migration_support" in changed:
        changed["migration_support"] = report.migration_support.model_dump_json() if report.migration_support else ""
    if known.revision < report.revision:
        # The site was restored from an older copy: its next revision must be newer than the one that the node knows.
        changed["revision"] = report.revision + 1
    digest = _digest(report.cached)
    both = select(nodes.c.contents, swarms.c.document).select_from(nodes.outerjoin(swarms))
    stored = connection.execute(both.where(nodes.c.uuid == known.uuid)).one()
    swarm = canonical(report.swarm).decode() if report.swarm else None
    if swarm != stored.document:
        connection.execute(delete(swarms).where(swarms.c.node == known.uuid))
        if swarm is not None:
            connection.execute(insert(swarms).values(node=known.uuid, document=swarm))
    if stored.contents != digest:
        _replace_values(connection, cached.c.address, known.uuid, set(report.cached))
        changed["contents"] = digest
    connection.execute(update(nodes).where(nodes.c.uuid == known.uuid).values(reported=now, **changed))


def silent_nodes(connection: Connection, before: datetime) -> tuple[SiteNode, ...]:
    """The nodes that should report and have not since then; one that never did counts from when it joined."""
    last_contact = func.coalesce(nodes.c.reported, nodes.c.joined)
    present = nodes.c.state.in_((NodeState.READY.value, NodeState.DRAINING.value))
    return _nodes(connection, present, last_contact < before)


def present_nodes(connection: Connection, held: Mapping[str, set[str]] | None = None) -> tuple[SiteNode, ...]:
    """The nodes that have not left, by name, with the contents that are given for each."""
    return _nodes(connection, nodes.c.state != NodeState.LEFT.value, held=held)


def _nodes(
    connection: Connection,
    *conditions: Any,
    held: Mapping[str, set[str]] | None = None,
    fed: Mapping[str, SwarmReport] | None = None,
) -> tuple[SiteNode, ...]:
    held, fed = held or {}, fed or {}
    rows = connection.execute(select(nodes).where(*conditions).order_by(nodes.c.name))
    return tuple(_node(row, frozenset(held.get(row.uuid, ())), fed.get(row.uuid)) for row in rows)


def node_capacities(connection: Connection, addresses: Collection[str], overcommit: Overcommit) -> list[NodeCapacity]:
    """Every node that has not left as placement sees it; of its contents, those addresses."""
    taken = _taken(connection, machines.c.node, machines.c.reserved.is_(True))
    # Capacity of nodes to or from which machines are being migrated.
    for uuid, more in _taken(connection, machines.c.other_node, machines.c.other_node.is_not(None)).items():
        taken[uuid] = taken.get(uuid, UsedCapacity()) + more
    return [
        capacity_of(
            node,
            taken.get(node.uuid, UsedCapacity()),
            overcommit,
            list_reservations(connection, node.uuid) if node.kind == EC2 else (),
        )
        for node in present_nodes(connection, _contents(connection, addresses))
    ]


def _taken(connection: Connection, node: Any, condition: Any) -> dict[str, UsedCapacity]:
    """What machines that satisfy a condition may have at most, by the column that names a node."""
    table = machines.c
    amounts = func.sum(table.max_cores), func.sum(table.max_memory), func.sum(table.disk)
    rows = connection.execute(select(node, func.count(), *amounts).where(condition).group_by(node))
    return {uuid: UsedCapacity(*map(int, used)) for uuid, *used in rows}


def list_reservations(connection: Connection, uuid: str) -> tuple[MachineReservation, ...]:
    """What was promised to the machines of a pool at EC2 that have not ended."""
    query = select(machines.c.document).where(
        machines.c.reserved.is_(True), machines.c.node == uuid, machines.c.counts_for_quota.is_(True)
    )
    found = (SiteMachine.model_validate_json(document) for document in connection.execute(query).scalars())
    return tuple(
        MachineReservation(one.uuid, one.reserved_cost, one.created, one.expires)
        for one in found
        if one.reserved_cost is not None
    )


def migration_address(connection: Connection, uuid: str) -> str:
    """Where a node gives machines away; empty where it gives none."""
    found = connection.execute(select(nodes.c.migration_support).where(nodes.c.uuid == uuid)).scalar()
    return MigrationSupport.model_validate_json(found).url if found else ""


def record_strays(connection: Connection, uuid: str, found: Collection[str]) -> list[str]:
    """Remember which machines a node reports that it should not have; returns those that are new."""
    return _replace_values(connection, strays.c.machine, uuid, set(found))


def _contents(connection: Connection, addresses: Collection[str] | None) -> dict[str, set[str]]:
    query = select(cached.c.node, cached.c.address)
    if addresses is not None:
        query = query.where(cached.c.address.in_(sorted(addresses)))
    held = defaultdict[str, set[str]](set)
    for row in connection.execute(query):
        held[row.node].add(row.address)
    return held


def _swarms(connection: Connection, uuid: str | None = None) -> dict[str, SwarmReport]:
    query = select(swarms.c.node, swarms.c.document)
    if uuid is not None:
        query = query.where(swarms.c.node == uuid)
    return {row.node: parse(SwarmReport, row.document.encode(), "swarm") for row in connection.execute(query)}


def _replace_values(connection: Connection, column: Column[str], uuid: str, now: set[str]) -> list[str]:
    """Let these be the values of a column for a node, in a table of node and value; returns those that are new."""
    table = column.table
    before = set(connection.execute(select(column).where(table.c.node == uuid)).scalars())
    for some in chunks(sorted(before - now)):
        connection.execute(delete(table).where(table.c.node == uuid, column.in_(some)))
    fresh = sorted(now - before)
    if fresh:
        connection.execute(insert(table), [{column.name: value, "node": uuid} for value in fresh])
    return fresh


def _node(row: Row[tuple[Any, ...]], contents: frozenset[str], swarm: SwarmReport | None = None) -> SiteNode:
    """Not checked again: every admission reads all nodes under the writer's lock, and we wrote these."""
    values = {
        "state": NodeState(row.state),
        "capacity": Capacity.model_construct(**json.loads(row.capacity)),
        "labels": json.loads(row.labels),
        "cached": contents,
        "swarm": swarm,
        "migration_support": MigrationSupport.model_validate_json(row.migration_support)
        if row.migration_support
        else None,
    }
    return SiteNode.model_construct(**(row._asdict() | values))


def _digest(addresses: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(set(addresses))).encode()).hexdigest()


def _text(value: Mapping[str, object]) -> str:
    return json.dumps(value, sort_keys=True)
