"""The console's pages of what happened: the story, page by page and live, and the audit of what was done for whom."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from deployer.errors import DeploymentNotFound
from deployer.site.api.audit import BY, OF, OWNER, VO, wanted_of
from deployer.site.api.events import STREAM, lines, page_of
from deployer.site.auth.grants import Action
from deployer.site.console.request import Console, Page, Visit
from deployer.site.console.templates import HEADERS, PREFIX
from deployer.site.db.audit import list_audit_entries
from deployer.site.db.events import last_event, list_events
from deployer.site.db.machines import get_deployment
from deployer.site.model.principal import Principal
from deployer.site.model.records import Deployment, SiteEvent
from deployer.site.schema.messages import MAX_PAGE
from deployer.site.service.site import Site

ROWS = 100
"""Events of a page."""

WINDOW = 500
"""Events that are looked at for a page at a time, while somebody may see few of them."""

MOST_WINDOWS = 20
"""How far one page looks back: whoever may see none of ten thousand events gets a link to go on."""

BEFORE = Annotated[int | None, Query(ge=1, le=(1 << 53) - 1)]


def story_pages(console: Console) -> APIRouter:
    """Events, their stream, and the audit."""
    routes = APIRouter(prefix=PREFIX, route_class=Page)
    site, access = console.site, console.site.access
    visiting = Annotated[Visit, Depends(console.visit)]

    @routes.get("/events")
    def events(visit: visiting, before: BEFORE = None) -> Response:
        access.demand(visit.who, Action.READ)
        found, older = newest(site, visit.who, ROWS, before)
        return console.show(visit, "events.html", events=found, older=older, live=before is None)

    @routes.get("/stream")
    async def stream(visit: visiting, after: Annotated[int | None, Query(ge=0, le=(1 << 53) - 1)] = None) -> Response:
        await run_in_threadpool(access.demand, visit.who, Action.READ)
        last = visit.request.headers.get("last-event-id", "")
        if last.isascii() and last.isdigit() and len(last) <= 16:
            position = int(last)
        else:
            position = await run_in_threadpool(site.store.read, last_event) if after is None else after
        left = (visit.session.expires - site.now()).total_seconds()
        return StreamingResponse(
            lines(site, visit.who, position, None, left),
            media_type=STREAM,
            headers=HEADERS | {"X-Accel-Buffering": "no"},
        )

    @routes.get("/audit")
    def audit(
        visit: visiting,
        before: BEFORE = None,
        by: BY = "",
        owner: OWNER = "",
        vo: VO = "",
        machine: OF = "",
    ) -> Response:
        access.demand(visit.who, Action.AUDIT)
        asked = {"by": by.strip(), "owner": owner.strip(), "vo": vo.strip(), "machine": machine.strip()}
        wanted = wanted_of(site, by=asked["by"], owner=asked["owner"], vo=asked["vo"], machine=asked["machine"])
        found, older = site.store.read(list_audit_entries, wanted, ROWS, before)
        events = [one.event for one in found]
        deployments = {one.deployment: _deployment(site, one.deployment) for one in events if one.deployment}
        rest = urlencode({name: value for name, value in asked.items() if value})
        return console.show(
            visit, "audit.html", entries=found, older=older, deployments=deployments, asked=asked, rest=rest
        )

    return routes


def newest(site: Site, who: Principal, rows: int, before: int | None = None) -> tuple[list[SiteEvent], int | None]:
    """The last events that somebody may see, newest first, and before which number older ones are looked for."""
    end = (site.store.read(last_event) if before is None else before - 1) + 1
    found: list[SiteEvent] = []
    for _ in range(MOST_WINDOWS):
        begin = max(1, end - WINDOW)
        items = page_of(site, who, begin - 1, end - begin).items if end > begin else ()
        found += [one for one in items if one.number < end][::-1]
        end = begin
        if len(found) >= rows or begin == 1:
            break
    if len(found) > rows:
        return found[:rows], found[rows - 1].number
    return found, end if end > 1 else None


def story(
    site: Site, *, owner: str | None = None, vo: str | None = None, subject: str | None = None
) -> list[SiteEvent]:
    """All that was told of a person's things, of a VO's, or of one thing."""
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
