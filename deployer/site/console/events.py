"""The console's pages of events, page by page and live, and of the audit log."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from deployer.errors import DeploymentNotFound
from deployer.site.api.audit import ActorQuery, AuditMachineQuery, AuditOwnerQuery, AuditVoQuery, audit_filter
from deployer.site.api.events import STREAM, event_stream, read_event_page
from deployer.site.auth.grants import SiteAction
from deployer.site.console.request import Console, PageRequest, PageRoute
from deployer.site.console.templates import CONSOLE_PREFIX, HEADERS
from deployer.site.db.events import last_event, list_audit_entries, list_events
from deployer.site.db.machines import get_deployment
from deployer.site.model.principal import Principal
from deployer.site.model.records import Deployment, SiteEvent
from deployer.site.schema.messages import MAX_PAGE
from deployer.site.service.site import Site

ROWS = 100
"""Events of a page."""

WINDOW = 500
"""Events that are read at a time for a page, since a user may see few of them."""

MAX_WINDOWS = 20
"""How far one page looks back: a user who may see none of ten thousand events gets a link to continue."""

BEFORE = Annotated[int | None, Query(ge=1, le=(1 << 53) - 1)]


def event_pages(console: Console) -> APIRouter:
    """The routes of events, their stream, and the audit log."""
    routes = APIRouter(prefix=CONSOLE_PREFIX, route_class=PageRoute)
    site, access = console.site, console.site.access
    visiting = Annotated[PageRequest, Depends(console.visit)]

    @routes.get("/events")
    def events(visit: visiting, before: BEFORE = None) -> Response:
        access.demand(visit.who, SiteAction.READ)
        found, older = newest_events(site, visit.who, ROWS, before)
        return console.show(visit, "events.html", events=found, older=older, live=before is None)

    @routes.get("/stream")
    async def stream(visit: visiting, after: Annotated[int | None, Query(ge=0, le=(1 << 53) - 1)] = None) -> Response:
        await run_in_threadpool(access.demand, visit.who, SiteAction.READ)
        last = visit.request.headers.get("last-event-id", "")
        if last.isascii() and last.isdigit() and len(last) <= 16:
            position = int(last)
        else:
            position = await run_in_threadpool(site.store.read, last_event) if after is None else after
        left = (visit.session.expires - site.now()).total_seconds()
        return StreamingResponse(
            event_stream(site, visit.who, position, None, left),
            media_type=STREAM,
            headers=HEADERS | {"X-Accel-Buffering": "no"},
        )

    @routes.get("/audit")
    def audit(
        visit: visiting,
        before: BEFORE = None,
        by: ActorQuery = "",
        owner: AuditOwnerQuery = "",
        vo: AuditVoQuery = "",
        machine: AuditMachineQuery = "",
    ) -> Response:
        access.demand(visit.who, SiteAction.AUDIT)
        asked = {"by": by.strip(), "owner": owner.strip(), "vo": vo.strip(), "machine": machine.strip()}
        wanted = audit_filter(site, by=asked["by"], owner=asked["owner"], vo=asked["vo"], machine=asked["machine"])
        found, older = site.store.read(list_audit_entries, wanted, ROWS, before)
        events = [one.event for one in found]
        deployments = {one.deployment: _deployment(site, one.deployment) for one in events if one.deployment}
        rest = urlencode({name: value for name, value in asked.items() if value})
        return console.show(
            visit, "audit.html", entries=found, older=older, deployments=deployments, asked=asked, rest=rest
        )

    return routes


def newest_events(
    site: Site, who: Principal, rows: int, before: int | None = None
) -> tuple[list[SiteEvent], int | None]:
    """The last events that a user may see, newest first, and the number before which older ones are to be found."""
    end = (site.store.read(last_event) if before is None else before - 1) + 1
    found: list[SiteEvent] = []
    for _ in range(MAX_WINDOWS):
        begin = max(1, end - WINDOW)
        items = read_event_page(site, who, begin - 1, end - begin).items if end > begin else ()
        found += [one for one in items if one.number < end][::-1]
        end = begin
        if len(found) >= rows or begin == 1:
            break
    if len(found) > rows:
        return found[:rows], found[rows - 1].number
    return found, end if end > 1 else None


def events_about(
    site: Site, *, owner: str | None = None, vo: str | None = None, subject: str | None = None
) -> list[SiteEvent]:
    """All events about a person's objects, a VO's, or one object."""
    found: list[SiteEvent] = []
    while True:
        more = site.store.read(
            list_events, found[-1].number if found else 0, MAX_PAGE, owner=owner, vo=vo, subject=subject
        )
        found += more
        if len(more) < MAX_PAGE:
            return found


def _deployment(site: Site, uuid: str) -> Deployment | None:
    try:
        return site.store.read(get_deployment, uuid)
    except DeploymentNotFound:
        return None
