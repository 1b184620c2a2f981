"""The routes of publishers. Who may publish is decided by signatures alone (`publishing`): there are no passwords."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request, Response

from catalog.errors import (
    Conflict,
    ContentMismatch,
    Malformed,
    NotEntitled,
    NotFound,
    RangeRefused,
    TooLarge,
    Unavailable,
)
from catalog.image.address import Address
from catalog.publication.images import Publishing
from catalog.schema.images import (
    MAX_PART,
    MAX_REQUEST,
    EndorsementsRequest,
    Publication,
    PublicationRequest,
    Received,
    parse_content_range,
)
from catalog.web.parameters import ADDRESS, IMAGE_ID, address_of, body, pieces, problems
from catalog.web.responses import CHUNK, document
from signer.documents import Document, parse
from signer.runtime.terminal import size


def publishing_routes(publishing: Publishing, now: Callable[[], datetime]) -> APIRouter:
    """The routes under /v1/publications, and the one that adds endorsements."""
    routes = APIRouter(prefix="/v1", tags=["publishing"])

    def instant() -> datetime:
        return now().replace(microsecond=0)  # documents carry seconds

    @routes.post(
        "/publications",
        response_model=Publication,
        responses=problems(Malformed, NotEntitled, Conflict, TooLarge, Unavailable),
        openapi_extra=takes(PublicationRequest),
        summary="Begin a publication, or go on with it",
    )
    async def begin(request: Request) -> Response:
        """Send the manifest with at least one endorsement by a registered key of its VO; learn which contents are missing."""
        wanted = parse(
            PublicationRequest, await body(request, MAX_REQUEST, "a publication"), "publication", limit=MAX_REQUEST
        )
        return document(
            request, await to_thread.run_sync(publishing.begin, wanted.manifest, wanted.endorsements, instant())
        )

    @routes.get(
        "/publications/{image_id}/blobs/{address}",
        response_model=Received,
        responses=problems(NotFound, Malformed),
        summary="Ask what has arrived of a content",
    )
    def status(request: Request, image_id: IMAGE_ID, address: ADDRESS) -> Response:
        """What is listed is safely stored and need not be sent again."""
        return document(request, publishing.status(image_id, address_of(address)))

    @routes.put(
        "/publications/{image_id}/blobs/{address}",
        response_model=Received,
        responses=problems(NotFound, Malformed, RangeRefused, TooLarge, Unavailable),
        openapi_extra={
            "parameters": [
                {
                    "name": "Content-Range",
                    "in": "header",
                    "required": True,
                    "schema": {"type": "string"},
                    "example": "bytes 0-8388607/1073741824",
                    "description": "Begins and ends on multiples of 16384 bytes, or at the content's end.",
                }
            ],
            "requestBody": {
                "required": True,
                "content": {
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}, "example": "(bytes)"}
                },
            },
        },
        summary="Send a range of a content",
    )
    async def put(request: Request, image_id: IMAGE_ID, address: ADDRESS) -> Response:
        """In any order, several at once, at most 16 MiB each. Zeros need not be sent. The answer means: safely stored."""
        wanted = address_of(address)
        length = request.headers.get("content-length", "")
        if not length.isdigit():
            raise Malformed("Content-Length is missing; a range is sent with its length")
        try:
            start, end = parse_content_range(request.headers.get("content-range", ""), int(length), wanted)
            return document(request, await _receive(publishing, request, image_id, wanted, start, end))
        except (NotFound, RangeRefused, Unavailable):
            async for _ in pieces(request, MAX_PART, "a range"):  # who is still sending does not see an answer
                pass
            raise

    @routes.post(
        "/publications/{image_id}/blobs/{address}/complete",
        response_model=Received,
        responses=problems(NotFound, Malformed, ContentMismatch, Unavailable),
        summary="Say that a content was sent whole",
    )
    def complete(request: Request, image_id: IMAGE_ID, address: ADDRESS) -> Response:
        """The catalog reads it again: it is accepted if it has its address, and else dropped."""
        return document(request, publishing.complete(image_id, address_of(address), instant()))

    @routes.post(
        "/publications/{image_id}/commit",
        response_model=Publication,
        responses=problems(NotFound, Malformed, NotEntitled, Conflict, Unavailable),
        summary="Make the image visible",
    )
    def commit(request: Request, image_id: IMAGE_ID) -> Response:
        """All or nothing. Asking again for an image that is published is no error."""
        return document(request, publishing.commit(image_id, instant()))

    @routes.post(
        "/images/{image_id}/endorsements",
        status_code=204,
        response_class=Response,
        responses=problems(NotFound, Malformed, NotEntitled, TooLarge, Unavailable),
        openapi_extra=takes(EndorsementsRequest),
        summary="Add endorsements to a published image",
    )
    async def endorse(request: Request, image_id: IMAGE_ID) -> Response:
        """By registered keys of the image's VO, each for this very image; one that does not count refuses them all."""
        wanted = parse(EndorsementsRequest, await body(request, MAX_REQUEST, "a list of endorsements"), "endorsements")
        await to_thread.run_sync(publishing.endorse, image_id, wanted.endorsements, instant())
        return Response(status_code=204)

    return routes


async def _receive(
    publishing: Publishing, request: Request, image_id: str, address: Address, start: int, end: int
) -> Received:
    """Take a range off the wire in large writes; keep it when it is whole."""
    arriving_range = publishing.arriving(image_id, address, start, end)
    arriving = await to_thread.run_sync(arriving_range.__enter__)
    try:
        waiting = bytearray()
        count = 0
        async for piece in pieces(request, end - start, f"the range {start}-{end - 1}"):
            count += len(piece)
            if arriving is not None:
                waiting += piece
                if len(waiting) >= CHUNK:
                    await to_thread.run_sync(arriving.write, bytes(waiting))
                    waiting.clear()
        if count != end - start:
            raise Unavailable(f"only {size(count)} of {size(end - start)} arrived; send the range again")
        if arriving is None:
            return await to_thread.run_sync(publishing.status, image_id, address)
        await to_thread.run_sync(arriving.write, bytes(waiting))
        return await to_thread.run_sync(publishing.keep, image_id, address, arriving)
    finally:
        await to_thread.run_sync(arriving_range.__exit__, None, None, None)


def takes(model: type[Document]) -> dict[str, Any]:
    """The body of a route that parses it by itself: strictly, which FastAPI does not."""
    schema = model.model_json_schema()
    example = schema.pop("examples")[0]
    for name, inner in schema.pop("$defs", {}).items():
        schema["properties"]["endorsements"]["items"] = inner | {"title": name}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}
