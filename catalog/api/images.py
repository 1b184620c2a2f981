"""The routes of published images, and of the names that they have."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from catalog.access.authorizer import CREDENTIAL, CatalogAuthorizer
from catalog.access.rules import ImageScope
from catalog.db import images as rows
from catalog.errors import Malformed, NotEntitled, NotFound
from catalog.image.manifest import MANIFEST_MEDIA_TYPE
from catalog.publication.images import PublicationService
from catalog.schema.images import MAX_PAGE_SIZE, PAGE_SIZE, EndorsementList, ImageEntry, ImagePage, SignedStatement
from catalog.tuf.targets import image_of_path
from catalog.web.parameters import IMAGE_ID, VO_FILTER, described, example_response
from catalog.web.responses import CACHE_FOREVER, document_response

VO = Annotated[str, Path(description="Name of a VO.", examples=["star"], max_length=64)]
NAME = Annotated[str, Path(description="Name of an image.", examples=["worker"], max_length=128)]
VERSION = Annotated[str, Path(description="Version of an image.", examples=["2026.11"], max_length=64)]
NAME_FILTER = Annotated[str | None, Query(description="Only of this name.", examples=["worker"], max_length=128)]
LIMIT = Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE, description="Items on the page, at most.")]
CURSOR = Annotated[str | None, Query(max_length=64, description="`next` of the previous page.", examples=["41"])]
MANIFEST_RESPONSE = example_response(MANIFEST_MEDIA_TYPE, {"type": "urn:partita:image:v1"})


def readable_image(authorizer: CatalogAuthorizer) -> Callable[..., None]:
    """A dependency of routes below an image's ID or a target's path: NotFound where the site may not read the image."""

    def check(request: Request, credential: CREDENTIAL) -> None:
        found = request.path_params.get("image_id") or image_of_path(str(request.path_params.get("path", "")))
        if found is None:
            return
        site = authorizer.identify(credential)
        if isinstance(found, ImageScope):
            allowed = authorizer.may_read(site, found)
        else:
            allowed = authorizer.may_read_image(site, found)
        if not allowed:
            raise missing_image("such image")

    return check


def missing_image(name: str) -> NotFound:
    """The refusal of a request for an image that does not exist, or that the site may not read."""
    return NotFound(f"no {name} here; `partita image list` shows the images")


def image_routes(publishing: PublicationService, authorizer: CatalogAuthorizer) -> APIRouter:
    """Under /v1/images and /v1/names."""
    routes = APIRouter(prefix="/v1", tags=["images"])
    database = publishing.database

    @routes.get("/images", **described("List published images", ImagePage, Malformed, NotEntitled))
    def images(
        request: Request,
        credential: CREDENTIAL,
        vo: VO_FILTER = None,
        name: NAME_FILTER = None,
        cursor: CURSOR = None,
        limit: LIMIT = PAGE_SIZE,
    ) -> Response:
        """Last published first, those that you may read. Follow `next` for older ones; new images shift no page."""
        site = authorizer.identify(credential)
        return document_response(request, _page(publishing, authorizer, site, vo, name, cursor, limit))

    @routes.get(
        "/names/{vo}/{name}", **described("List the versions of a name", ImagePage, NotFound, Malformed, NotEntitled)
    )
    def versions(
        request: Request, credential: CREDENTIAL, vo: VO, name: NAME, cursor: CURSOR = None, limit: LIMIT = PAGE_SIZE
    ) -> Response:
        """Last published first; the first item of the first page is what the name without a version stands for."""
        page = _page(publishing, authorizer, authorizer.identify(credential), vo, name, cursor, limit)
        if not page.items and cursor is None:
            raise missing_image(f"image {vo}/{name}")
        return document_response(request, page)

    @routes.get(
        "/names/{vo}/{name}/{version}",
        **described("Find the image of a name and version", ImageEntry, NotFound, Malformed, NotEntitled),
    )
    def version(request: Request, credential: CREDENTIAL, vo: VO, name: NAME, version: VERSION) -> Response:
        """The image of a name and version never changes."""
        with database.reading() as connection:
            entry = rows.find_image(connection, vo, name, version)
        site = authorizer.identify(credential)
        if entry is None or not authorizer.may_read(site, ImageScope(vo, name, version)):
            raise missing_image(f"image {vo}/{name}@{version}")
        return document_response(request, entry)

    def read_manifest(credential: CREDENTIAL, image_id: str) -> bytes:
        site = authorizer.identify(credential)
        with database.reading() as connection:
            data = rows.get_manifest(connection, image_id)
        if data is None or not authorizer.may_read_image(site, image_id):
            raise missing_image(f"image {image_id}")
        return data

    @routes.get(
        "/images/{image_id}",
        **described("Get a manifest", None, NotFound, Malformed, NotEntitled, responses=MANIFEST_RESPONSE),
    )
    @routes.head("/images/{image_id}", include_in_schema=False)
    def manifest(request: Request, credential: CREDENTIAL, image_id: IMAGE_ID) -> Response:
        """The canonical bytes; their SHA-256 is the image ID, so check it."""
        data = read_manifest(credential, image_id)
        return document_response(request, data, tag=image_id, media_type=MANIFEST_MEDIA_TYPE, cache=CACHE_FOREVER)

    @routes.get(
        "/images/{image_id}/endorsements",
        **described("List the endorsements of an image", EndorsementList, NotFound, Malformed, NotEntitled),
    )
    def endorsements(request: Request, credential: CREDENTIAL, image_id: IMAGE_ID) -> Response:
        """Statements and signatures as they were received. Verify them yourself: your anchors decide what you boot."""
        read_manifest(credential, image_id)
        with database.reading() as connection:
            found = rows.list_endorsements(connection, image_id)
        items = tuple(SignedStatement.of(one.statement, one.signature) for one in found)
        return document_response(request, EndorsementList(items=items))

    return routes


def _page(
    publishing: PublicationService,
    authorizer: CatalogAuthorizer,
    site: str,
    vo: str | None,
    name: str | None,
    cursor: str | None,
    limit: int,
) -> ImagePage:
    if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 18):
        raise Malformed(f"invalid cursor {cursor[:40]!r}; use `next` from the previous page")
    before = None if cursor is None else int(cursor)
    found: list[tuple[int, ImageEntry]] = []
    with publishing.database.reading() as connection:
        while len(found) <= limit:
            more = rows.list_images(connection, vo, name, before, limit + 1)
            found += [
                (number, entry)
                for number, entry in more
                if authorizer.may_read(site, ImageScope(entry.vo, entry.name, entry.version))
            ]
            if len(more) <= limit:
                break
            before = more[-1][0]
    following = str(found[limit - 1][0]) if len(found) > limit else None
    return ImagePage(items=tuple(entry for _, entry in found[:limit]), next=following)
