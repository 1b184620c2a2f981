"""The route of the audit log: actions at a site, with their actor and the owner of the object."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from catalog.errors import Malformed, Misused
from deployer.errors import Forbidden, MachineNotFound
from deployer.site.api.parameters import DEFAULT_PAGE, AfterQuery, LimitQuery, SiteRouter, action, answer
from deployer.site.auth.grants import SiteAction
from deployer.site.db.documents import parse_cursor
from deployer.site.db.events import list_audit_entries
from deployer.site.db.machines import find_machine
from deployer.site.model.principal import Principal
from deployer.site.model.records import AuditFilter
from deployer.site.schema.messages import AuditPage
from deployer.site.service.site import Site

MAX_IDENTITY = 2100
"""Characters of an issuer, a space and a subject."""

ActorQuery = Annotated[
    str,
    Query(
        max_length=MAX_IDENTITY, description="Only actions of this person: issuer and subject, with a space between."
    ),
]
AuditOwnerQuery = Annotated[
    str, Query(max_length=MAX_IDENTITY, description="Only entries about this person's objects.")
]
AuditVoQuery = Annotated[str, Query(max_length=63, description="Only entries about objects of this VO's members.")]
AuditMachineQuery = Annotated[
    str,
    Query(
        max_length=255,
        description="Only entries about this machine (UUID, its beginning, or host name), or about the object with this UUID.",
    ),
]
SinceQuery = Annotated[
    datetime | None, Query(description="Only entries since then.", examples=["2026-11-22T00:00:00Z"])
]
UntilQuery = Annotated[
    datetime | None, Query(description="Only entries until then.", examples=["2026-11-23T00:00:00Z"])
]


def audit_routes(site: Site) -> APIRouter:
    """Under /v2/audit."""
    routes = SiteRouter("/audit", "events")

    @routes.operation("GET", "Read the audit log", AuditPage)
    @action(SiteAction.AUDIT, Malformed, Misused, Forbidden)
    def audit(
        request: Request,
        who: Annotated[Principal, Depends(site.access.who)],
        by: ActorQuery = "",
        owner: AuditOwnerQuery = "",
        vo: AuditVoQuery = "",
        machine: AuditMachineQuery = "",
        since: SinceQuery = None,
        until: UntilQuery = None,
        limit: LimitQuery = DEFAULT_PAGE,
        after: AfterQuery = None,
    ) -> Response:
        """The last entry first. Follow `next` for earlier entries. Actions of the site itself have no `by`."""
        site.access.demand(who, SiteAction.AUDIT)
        wanted = audit_filter(site, by=by, owner=owner, vo=vo, machine=machine, since=since, until=until)
        items, following = site.store.read(
            list_audit_entries, wanted, limit, None if after is None else parse_cursor(after)
        )
        return answer(request, AuditPage(items=items, next=None if following is None else str(following)))

    return routes


def audit_filter(
    site: Site,
    *,
    by: str = "",
    owner: str = "",
    vo: str = "",
    machine: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
) -> AuditFilter:
    """The filter that a client asks for. A machine that has been pruned, and any other object, needs its whole UUID.

    Raises:
        Misused: a machine's name means several.
    """
    subject = machine
    if machine:
        try:
            subject = site.store.read(find_machine, machine).uuid
        except MachineNotFound:
            subject = machine
    return AuditFilter(by=by, owner=owner, vo=vo, subject=subject, since=_aware(since), until=_aware(until))


def _aware(instant: datetime | None) -> datetime | None:
    """An instant in UTC and whole seconds, as in events; one without a zone counts as UTC."""
    if instant is None:
        return None
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC).replace(microsecond=0)
