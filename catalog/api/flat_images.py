"""The routes of flat images: an image's disk as one file, for those who know nothing of partitions."""

from collections.abc import Callable
from datetime import datetime

from fastapi import APIRouter, Request, Response

from catalog.content.flat_image import FlatImageStore
from catalog.db import images as registry
from catalog.errors import BlankFailed, Conflict, Malformed, NotFound, RangeRefused
from catalog.image.manifest import Manifest
from catalog.publication.images import PublicationService
from catalog.schema.flat import FlatImage
from catalog.web.parameters import IMAGE_ID
from catalog.web.problems import problem_responses
from catalog.web.responses import RangeResponse, document_response


def flat_routes(publishing: PublicationService, now: Callable[[], datetime]) -> APIRouter:
    """GET /v1/images/{image_id}/flat and /disk.raw."""
    routes = APIRouter(prefix="/v1/images", tags=["flat images"])
    flattening = FlatImageStore(publishing.contents)

    def look(image_id: str) -> Manifest:
        with publishing.database.reading() as connection:
            data = registry.get_manifest(connection, image_id)
        if data is None:
            raise NotFound(f"there is no image {image_id} here; `partita image list` shows what there is")
        return Manifest.parse(data)

    @routes.get(
        "/{image_id}/flat",
        response_model=FlatImage,
        responses=problem_responses(NotFound, Malformed, Conflict, BlankFailed),
        summary="Get size and SHA-512 of an image's disk as one file",
    )
    def flat(request: Request, image_id: IMAGE_ID) -> Response:
        """The first to ask waits while all of it is read; then it is known. Images of several disks have none."""
        measured = flattening.measure(look(image_id), now())
        return document_response(request, FlatImage(image_id=image_id, size=measured.size, sha512=measured.sha512))

    @routes.get(
        "/{image_id}/disk.raw",
        response_class=Response,
        responses=problem_responses(NotFound, Malformed, RangeRefused, Conflict, BlankFailed)
        | {
            200: {"content": {"application/octet-stream": {"example": "(bytes)"}}},
            206: {
                "description": "The range asked for.",
                "content": {"application/octet-stream": {"example": "(bytes)"}},
            },
        },
        summary="Get an image's disk as one raw file, or a range of it",
    )
    @routes.head("/{image_id}/disk.raw", include_in_schema=False)
    def disk(request: Request, image_id: IMAGE_ID) -> Response:
        """Partition tables, contents, blanks and the zeros between them, put together while they are sent."""
        return RangeResponse(request, flattening.open(look(image_id)))

    return routes
