"""The routes of candidates: for registered sites, each for the candidates of the VOs that it serves."""

from collections.abc import Callable
from datetime import datetime

from anyio import to_thread
from fastapi import APIRouter, Request, Response

from catalog.access.authorizer import CREDENTIAL, CatalogAuthorizer
from catalog.api.contents import RANGE_ERRORS
from catalog.api.images import MANIFEST_RESPONSE
from catalog.api.publications import BEGIN_ERRORS
from catalog.errors import Malformed, NotEntitled, NotFound
from catalog.image.manifest import MANIFEST_MEDIA_TYPE
from catalog.publication.candidates import CandidateService
from catalog.publication.images import PublicationService
from catalog.schema.candidates import CandidateList, CandidateRequest
from catalog.schema.images import Publication
from catalog.web.parameters import (
    ADDRESS,
    IMAGE_ID,
    RANGE_RESPONSES,
    VO_FILTER,
    described,
    parse_address,
    read_document,
)
from catalog.web.responses import ContentResponse, document_response


def candidate_routes(
    publishing: PublicationService, authorizer: CatalogAuthorizer, now: Callable[[], datetime]
) -> APIRouter:
    """Under /v1/candidates; contents are uploaded under /v1/publications, as those of every publication."""
    routes = APIRouter(prefix="/v1/candidates", tags=["candidates"])
    candidates = CandidateService(publishing, authorizer)

    @routes.post(
        "",
        **described(
            "Offer an image without endorsements, or continue to", Publication, *BEGIN_ERRORS, body=CandidateRequest
        ),
    )
    async def offer(request: Request, credential: CREDENTIAL) -> Response:
        """For sites that serve the VO; the manifest names a published image as its parent. Returns the missing contents."""
        site = await to_thread.run_sync(authorizer.identify, credential)
        wanted = await read_document(request, CandidateRequest, "candidate")
        return document_response(request, await to_thread.run_sync(candidates.offer, wanted.manifest, site, now()))

    @routes.get("", **described("List candidates", CandidateList, Malformed, NotEntitled))
    def waiting(request: Request, credential: CREDENTIAL, vo: VO_FILTER = None) -> Response:
        """Those of the VOs that your site serves."""
        return document_response(
            request, CandidateList(items=candidates.waiting(authorizer.identify(credential), vo)), cache="no-store"
        )

    @routes.get(
        "/{image_id}",
        **described(
            "Get the manifest of a candidate", None, NotFound, Malformed, NotEntitled, responses=MANIFEST_RESPONSE
        ),
    )
    def manifest(request: Request, credential: CREDENTIAL, image_id: IMAGE_ID) -> Response:
        """The canonical bytes; their SHA-256 is the image ID."""
        found = candidates.manifest(authorizer.identify(credential), image_id)
        return document_response(request, found.canonical(), media_type=MANIFEST_MEDIA_TYPE, cache="no-store")

    @routes.get(
        "/{image_id}/contents/{address}",
        **described("Get a content of a candidate, or a range of it", None, *RANGE_ERRORS, responses=RANGE_RESPONSES),
    )
    def content(request: Request, credential: CREDENTIAL, image_id: IMAGE_ID, address: ADDRESS) -> Response:
        """One or several ranges, as for contents of published images."""
        found = candidates.content(authorizer.identify(credential), image_id, parse_address(address))
        return ContentResponse(request, publishing.contents.open(found), found)

    return routes
