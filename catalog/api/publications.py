"""The routes of publishers. Signatures alone decide who may publish (`catalog.publication`): there are no passwords."""

from collections.abc import Callable
from datetime import datetime

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
    MAX_UPLOAD_PART,
    EndorsementsRequest,
    Publication,
    PublicationRequest,
    UploadStatus,
    parse_content_range,
)
from catalog.web.parameters import ADDRESS, IMAGE_ID, described, parse_address, read_document, stream_body
from catalog.web.responses import CHUNK_SIZE, document_response
from signer.runtime.terminal import format_size

BEGIN_ERRORS = (Malformed, NotEntitled, Conflict, TooLarge, Unavailable)
"""Of a request that publishes."""

ENDORSE_ERRORS = (NotFound, Malformed, NotEntitled, TooLarge, Unavailable)
"""Of a request that adds endorsements."""


def publication_routes(publishing: PublicationService, now: Callable[[], datetime]) -> APIRouter:
    """The routes under /v1/publications, and the one that adds endorsements."""
    routes = APIRouter(prefix="/v1", tags=["publishing"])

    @routes.post(
        "/publications",
        **described("Begin or continue a publication", Publication, *BEGIN_ERRORS, body=PublicationRequest),
    )
    async def begin(request: Request) -> Response:
        """Send the manifest with at least one endorsement by a registered key of its VO. Returns the missing contents."""
        wanted = await read_document(request, PublicationRequest, "publication")
        return document_response(
            request, await to_thread.run_sync(publishing.begin, wanted.manifest, wanted.endorsements, now())
        )

    @routes.get(
        "/publications/{image_id}/contents/{address}",
        **described("Get the ranges that have arrived of a content", UploadStatus, NotFound, Malformed),
    )
    def status(request: Request, image_id: IMAGE_ID, address: ADDRESS) -> Response:
        """The listed ranges are safely stored and need not be sent again."""
        return document_response(request, publishing.status(image_id, parse_address(address)))

    @routes.put(
        "/publications/{image_id}/contents/{address}",
        **described(
            "Send a range of a content", UploadStatus, NotFound, Malformed, RangeRefused, TooLarge, Unavailable
        ),
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
    )
    async def put(request: Request, image_id: IMAGE_ID, address: ADDRESS) -> Response:
        """In any order, several at once, at most 16 MiB each. Zeros need not be sent. An answer means safely stored."""
        wanted = parse_address(address)
        length = request.headers.get("content-length", "")
        if not length.isdigit():
            raise Malformed("Content-Length is missing; send a range with its length")
        try:
            start, end = parse_content_range(request.headers.get("content-range", ""), int(length), wanted)
            return document_response(request, await _receive(publishing, request, image_id, wanted, start, end))
        except (NotFound, RangeRefused, Unavailable):
            async for _ in stream_body(request, MAX_UPLOAD_PART, "a range"):
                pass  # a client that is still sending would not see the answer
            raise

    @routes.post(
        "/publications/{image_id}/contents/{address}/complete",
        **described(
            "Complete the upload of a content", UploadStatus, NotFound, Malformed, ContentMismatch, Unavailable
        ),
    )
    def complete(request: Request, image_id: IMAGE_ID, address: ADDRESS) -> Response:
        """The catalog reads it again, and accepts it if it has its address; otherwise it deletes what was sent."""
        return document_response(request, publishing.complete(image_id, parse_address(address), now()))

    @routes.post(
        "/publications/{image_id}/commit",
        **described("Make the image visible", Publication, NotFound, Malformed, NotEntitled, Conflict, Unavailable),
    )
    def commit(request: Request, image_id: IMAGE_ID) -> Response:
        """All or nothing. Committing a published image again is allowed."""
        return document_response(request, publishing.commit(image_id, now()))

    @routes.post(
        "/images/{image_id}/endorsements",
        status_code=204,
        **described("Add endorsements to a published image", None, *ENDORSE_ERRORS, body=EndorsementsRequest),
    )
    async def endorse(request: Request, image_id: IMAGE_ID) -> Response:
        """By registered keys of the image's VO, each for this very image; all are refused if one does not count."""
        wanted = await read_document(request, EndorsementsRequest, "list of endorsements")
        await to_thread.run_sync(publishing.endorse, image_id, wanted.endorsements, now())
        return Response(status_code=204)

    return routes


async def _receive(
    publishing: PublicationService, request: Request, image_id: str, address: Address, start: int, end: int
) -> UploadStatus:
    """Write a range to the store in large pieces while it arrives, and keep it when it is whole."""
    receiving = publishing.receive_range(image_id, address, start, end)
    upload = await to_thread.run_sync(receiving.__enter__)
    try:
        buffer = bytearray()
        count = 0
        async for chunk in stream_body(request, end - start, f"the range {start}-{end - 1}"):
            count += len(chunk)
            if upload is not None:
                buffer += chunk
                if len(buffer) >= CHUNK_SIZE:
                    await to_thread.run_sync(upload.write, bytes(buffer))
                    buffer.clear()
        if count != end - start:
            raise Unavailable(f"only {format_size(count)} of {format_size(end - start)} arrived; send the range again")
        if upload is None:
            return await to_thread.run_sync(publishing.status, image_id, address)
        await to_thread.run_sync(upload.write, bytes(buffer))
        return await to_thread.run_sync(publishing.keep_range, image_id, address, upload)
    finally:
        await to_thread.run_sync(receiving.__exit__, None, None, None)
