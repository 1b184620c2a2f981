"""The routes of candidates: for registered sites, and of each VO for those alone that serve it."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from catalog.access.authorizer import CREDENTIAL, CatalogAuthorizer
from catalog.errors import Conflict, Malformed, NotEntitled, NotFound, RangeRefused, TooLarge, Unavailable
from catalog.image.manifest import MANIFEST_MEDIA_TYPE
from catalog.publication.candidates import CandidateService
from catalog.publication.images import PublicationService
from catalog.schema.candidates import CandidateList, CandidateRequest
from catalog.schema.images import MAX_REQUEST_DOCUMENT, Publication
from catalog.web.parameters import ADDRESS, IMAGE_ID, parse_address, read_body
from catalog.web.problems import problem_responses
from catalog.web.responses import ContentResponse, document_response
from signer.documents import parse

VO = Annotated[str | None, Query(max_length=64, description="Only of this VO.", examples=["star"])]


def candidate_routes(
    publishing: PublicationService, readers: CatalogAuthorizer, now: Callable[[], datetime]
) -> APIRouter:
    """Under /v1/candidates; contents are sent as those of every publication are."""
    routes = APIRouter(prefix="/v1/candidates", tags=["candidates"])
    candidates = CandidateService(publishing, readers)
    takes: dict[str, Any] = CandidateRequest.model_json_schema()
    example = takes.pop("examples")[0]

    @routes.post(
        "",
        response_model=Publication,
        responses=problem_responses(Malformed, NotEntitled, Conflict, TooLarge, Unavailable),
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": takes, "example": example}}}
        },
        summary="Offer an image that nobody has endorsed yet, or go on with it",
    )
    async def offer(request: Request, shown: CREDENTIAL) -> Response:
        """By a site that serves the VO; the manifest names a published image as its parent. Learn which contents are missing."""
        site = await to_thread.run_sync(readers.who, shown)
        data = await read_body(request, MAX_REQUEST_DOCUMENT, "a candidate")
        wanted = parse(CandidateRequest, data, "candidate", limit=MAX_REQUEST_DOCUMENT)
        instant = now().replace(microsecond=0)
        return document_response(request, await to_thread.run_sync(candidates.offer, wanted.manifest, site, instant))

    @routes.get(
        "", response_model=CandidateList, responses=problem_responses(Malformed, NotEntitled), summary="List candidates"
    )
    def waiting(request: Request, shown: CREDENTIAL, vo: VO = None) -> Response:
        """Of the VOs that the asking site serves."""
        return document_response(
            request, CandidateList(items=candidates.waiting(readers.who(shown), vo)), cache="no-store"
        )

    @routes.get(
        "/{image_id}",
        response_class=Response,
        responses=problem_responses(NotFound, Malformed, NotEntitled)
        | {200: {"content": {MANIFEST_MEDIA_TYPE: {"example": "(canonical JSON)"}}}},
        summary="Get the manifest of a candidate",
    )
    def manifest(request: Request, shown: CREDENTIAL, image_id: IMAGE_ID) -> Response:
        """Its canonical bytes; their SHA-256 is the image ID."""
        found = candidates.manifest(readers.who(shown), image_id)
        return document_response(request, found.canonical(), media_type=MANIFEST_MEDIA_TYPE, cache="no-store")

    @routes.get(
        "/{image_id}/blobs/{address}",
        response_class=Response,
        responses=problem_responses(NotFound, Malformed, NotEntitled, RangeRefused)
        | {code: {"content": {"application/octet-stream": {"example": "(bytes)"}}} for code in (200, 206)},
        summary="Get a content of a candidate, or a range of it",
    )
    def content(request: Request, shown: CREDENTIAL, image_id: IMAGE_ID, address: ADDRESS) -> Response:
        """As contents of published images are."""
        found = candidates.content(readers.who(shown), image_id, parse_address(address))
        return ContentResponse(request, publishing.contents.open(found), found)

    return routes
