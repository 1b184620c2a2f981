"""The HTTP API: parse, call, render. Each error becomes its problem document; decisions are made elsewhere."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from fastapi import APIRouter, Depends, FastAPI, Request, Response

from catalog.access.authorizer import CatalogAuthorizer
from catalog.api.candidates import candidate_routes
from catalog.api.clusters import cluster_routes
from catalog.api.contents import content_routes, moved_routes
from catalog.api.flat_images import flat_routes
from catalog.api.history import history_routes
from catalog.api.images import CURSOR, LIMIT, VO, image_routes, readable_image
from catalog.api.publications import publication_routes
from catalog.api.revocations import revocation_routes
from catalog.api.swarm_grants import grant_routes
from catalog.api.tracker import AnnounceAuthorizer, tracker_routes
from catalog.api.tuf import tuf_routes
from catalog.db import images
from catalog.errors import CatalogError, Malformed, NotFound, Unavailable
from catalog.publication.images import PublicationService
from catalog.schema.images import PAGE_SIZE, VoKey, VoKeyList, VoPage
from catalog.schema.problems import Health
from catalog.swarm.tracker import Tracker
from catalog.web.parameters import described
from catalog.web.problems import ProblemApi
from catalog.web.responses import document_response
from signer.errors import DocumentError

CLEAN_SECONDS = 3600.0
"""How often abandoned publications are looked for."""

RENEW_SECONDS = 60.0
"""How often the TUF metadata is checked: far more often than the shortest half lifetime, 12 hours."""

log = logging.getLogger("partita.catalog")

Clock = Callable[[], datetime]


def create_app(publishing: PublicationService, now: Clock, *, mirror: bool = False) -> FastAPI:
    """The application over a state directory that this process owns. A mirror accepts, signs and deletes nothing."""

    def instant() -> datetime:
        return now().replace(microsecond=0)  # documents carry seconds

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loops = () if mirror else (_clean, _renew)
        tasks = [asyncio.create_task(loop(publishing, now)) for loop in loops]
        yield
        for task in tasks:
            task.cancel()

    app = ProblemApi(
        log,
        CatalogError,
        (CatalogError, DocumentError),  # the details of other errors stay in the log
        title="Partita catalog",
        version="1",
        summary="Virtual-machine images as signed, content-addressed sets of partitions.",
        description=__doc__,
        lifespan=lifespan,
    )
    authorizer = CatalogAuthorizer(publishing.database, now, time.monotonic)
    gate = AnnounceAuthorizer(
        authorizer.keys, authorizer.find_content, authorizer.holder_may_read, now, authorizer.swarm_hash
    )
    app.include_router(image_routes(publishing, authorizer))
    app.include_router(content_routes(publishing, authorizer))
    app.include_router(moved_routes())
    app.include_router(_vos(publishing))
    if not mirror:
        app.include_router(publication_routes(publishing, instant))
        app.include_router(candidate_routes(publishing, authorizer, instant))
    app.include_router(grant_routes(authorizer, now), prefix="/v1")
    app.include_router(tracker_routes(Tracker(), gate, time.monotonic), prefix="/v1")
    app.include_router(history_routes(publishing, authorizer))
    app.include_router(revocation_routes(publishing, instant, mirror=mirror))
    app.include_router(cluster_routes(publishing, instant, mirror=mirror))
    app.include_router(tuf_routes(publishing), dependencies=[Depends(readable_image(authorizer))])
    app.include_router(flat_routes(publishing, now), dependencies=[Depends(readable_image(authorizer))])
    app.include_router(_health(publishing))
    return app


def _vos(publishing: PublicationService) -> APIRouter:
    routes = APIRouter(prefix="/v1/vos", tags=["VOs"])

    @routes.get("", **described("List registered VOs", VoPage, Malformed))
    def vos(request: Request, cursor: CURSOR = None, limit: LIMIT = PAGE_SIZE) -> Response:
        """Sorted by name."""
        with publishing.database.reading() as connection:
            found = images.list_vos(connection, cursor or "", limit + 1)
        more = found[limit - 1].name if len(found) > limit else None
        return document_response(request, VoPage(items=tuple(found[:limit]), next=more))

    @routes.get("/{vo}/keys", **described("List the registered keys of a VO", VoKeyList, NotFound, Malformed))
    def keys(request: Request, vo: VO) -> Response:
        """The keys whose endorsements this catalog accepts. A site decides for itself which keys it trusts."""
        with publishing.database.reading() as connection:
            if not images.has_vo(connection, vo):
                raise NotFound(f"the VO {vo} is not registered here")
            found = images.list_anchors(connection, vo)
        items = tuple(
            VoKey(fingerprint=a.fingerprint, role=a.role, key=a.key.decode("ascii", "replace")) for a in found
        )
        return document_response(request, VoKeyList(vo=vo, items=items))

    return routes


def _health(publishing: PublicationService) -> APIRouter:
    routes = APIRouter(tags=["health"])

    @routes.get("/livez", **described("Whether the service runs", Health))
    def live() -> Health:
        """Answers as long as the process runs."""
        return Health()

    @routes.get("/readyz", **described("Whether the service can serve and accept", Health, Unavailable))
    def ready() -> Health:
        """The database answers, and no write to the disk has failed."""
        publishing.contents.check_writable()
        with publishing.database.reading() as connection:
            images.has_vo(connection, "")
        return Health()

    return routes


async def _clean(publishing: PublicationService, now: Clock) -> None:
    while True:
        await asyncio.sleep(CLEAN_SECONDS)
        try:
            await asyncio.to_thread(publishing.expire, now())
        except CatalogError as exc:  # the next hour tries again
            log.warning("deleting abandoned publications failed; retrying in %.0f s: %s", CLEAN_SECONDS, exc)


async def _renew(publishing: PublicationService, now: Clock) -> None:
    """Renew online TUF metadata at half of its lifetime, and log once what an operator must sign."""
    logged: frozenset[str] = frozenset()
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        try:
            warnings = frozenset(await asyncio.to_thread(publishing.renew, now()))
        except CatalogError as exc:
            warnings = frozenset({f"TUF metadata cannot be renewed: {exc}"})
        for sentence in sorted(warnings - logged):
            log.warning("%s", sentence)
        logged = warnings
