"""The routes of events: page by page, and as they happen (server-sent events)."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.concurrency import run_in_threadpool

from catalog.errors import Malformed
from deployer.errors import Forbidden
from deployer.site.api.parameters import DEFAULT_PAGE, DeploymentQuery, LimitQuery, SiteRouter, action, answer
from deployer.site.auth.authorizer import SiteAuthorizer
from deployer.site.auth.grants import Reach, SiteAction
from deployer.site.db.events import last_event, list_events
from deployer.site.model.principal import Principal
from deployer.site.model.records import SiteEvent
from deployer.site.schema.messages import HEARTBEAT, MAX_PAGE, EventPage
from deployer.site.service.site import Site
from signer.documents import canonical

STREAM = EventSourceResponse.media_type

RETRY_MILLISECONDS = 2000
"""Time after which a browser reconnects to a stream that ended."""

MAX_STREAM = 900.0
"""Seconds of one stream: a client reconnects by itself, and authenticates again then."""

NUMBER = Annotated[
    int, Query(ge=0, le=(1 << 53) - 1, description="Only events after the one with this number.", examples=[3025])
]


def event_routes(site: Site) -> APIRouter:
    """Under /v2/events."""
    routes = SiteRouter("/events", "events")
    store, access = site.store, site.access
    who_asks = Annotated[Principal, Depends(access.who)]

    @routes.operation("GET", "List events", EventPage)
    @action(SiteAction.READ, Malformed, Forbidden)
    def events(
        request: Request,
        who: who_asks,
        after: NUMBER = 0,
        deployment: DeploymentQuery = None,
        limit: LimitQuery = DEFAULT_PAGE,
    ) -> Response:
        """Those about objects that you may see, the oldest first. Continue with `last`."""
        access.demand(who, SiteAction.READ)
        return answer(request, read_event_page(site, who, after, limit, deployment))

    @routes.operation(
        "GET /stream",
        "Follow events as they happen",
        response_class=StreamingResponse,
        responses={200: {"content": {STREAM: {"example": 'id: 41\nevent: machine\ndata: {"what":"running"}\n\n'}}}},
    )
    @action(SiteAction.READ, Malformed, Forbidden)
    async def stream(
        who: who_asks,
        after: Annotated[int | None, Query(ge=0, le=(1 << 53) - 1, description="Begin after this event.")] = None,
        deployment: DeploymentQuery = None,
        last: Annotated[
            str | None,
            Header(
                alias="Last-Event-ID", max_length=18, pattern=r"^[0-9]+$", description="Takes precedence over `after`."
            ),
        ] = None,
    ) -> Response:
        """Server-sent events (WHATWG HTML, section 9.2): `id` is the number, `event` the kind, `data` the event."""
        await run_in_threadpool(access.demand, who, SiteAction.READ)
        if last is not None:
            position = int(last)
        else:
            position = await run_in_threadpool(store.read, last_event) if after is None else after
        return StreamingResponse(
            event_stream(site, who, position, deployment),
            media_type=STREAM,
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    return routes


def read_event_page(site: Site, who: Principal, after: int, limit: int, deployment: str | None = None) -> EventPage:
    """The events after a number that a principal may see, and the last number that was looked at."""
    access = site.access
    reach = access.reach(who)
    nodes = access.allows(who, SiteAction.NODES)
    found = site.store.read(list_events, after, limit, deployment)
    items = tuple(one for one in found if _visible(access, reach, one, nodes=nodes))
    return EventPage(items=items, last=found[-1].number if found else after, more=len(found) == limit)


async def event_stream(
    site: Site, who: Principal, position: int, deployment: str | None, seconds: float = MAX_STREAM
) -> AsyncIterator[bytes]:
    """The stream of the events after a number that a principal may see, for at most so many seconds."""
    wakeup = site.wakeup
    until = wakeup.time() + min(seconds, MAX_STREAM)
    yield format_sse_event(retry=RETRY_MILLISECONDS)
    while not wakeup.ended and wakeup.time() < until:
        count = wakeup.count
        found = await run_in_threadpool(read_event_page, site, who, position, MAX_PAGE, deployment)
        position = found.last
        for one in found.items:
            yield sse_event(one)
        if found.more:
            continue
        before = wakeup.time()
        await wakeup.wait(count, HEARTBEAT)
        if wakeup.time() - before >= HEARTBEAT:
            yield format_sse_event(comment="alive", id=str(position))


def sse_event(event: SiteEvent) -> bytes:
    """An event in the form of a stream."""
    return format_sse_event(event=event.kind, data_str=canonical(event).decode(), id=str(event.number))


def _visible(access: SiteAuthorizer, reach: Reach, event: SiteEvent, *, nodes: bool) -> bool:
    if event.deployment is not None:
        return access.sees(reach, event.deployment)
    if event.kind == "cluster":
        return access.sees_cluster(reach, event.subject)
    return reach.everything or (event.kind == "node" and nodes)
