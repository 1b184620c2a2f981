"""The routes of contents: their bytes, and the accelerators that the catalog derives from them."""

from fastapi import APIRouter, Request, Response

from catalog.access.authorizer import CREDENTIAL, BearerCredentials, CatalogAuthorizer
from catalog.errors import Malformed, Misused, NotEntitled, NotFound, RangeRefused
from catalog.image.address import Address
from catalog.publication.images import PublicationService
from catalog.schema.images import MAX_UPLOAD_PART
from catalog.schema.problems import PROBLEM_MEDIA_TYPE, to_problem
from catalog.web.parameters import (
    ADDRESS,
    ARTIFACT,
    BINARY_RESPONSE,
    RANGE_RESPONSES,
    described,
    parse_address,
    stream_body,
)
from catalog.web.responses import CACHE_FOREVER, ContentResponse, document_response
from signer.documents import canonical

MOVED = "this catalog's API moved contents from /v1/blobs to /v1/contents; upgrade the client to 0.2 or later"

OLD_PATHS = ("/v1/blobs", "/v1/publications/{image_id}/blobs", "/v1/candidates/{image_id}/blobs")
"""Where contents were until 0.1."""

RANGE_ERRORS = (NotFound, Malformed, NotEntitled, RangeRefused)
"""Of a request for a content or a range of it."""


def content_routes(publishing: PublicationService, authorizer: CatalogAuthorizer) -> APIRouter:
    """Under /v1/contents."""
    routes = APIRouter(prefix="/v1/contents", tags=["contents"])

    def readable(text: str, credential: BearerCredentials) -> Address:
        address = parse_address(text)
        if not authorizer.may_read_content(authorizer.identify(credential), address):
            raise NotFound(f"no content {address} here")
        return address

    @routes.get(
        "/{address}", **described("Get a content, or a range of it", None, *RANGE_ERRORS, responses=RANGE_RESPONSES)
    )
    @routes.head("/{address}", include_in_schema=False)
    def content(request: Request, credential: CREDENTIAL, address: ADDRESS) -> Response:
        """One range (`Range: bytes=FIRST-LAST`), or up to 512 in their order with gaps between, as `multipart/byteranges`."""
        found = readable(address, credential)
        return ContentResponse(request, publishing.contents.open(found), found)

    @routes.get(
        "/{address}/{artifact}",
        **described("Get an accelerator of a content", None, *RANGE_ERRORS[:3], responses=BINARY_RESPONSE),
    )
    def accelerator(request: Request, credential: CREDENTIAL, address: ADDRESS, artifact: ARTIFACT) -> Response:
        """`map`: one bit per 16 KiB, set where it is not zero. `layer`: the piece layer. `hints`: XXH3-64 per 4 KiB.

        Unsigned: verify the layer against the address, and use map and hints only as far as the content confirms them.
        """
        found = readable(address, credential)
        data = publishing.contents.accelerator(found, artifact)
        return document_response(
            request, data, tag=f"{found}.{artifact}", media_type="application/octet-stream", cache=CACHE_FOREVER
        )

    return routes


def moved_routes() -> APIRouter:
    """The paths that contents had until 0.1: 410, and a problem of a kind that clients of 0.1 show to people."""
    routes = APIRouter(include_in_schema=False)

    async def moved(request: Request) -> Response:
        async for _ in stream_body(request, MAX_UPLOAD_PART, "a range"):
            pass  # a client that is still sending would not see the answer
        problem = to_problem(Misused(MOVED)) | {"status": 410}
        return Response(canonical(problem), 410, media_type=PROBLEM_MEDIA_TYPE)

    for path in OLD_PATHS:
        routes.add_api_route(path + "/{rest:path}", moved, methods=["GET", "HEAD", "PUT", "POST"])
    return routes
