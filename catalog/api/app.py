"""The HTTP API: parse, call, render. Each error becomes its problem document (`problems`); no decision is taken here.

`create_app` puts together what everyone may read (this module) and what publishers may do (`api_publishing`).
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request, Response

from catalog.access.authorizer import CREDENTIAL, BearerCredentials, CatalogAuthorizer
from catalog.access.rules import ImageScope
from catalog.api.candidates import candidate_routes
from catalog.api.clusters import cluster_routes
from catalog.api.flat_images import flat_routes
from catalog.api.history import history_routes
from catalog.api.publications import publication_routes
from catalog.api.revocations import revocation_routes
from catalog.api.swarm_grants import grant_routes
from catalog.api.tracker import AnnounceAuthorizer, tracker_routes
from catalog.api.tuf import tuf_routes
from catalog.db import images as registry
from catalog.errors import CatalogError, Malformed, NotEntitled, NotFound, RangeRefused, Unavailable
from catalog.image.address import Address
from catalog.image.manifest import MANIFEST_MEDIA_TYPE
from catalog.publication.images import PublicationService
from catalog.schema.images import (
    MAX_PAGE_SIZE,
    PAGE_SIZE,
    EndorsementList,
    ImageEntry,
    ImagePage,
    SignedStatement,
    VoKey,
    VoKeyList,
    VoPage,
)
from catalog.schema.problems import Health
from catalog.swarm.tracker import Tracker
from catalog.tuf.targets import image_of_path
from catalog.web.parameters import ADDRESS, ARTIFACT, IMAGE_ID, parse_address
from catalog.web.problems import ProblemApi, problem_responses
from catalog.web.responses import CACHE_FOREVER, ContentResponse, document_response
from signer.errors import DocumentError

CLEAN_SECONDS = 3600.0
"""How often publications that nobody continues are looked for."""

RENEW_SECONDS = 60.0
"""How often the freshness metadata is looked at: far more often than the shortest half lifetime, 12 hours."""

log = logging.getLogger("partita.catalog")

Clock = Callable[[], datetime]
VO = Annotated[str, Path(description="Name of a VO.", examples=["star"], max_length=64)]
NAME = Annotated[str, Path(description="Name of an image.", examples=["worker"], max_length=128)]
VERSION = Annotated[str, Path(description="Version of an image.", examples=["2026.11"], max_length=64)]
LIMIT = Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE, description="Items on the page, at most.")]
CURSOR = Annotated[str | None, Query(max_length=64, description="`next` of the page before.", examples=["41"])]


def create_app(publishing: PublicationService, now: Clock, *, mirror: bool = False) -> FastAPI:
    """The application over a store that this process owns. A mirror takes no publications, and signs and drops nothing."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        duties = () if mirror else (_clean, _renew)
        tasks = [asyncio.create_task(duty(publishing, now)) for duty in duties]
        yield
        for task in tasks:
            task.cancel()

    app = ProblemApi(
        log,
        CatalogError,
        (CatalogError, DocumentError),  # what else goes wrong inside is not for strangers
        title="Partita catalog",
        version="1",
        summary="Virtual-machine images as signed, content-addressed sets of partitions.",
        description=__doc__,
        lifespan=lifespan,
    )
    readers = CatalogAuthorizer(publishing.database, now, time.monotonic)
    gate = AnnounceAuthorizer(readers.keys, readers.content, readers.holder_may_read, now, readers.swarm_hash)
    app.include_router(_images(publishing, readers))
    app.include_router(_blobs(publishing, readers))
    app.include_router(_vos(publishing))
    if not mirror:
        app.include_router(publication_routes(publishing, now))
        app.include_router(candidate_routes(publishing, readers, now))
    app.include_router(grant_routes(readers, now), prefix="/v1")
    app.include_router(tracker_routes(Tracker(), gate, time.monotonic), prefix="/v1")
    app.include_router(history_routes(publishing, readers))
    app.include_router(revocation_routes(publishing, now, mirror=mirror))
    app.include_router(cluster_routes(publishing, now, mirror=mirror))
    app.include_router(tuf_routes(publishing), dependencies=[Depends(_readable(readers))])
    app.include_router(flat_routes(publishing, now), dependencies=[Depends(_readable(readers))])
    app.include_router(_health(publishing))
    return app


def _readable(readers: CatalogAuthorizer) -> Callable[..., None]:
    """A dependency of routes below an image's ID, and of those of targets: they are for who may read the image."""

    def check(request: Request, shown: CREDENTIAL) -> None:
        found = request.path_params.get("image_id") or image_of_path(str(request.path_params.get("path", "")))
        if found is None:
            return
        site = readers.who(shown)
        may = readers.may_read(site, found) if isinstance(found, ImageScope) else readers.may_read_image(site, found)
        if not may:
            raise NotFound("there is no such image here; `partita image list` shows what there is")

    return check


