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
from catalog.publication.images import PublicationService
from catalog.schema.images import (
    MAX_REQUEST_DOCUMENT,
    MAX_UPLOAD_PART,
    EndorsementsRequest,
    Publication,
    PublicationRequest,
    UploadStatus,
    parse_content_range,
)
from catalog.web.parameters import ADDRESS, IMAGE_ID, parse_address, read_body, stream_body
from catalog.web.problems import problem_responses
from catalog.web.responses import CHUNK_SIZE, document_response
from signer.documents import Document, parse
from signer.runtime.terminal import format_size


def publication_routes(publishing: PublicationService, now: Callable[[], datetime]) -> APIRouter:
    """The routes under /v1/publications, and the one that adds endorsements."""
    routes = APIRouter(prefix="/v1", tags=["publishing"])

    def instant() -> datetime:
        return now().replace(microsecond=0)  # documents carry seconds

    @routes.post(
        "/publications",
        response_model=Publication,
        responses=problem_responses(Malformed, NotEntitled, Conflict, TooLarge, Unavailable),
        openapi_extra=request_body(PublicationRequest),
        summary="Begin a publication, or go on with it",
    )
    async def begin(request: Request) -> Response:
        """Send the manifest with at least one endorsement by a registered key of its VO; learn which contents are missing."""
        wanted = parse(
            PublicationRequest,
            await read_body(request, MAX_REQUEST_DOCUMENT, "a publication"),
            "publication",
            limit=MAX_REQUEST_DOCUMENT,
        )
        return document_response(
            request, await to_thread.run_sync(publishing.begin, wanted.manifest, wanted.endorsements, instant())
        )

    @routes.get(
        "/publications/{image_id}/blobs/{address}",
        response_model=UploadStatus,
        responses=problem_responses(NotFound, Malformed),
        summary="Ask what has arrived of a content",
    )
    def status(request: Request, image_id: IMAGE_ID, address: ADDRESS) -> Response:
        """What is listed is safely stored and need not be sent again."""
        return document_response(request, publishing.status(image_id, parse_address(address)))

    @routes.put(
        "/publications/{image_id}/blobs/{address}",
        response_model=UploadStatus,
        responses=problem_responses(NotFound, Malformed, RangeRefused, TooLarge, Unavailable),
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
        wanted = parse_address(address)
        length = request.headers.get("content-length", "")
        if not length.isdigit():
            raise Malformed("Content-Length is missing; a range is sent with its length")
        try:
            start, end = parse_content_range(request.headers.get("content-range", ""), int(length), wanted)
            return document_response(request, await _receive(publishing, request, image_id, wanted, start, end))
        except (NotFound, RangeRefused, Unavailable):
            async for _ in stream_body(
                request, MAX_UPLOAD_PART, "a range"
            ):  # who is still sending does not see an answer
                pass
            raise

    @routes.post(
        "/publications/{image_id}/blobs/{address}/complete",
        response_model=UploadStatus,
        responses=problem_responses(NotFound, Malformed, ContentMismatch, Unavailable),
        summary="Say that a content was sent whole",
    )
    def complete(request: Request, image_id: IMAGE_ID, address: ADDRESS) -> Response:
        """The catalog reads it again: it is accepted if it has its address, and else dropped."""
        return document_response(request, publishing.complete(image_id, parse_address(address), instant()))

    @routes.post(
        "/publications/{image_id}/commit",
        response_model=Publication,
        responses=problem_responses(NotFound, Malformed, NotEntitled, Conflict, Unavailable),
        summary="Make the image visible",
    )
    def commit(request: Request, image_id: IMAGE_ID) -> Response:
        """All or nothing. Asking again for an image that is published is no error."""
        return document_response(request, publishing.commit(image_id, instant()))

    @routes.post(
        "/images/{image_id}/endorsements",
        status_code=204,
        response_class=Response,
        responses=problem_responses(NotFound, Malformed, NotEntitled, TooLarge, Unavailable),
        openapi_extra=request_body(EndorsementsRequest),
        summary="Add endorsements to a published image",
    )
    async def endorse(request: Request, image_id: IMAGE_ID) -> Response:
        """By registered keys of the image's VO, each for this very image; one that does not count refuses them all."""
        wanted = parse(
            EndorsementsRequest,
            await read_body(request, MAX_REQUEST_DOCUMENT, "a list of endorsements"),
            "endorsements",
        )
        await to_thread.run_sync(publishing.endorse, image_id, wanted.endorsements, instant())
        return Response(status_code=204)

    return routes


async def _receive(
    publishing: PublicationService, request: Request, image_id: str, address: Address, start: int, end: int
) -> UploadStatus:
    """Take a range off the wire in large writes; keep it when it is whole."""
    arriving_range = publishing.arriving(image_id, address, start, end)
    arriving = await to_thread.run_sync(arriving_range.__enter__)
    try:
        waiting = bytearray()
        count = 0
        async for piece in stream_body(request, end - start, f"the range {start}-{end - 1}"):
            count += len(piece)
            if arriving is not None:
                waiting += piece
                if len(waiting) >= CHUNK_SIZE:
                    await to_thread.run_sync(arriving.write, bytes(waiting))
                    waiting.clear()
        if count != end - start:
            raise Unavailable(f"only {format_size(count)} of {format_size(end - start)} arrived; send the range again")
        if arriving is None:
            return await to_thread.run_sync(publishing.status, image_id, address)
        await to_thread.run_sync(arriving.write, bytes(waiting))
        return await to_thread.run_sync(publishing.keep, image_id, address, arriving)
    finally:
        await to_thread.run_sync(arriving_range.__exit__, None, None, None)


def request_body(model: type[Document]) -> dict[str, Any]:
    """The body of a route that parses it by itself: strictly, which FastAPI does not."""
    schema = model.model_json_schema()
    example = schema.pop("examples")[0]
    for name, inner in schema.pop("$defs", {}).items():
        schema["properties"]["endorsements"]["items"] = inner | {"title": name}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}
