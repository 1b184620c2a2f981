"""The routes of flat images: an image's disk as one file, for clients that do not know Partita's partitions."""

from collections.abc import Callable
from datetime import datetime

from fastapi import APIRouter, Request, Response

from catalog.api.images import missing_image
from catalog.content.flat_image import FlatImageStore
from catalog.db.images import get_manifest
from catalog.errors import BlankFailed, Conflict, Malformed, NotFound, RangeRefused
from catalog.image.manifest import Manifest
from catalog.publication.images import PublicationService
from catalog.schema.images import FlatImage
from catalog.web.parameters import IMAGE_ID, RANGE_RESPONSES, described
from catalog.web.responses import RangeResponse, document_response

FLAT_ERRORS = (NotFound, Malformed, Conflict, BlankFailed)


def flat_routes(publishing: PublicationService, now: Callable[[], datetime]) -> APIRouter:
    """GET /v1/images/{image_id}/flat and /disk.raw."""
    routes = APIRouter(prefix="/v1/images", tags=["flat images"])
    store = FlatImageStore(publishing.contents)

    def read_manifest(image_id: str) -> Manifest:
        with publishing.database.reading() as connection:
            data = get_manifest(connection, image_id)
        if data is None:
            raise missing_image(f"image {image_id}")
        return Manifest.parse(data)

    @routes.get(
        "/{image_id}/flat",
        **described("Get size and SHA-512 of an image's disk as one file", FlatImage, *FLAT_ERRORS),
    )
    def flat(request: Request, image_id: IMAGE_ID) -> Response:
        """The first request waits while the whole disk is read; later ones do not. An image of several disks has none."""
        measured = store.measure(read_manifest(image_id), now())
        return document_response(request, FlatImage(image_id=image_id, size=measured.size, sha512=measured.sha512))

    @routes.get(
        "/{image_id}/disk.raw",
        **described(
            "Get an image's disk as one raw file, or a range of it",
            None,
            *FLAT_ERRORS,
            RangeRefused,
            responses=RANGE_RESPONSES,
        ),
    )
    @routes.head("/{image_id}/disk.raw", include_in_schema=False)
    def disk(request: Request, image_id: IMAGE_ID) -> Response:
        """Partition tables, contents, blanks and the zeros between them, assembled while they are sent."""
        source = store.open(read_manifest(image_id))
        return RangeResponse(request, source.size, source.tag, source.read, source.close)

    return routes
