"""The audit of events: each with its actor and the owner of its object, the newest first. Queries only."""

from typing import Any

from sqlalchemy import Connection, Row, func, select

from deployer.site.db.events import event_from_row
from deployer.site.db.tables import clusters, deployments, events
from deployer.site.model.records import AuditFilter, AuditRecord, SiteEvent

NONE = 1 << 62
"""A number greater than that of any event."""


def list_audit_entries(
    connection: Connection, wanted: AuditFilter, limit: int = 100, before: int | None = None
) -> tuple[tuple[AuditRecord, ...], int | None]:
    """Up to `limit` entries with numbers below `before`, the newest first; and, if there are more, the `before` of the next page.

    Times are translated to event numbers first, which grow with them, so that only the requested events are read.
    """
    owner = func.coalesce(deployments.c.owner, clusters.c.owner, "")
    vo = func.coalesce(deployments.c.vo, clusters.c.vo, "")
    query = (
        select(events, owner.label("owner"), vo.label("vo"))
        .outerjoin(deployments, deployments.c.uuid == events.c.deployment)
        .outerjoin(clusters, clusters.c.uuid == events.c.subject)
    )
    for column, value in (
        (events.c.by, wanted.by),
        (events.c.subject, wanted.subject),
        (owner, wanted.owner),
        (vo, wanted.vo),
    ):
        if value:
            query = query.where(column == value)
    number = events.c.number
    if wanted.since is not None:
        first = select(func.min(number)).where(events.c.at >= wanted.since)
        query = query.where(number >= (connection.execute(first).scalar() or NONE))
    if wanted.until is not None:
        last = select(func.max(number)).where(events.c.at <= wanted.until)
        query = query.where(number <= (connection.execute(last).scalar() or 0))
    if before is not None:
        query = query.where(number < before)
    rows = connection.execute(query.order_by(number.desc()).limit(limit + 1)).all()
    entries = tuple(_entry(row) for row in rows[:limit])
    return entries, entries[-1].event.number if len(rows) > limit and entries else None


def _entry(row: Row[Any]) -> AuditRecord:
    event: SiteEvent = event_from_row(row)
    return AuditRecord(event=event, by=row.by, owner=row.owner, vo=row.vo)