def _images(publishing: PublicationService, readers: CatalogAuthorizer) -> APIRouter:
    routes = APIRouter(prefix="/v1", tags=["images"])
    database = publishing.database

    @routes.get(
        "/images",
        response_model=ImagePage,
        responses=problem_responses(Malformed, NotEntitled),
        summary="List published images",
    )
    def images(
        request: Request,
        shown: CREDENTIAL,
        vo: Annotated[str | None, Query(description="Only of this VO.", examples=["star"], max_length=64)] = None,
        name: Annotated[
            str | None, Query(description="Only of this name.", examples=["worker"], max_length=128)
        ] = None,
        cursor: CURSOR = None,
        limit: LIMIT = PAGE_SIZE,
    ) -> Response:
        """Last published first, those that you may read. Follow `next` for older ones: newer ones shift nothing."""
        return document_response(request, _page(publishing, readers, readers.who(shown), vo, name, cursor, limit))

    @routes.get(
        "/names/{vo}/{name}",
        response_model=ImagePage,
        responses=problem_responses(NotFound, Malformed, NotEntitled),
        summary="List the versions of a name",
    )
    def versions(
        request: Request, shown: CREDENTIAL, vo: VO, name: NAME, cursor: CURSOR = None, limit: LIMIT = PAGE_SIZE
    ) -> Response:
        """Last published first; the first of the first page is what the name alone stands for."""
        page = _page(publishing, readers, readers.who(shown), vo, name, cursor, limit)
        if not page.items and cursor is None:
            raise NotFound(f"there is no image {vo}/{name} here; `partita image list` shows what there is")
        return document_response(request, page)

    @routes.get(
        "/names/{vo}/{name}/{version}",
        response_model=ImageEntry,
        responses=problem_responses(NotFound, Malformed, NotEntitled),
        summary="Find the image of a name and version",
    )
    def version(request: Request, shown: CREDENTIAL, vo: VO, name: NAME, version: VERSION) -> Response:
        """A name and version never stand for another image once they stand for one."""
        with database.reading() as connection:
            entry = registry.find_image(connection, vo, name, version)
        if not readers.may_read(readers.who(shown), ImageScope(vo, name, version)) or entry is None:
            raise NotFound(f"there is no image {vo}/{name}@{version} here; `partita image list` shows what there is")
        return document_response(request, entry)

    @routes.get(
        "/images/{image_id}",
        response_class=Response,
        responses=problem_responses(NotFound, Malformed, NotEntitled)
        | {200: {"content": {MANIFEST_MEDIA_TYPE: {"example": {"type": "urn:partita:image:v1"}}}}},
        summary="Get a manifest",
    )
    @routes.head("/images/{image_id}", include_in_schema=False)
    def manifest(request: Request, shown: CREDENTIAL, image_id: IMAGE_ID) -> Response:
        """The canonical bytes; their SHA-256 is the image ID, so check it."""
        data = _manifest(publishing, readers, readers.who(shown), image_id)
        return document_response(request, data, tag=image_id, media_type=MANIFEST_MEDIA_TYPE, cache=CACHE_FOREVER)

    @routes.get(
        "/images/{image_id}/endorsements",
        response_model=EndorsementList,
        responses=problem_responses(NotFound, Malformed, NotEntitled),
        summary="List the endorsements of an image",
    )
    def endorsements(request: Request, shown: CREDENTIAL, image_id: IMAGE_ID) -> Response:
        """Statements and signatures as they came. Verify them yourself: the catalog is not who decides what you boot."""
        _manifest(publishing, readers, readers.who(shown), image_id)
        with database.reading() as connection:
            found = registry.list_endorsements(connection, image_id)
        items = tuple(SignedStatement.of(one.statement, one.signature) for one in found)
        return document_response(request, EndorsementList(items=items))

    return routes


def _blobs(publishing: PublicationService, readers: CatalogAuthorizer) -> APIRouter:
    routes = APIRouter(prefix="/v1/blobs", tags=["contents"])
    binary: dict[int | str, dict[str, Any]] = {200: {"content": {"application/octet-stream": {"example": "(bytes)"}}}}

    def look(text: str, shown: BearerCredentials) -> Address:
        address = parse_address(text)
        if not readers.may_read_content(readers.who(shown), address):
            raise NotFound(f"there is no content {address} here")
        return address

    @routes.get(
        "/{address}",
        response_class=Response,
        responses=problem_responses(NotFound, Malformed, NotEntitled, RangeRefused)
        | binary
        | {
            206: {
                "description": "The range asked for.",
                "content": {"application/octet-stream": {"example": "(bytes)"}},
            }
        },
        summary="Get a content, or a range of it",
    )
    @routes.head("/{address}", include_in_schema=False)
    def content(request: Request, shown: CREDENTIAL, address: ADDRESS) -> Response:
        """One range (`Range: bytes=FIRST-LAST`), or up to 512 in their order with gaps between, as `multipart/byteranges`."""
        found = look(address, shown)
        return ContentResponse(request, publishing.contents.open(found), found)

    @routes.get(
        "/{address}/{artifact}",
        response_class=Response,
        responses=problem_responses(NotFound, Malformed, NotEntitled) | binary,
        summary="Get what the catalog measured in a content",
    )
    def beside(request: Request, shown: CREDENTIAL, address: ADDRESS, artifact: ARTIFACT) -> Response:
        """`map`: one bit per 16 KiB, set where it is not zero. `layer`: the piece layer. `hints`: XXH3-64 per 4 KiB.

        Unsigned: check the layer against the address, and believe map and hints only as far as the content bears them out.
        """
        found = look(address, shown)
        data = publishing.contents.accelerator(found, artifact)
        return document_response(
            request, data, tag=f"{found}.{artifact}", media_type="application/octet-stream", cache=CACHE_FOREVER
        )

    return routes


