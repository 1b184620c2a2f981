"""A site's events and their audit, its secrets and its join tokens, in the database. Queries only.

Each function takes the connection of an open transaction (`database`) and gives plain values.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from deployer.errors import JoinRefused
from deployer.site.db.documents import equalities
from deployer.site.db.tables import clusters, deployments, events, join_tokens, secrets
from deployer.site.model.records import AuditFilter, AuditRecord, SiteEvent

MAX_REASON = 2000
"""Characters of an event's reason that are kept: some come from hypervisors and guests."""

NONE = 1 << 62
"""A number greater than that of any event."""


def last_event(connection: Connection) -> int:
    """The number of the newest event; 0 before the first."""
    return int(connection.execute(select(func.coalesce(func.max(events.c.number), 0))).scalar_one())


def append_events(connection: Connection, new: Iterable[SiteEvent], by: str = "") -> tuple[SiteEvent, ...]:
    """Store events, in a writing transaction, of which there is one at a time; returns them with their numbers.

    Args:
        connection: of the transaction.
        new: the events, in order.
        by: the identity of who did it; empty for the site itself.
    """
    new = list(new)
    if not new:
        return ()
    first = last_event(connection) + 1
    numbered = tuple(
        event.model_copy(update={"number": number, "reason": event.reason[:MAX_REASON]})
        for number, event in enumerate(new, first)
    )
    connection.execute(insert(events), [event.model_dump() | {"at": event.at, "by": by} for event in numbered])
    return numbered


def list_events(
    connection: Connection,
    after: int = 0,
    limit: int = 1000,
    deployment: str | None = None,
    *,
    owner: str | None = None,
    vo: str | None = None,
    subject: str | None = None,
) -> tuple[SiteEvent, ...]:
    """Up to `limit` events with numbers above `after`, in order: of one deployment, owner (identity), VO or subject if given."""
    query = select(events).where(events.c.number > after)
    if owner is not None or vo is not None:
        query = query.join(deployments, deployments.c.uuid == events.c.deployment)
    of_events = ((events.c.deployment, deployment), (events.c.subject, subject))
    query = query.where(*equalities((*of_events, (deployments.c.owner, owner), (deployments.c.vo, vo))))
    return tuple(event_from_row(row) for row in connection.execute(query.order_by(events.c.number).limit(limit)))


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
    members = ((events.c.by, wanted.by), (events.c.subject, wanted.subject), (owner, wanted.owner), (vo, wanted.vo))
    query = query.where(*equalities((column, value or None) for column, value in members))
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
    entries = tuple(
        AuditRecord(event=event_from_row(row), by=row.by, owner=row.owner, vo=row.vo) for row in rows[:limit]
    )
    return entries, entries[-1].event.number if len(rows) > limit and entries else None


def event_from_row(row: Row[Any]) -> SiteEvent:
    """An event from a row that has its columns, and perhaps others."""
    return SiteEvent.model_validate({name: getattr(row, name) for name in SiteEvent.model_fields})


def get_or_make_secret(connection: Connection, name: str, make: Callable[[], bytes]) -> bytes:
    """One of the site's own secrets; made the first time, in this (writing) transaction."""
    found = connection.execute(select(secrets.c.value).where(secrets.c.name == name)).scalar()
    if found is None:
        found = make()
        connection.execute(insert(secrets).values(name=name, value=found))
    return bytes(found)


def add_token(connection: Connection, digest: str, name: str, expires: datetime) -> None:
    """Remember a join token by its digest."""
    connection.execute(insert(join_tokens).values(digest=digest, name=name, expires=expires, used=None))


def use_token(connection: Connection, digest: str, now: datetime) -> str:
    """Use a join token up; returns the name that it was made for.

    Raises:
        JoinRefused: it is unknown, was used, or is too old; the message is the same, so that it does not reveal which.
    """
    columns = join_tokens.c
    used = connection.execute(
        update(join_tokens)
        .where(columns.digest == digest, columns.used.is_(None), columns.expires > now)
        .values(used=now)
    )
    if used.rowcount != 1:
        raise JoinRefused("this join token is not good (any more); ask the site's operator for a new one")
    return str(connection.execute(select(columns.name).where(columns.digest == digest)).scalar_one())
