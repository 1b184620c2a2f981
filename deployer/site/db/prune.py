"""What a site may forget: finding it, in the order of its age, and removing it. Queries only.

Objects are found by indexes, some at a time, from where the last search ended, so the cost follows what is found. Objects that
live ones refer to are not found: members of an active cluster, machines whose node still has something of them, a deployment
of which one machine is left, and the events of all these.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, or_, select

from deployer.site.db import contexts as broker_store
from deployer.site.db.events import last_event
from deployer.site.db.tables import clusters, deployments, events, join_tokens, machines, orders
from deployer.site.model.cluster import Cluster

PruneCursor = tuple[datetime, int]
"""Where a look among machines goes on: an end, and a row's number."""


def old_machines(
    connection: Connection, before: datetime, after: PruneCursor | None, limit: int
) -> list[tuple[PruneCursor, str]]:
    """Machines that are over and whose time was over before that: where each stands, and its deployment."""
    query = select(machines.c.expires, machines.c.sequence, machines.c.deployment)
    query = query.where(machines.c.finished.is_(True), machines.c.expires < before)
    if after is not None:
        expires, sequence = after
        query = query.where(
            machines.c.expires >= expires, or_(machines.c.expires > expires, machines.c.sequence > sequence)
        )
    rows = connection.execute(query.order_by(machines.c.expires, machines.c.sequence).limit(limit))
    return [((row.expires, int(row.sequence)), str(row.deployment)) for row in rows]


def removable_deployments(connection: Connection, found: Collection[str], before: datetime) -> list[str]:
    """Of these deployments, those of which nothing is left: no machine, and no cluster that is active."""
    lives = exists().where(
        machines.c.deployment == deployments.c.uuid,
        or_(
            machines.c.counts_for_quota.is_(True),
            machines.c.reserved.is_(True),
            machines.c.other_node.is_not(None),
            machines.c.expires >= before,
        ),
    )
    belongs = exists().where(clusters.c.uuid == deployments.c.cluster, clusters.c.active.is_(True))
    query = select(deployments.c.uuid).where(deployments.c.uuid.in_(sorted(set(found))), ~lives, ~belongs)
    return [str(uuid) for uuid in connection.execute(query).scalars()]


def machines_in(connection: Connection, found: Sequence[str]) -> list[str]:
    """The machines of deployments."""
    query = select(machines.c.uuid).where(machines.c.deployment.in_(found))
    return [str(uuid) for uuid in connection.execute(query).scalars()]


def forget_deployments(connection: Connection, found: Sequence[str], before: datetime) -> dict[str, int]:
    """Remove those of these deployments that are still removable (`removable_deployments`), their machines, keys and
    events, and what guests published; events with an actor are kept longer."""
    found = removable_deployments(connection, found, before)
    if not found:
        return {}
    for machine in machines_in(connection, found):
        broker_store.delete_contact(connection, machine)
    return {
        "keys": _removed(connection, orders, orders.c.deployment.in_(found)),
        "events": _removed(connection, events, and_(events.c.deployment.in_(found), events.c.by == "")),
        "machines": _removed(connection, machines, machines.c.deployment.in_(found)),
        "deployments": _removed(connection, deployments, deployments.c.uuid.in_(found)),
    }


def ended_clusters(connection: Connection, after: int, limit: int) -> list[tuple[int, Cluster, bool]]:
    """Clusters that are not active: the row's number, the cluster, and whether a deployment of it is still stored."""
    kept = exists().where(deployments.c.cluster == clusters.c.uuid)
    query = select(clusters.c.sequence, clusters.c.document, kept.label("kept"))
    query = query.where(clusters.c.active.is_(False), clusters.c.sequence > after)
    rows = connection.execute(query.order_by(clusters.c.sequence).limit(limit))
    return [(int(row.sequence), Cluster.model_validate_json(row.document), bool(row.kept)) for row in rows]


def forget_clusters(connection: Connection, found: Sequence[str]) -> dict[str, int]:
    """Remove clusters and their events."""
    of_clusters = and_(events.c.subject.in_(found), events.c.kind == "cluster", events.c.by == "")
    return {
        "events": _removed(connection, events, of_clusters),
        "clusters": _removed(connection, clusters, and_(clusters.c.uuid.in_(found), clusters.c.active.is_(False))),
    }


def old_events(
    connection: Connection, before: datetime, after: int, limit: int, *, deeds: bool
) -> tuple[list[int], int | None]:
    """Events from before then that are not needed any more.

    Args:
        connection: open.
        before: see there.
        after: the number after which it is looked.
        limit: how many are looked at.
        deeds: of what people did, anywhere; else of nodes and whatever belongs to no deployment.

    Returns:
        Their numbers, and after which to go on; None when there are no more of that age. Never the newest of all: the next one is
        numbered by it.
    """
    there = exists().where(deployments.c.uuid == events.c.deployment)
    cluster = exists().where(clusters.c.uuid == events.c.subject)
    query = select(events.c.number, events.c.at, events.c.by, there.label("there"), cluster.label("cluster"))
    query = query.where(events.c.number > after, events.c.number < last_event(connection))
    if not deeds:
        query = query.where(events.c.deployment.is_(None))
    found, last = list[int](), None
    rows = connection.execute(query.order_by(events.c.number).limit(limit)).all()
    for row in rows:
        if row.at >= before:
            return found, None
        last = int(row.number)
        if bool(row.by) == deeds and not row.there and not row.cluster:
            found.append(last)
    return found, last if len(rows) == limit else None


def forget_events(connection: Connection, found: Sequence[int]) -> dict[str, int]:
    """Remove events."""
    return {"events": _removed(connection, events, events.c.number.in_(found))}


def old_tokens(connection: Connection, before: datetime) -> list[str]:
    """Join tokens that were good for nothing before then already: their digests."""
    query = select(join_tokens.c.digest).where(join_tokens.c.expires < before)
    return [str(digest) for digest in connection.execute(query).scalars()]


def forget_tokens(connection: Connection, before: datetime) -> dict[str, int]:
    """Remove them."""
    return {"tokens": _removed(connection, join_tokens, join_tokens.c.expires < before)}


def _removed(connection: Connection, table: Any, which: Any) -> int:
    return int(connection.execute(delete(table).where(which)).rowcount)