def _vos(publishing: PublicationService) -> APIRouter:
    routes = APIRouter(prefix="/v1/vos", tags=["VOs"])

    @routes.get("", response_model=VoPage, responses=problem_responses(Malformed), summary="List registered VOs")
    def vos(request: Request, cursor: CURSOR = None, limit: LIMIT = PAGE_SIZE) -> Response:
        """By name."""
        with publishing.database.reading() as connection:
            found = registry.list_vos(connection, cursor or "", limit + 1)
        more = found[limit - 1].name if len(found) > limit else None
        return document_response(request, VoPage(items=tuple(found[:limit]), next=more))

    @routes.get(
        "/{vo}/keys",
        response_model=VoKeyList,
        responses=problem_responses(NotFound, Malformed),
        summary="List the registered keys of a VO",
    )
    def keys(request: Request, vo: VO) -> Response:
        """Whose endorsements this catalog accepts. A site decides for itself whom it trusts."""
        with publishing.database.reading() as connection:
            if not registry.has_vo(connection, vo):
                raise NotFound(f"the VO {vo} is not registered here")
            found = registry.list_anchors(connection, vo)
        items = tuple(
            VoKey(fingerprint=a.fingerprint, role=a.role, key=a.key.decode("ascii", "replace")) for a in found
        )
        return document_response(request, VoKeyList(vo=vo, items=items))

    return routes


def _health(publishing: PublicationService) -> APIRouter:
    routes = APIRouter(tags=["health"])

    @routes.get("/livez", response_model=Health, summary="Whether the service runs")
    def live() -> Health:
        """Answers as long as the process does."""
        return Health()

    @routes.get(
        "/readyz",
        response_model=Health,
        responses=problem_responses(Unavailable),
        summary="Whether the service can serve and accept",
    )
    def ready() -> Health:
        """The database answers, and no write to the disk has failed."""
        publishing.contents.check_writable()
        with publishing.database.reading() as connection:
            registry.has_vo(connection, "")
        return Health()

    return routes


def _page(
    publishing: PublicationService,
    readers: CatalogAuthorizer,
    site: str,
    vo: str | None,
    name: str | None,
    cursor: str | None,
    limit: int,
) -> ImagePage:
    if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 18):
        raise Malformed(f"the cursor {cursor[:40]!r} is none of ours; use `next` of the page before")
    before = None if cursor is None else int(cursor)
    found: list[tuple[int, ImageEntry]] = []
    with publishing.database.reading() as connection:
        while len(found) <= limit:
            more = registry.list_images(connection, vo, name, before, limit + 1)
            found += [
                (number, entry)
                for number, entry in more
                if readers.may_read(site, ImageScope(entry.vo, entry.name, entry.version))
            ]
            if len(more) <= limit:
                break
            before = more[-1][0]
    following = str(found[limit - 1][0]) if len(found) > limit else None
    return ImagePage(items=tuple(entry for _, entry in found[:limit]), next=following)


def _manifest(publishing: PublicationService, readers: CatalogAuthorizer, site: str, image_id: str) -> bytes:
    with publishing.database.reading() as connection:
        data = registry.get_manifest(connection, image_id)
    if data is None or not readers.may_read_image(site, image_id):
        raise NotFound(f"there is no image {image_id} here; `partita image list` shows what there is")
    return data


async def _clean(publishing: PublicationService, now: Clock) -> None:
    while True:
        await asyncio.sleep(CLEAN_SECONDS)
        try:
            await asyncio.to_thread(publishing.expire, now())
        except CatalogError as exc:  # the next hour tries again; the service goes on
            log.warning("cleaning failed: %s", exc)


async def _renew(publishing: PublicationService, now: Clock) -> None:
    """Sign the freshness metadata afresh at half of its lifetime, and say what an operator must sign."""
    told: frozenset[str] = frozenset()
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        try:
            warnings = frozenset(await asyncio.to_thread(publishing.renew, now()))
        except CatalogError as exc:
            warnings = frozenset({f"freshness metadata cannot be renewed: {exc}"})
        for sentence in sorted(warnings - told):
            log.warning("%s", sentence)
        told = warnings
