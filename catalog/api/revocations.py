"""The routes of revocations: anybody may read them; who may add one shows by its signature."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from catalog.db import images as registry
from catalog.errors import Malformed, NotEntitled, TooLarge, Unavailable
from catalog.publication import revocations as revoking
from catalog.publication.images import PublicationService
from catalog.schema.images import MAX_REQUEST_DOCUMENT, SignedStatement
from catalog.schema.revocations import MAX_REVOCATION_PAGE, RevocationPage
from catalog.web.parameters import read_body
from catalog.web.problems import problem_responses
from catalog.web.responses import document_response
from signer.documents import parse


def revocation_routes(
    publishing: PublicationService, now: Callable[[], datetime], *, mirror: bool = False
) -> APIRouter:
    """GET and POST /v1/revocations; a mirror takes none."""
    routes = APIRouter(prefix="/v1", tags=["revocations"])

    @routes.get(
        "/revocations",
        response_model=RevocationPage,
        responses=problem_responses(Malformed, Unavailable),
        summary="List all revocations",
    )
    def revocations(
        request: Request,
        cursor: Annotated[
            int, Query(ge=0, le=2**53 - 1, description="`next` of the page before; 0 begins.", examples=[0])
        ] = 0,
        limit: Annotated[
            int, Query(ge=1, le=MAX_REVOCATION_PAGE, description="Revocations in a page.", examples=[100])
        ] = MAX_REVOCATION_PAGE,
    ) -> Response:
        """In the order in which they came; none is ever removed. Verify them yourself, by the anchors that you trust."""
        with publishing.database.reading() as connection:
            found = registry.list_revocations(connection, cursor, limit)
        items = tuple(SignedStatement.of(*pair) for _, pair in found)
        return document_response(
            request, RevocationPage(items=items, next=str(found[-1][0]) if len(found) == limit else None)
        )

    if mirror:
        return routes

    @routes.post(
        "/revocations",
        status_code=204,
        response_class=Response,
        responses=problem_responses(Malformed, NotEntitled, TooLarge, Unavailable),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": SignedStatement.model_json_schema(),
                        "example": {"statement": '{"_type": ...}', "signature": "iHUEABYKAB0WIQ=="},
                    }
                },
            }
        },
        summary="Revoke an endorsement, an image or a key",
    )
    async def revoke(request: Request) -> Response:
        """Signed by a registered key of the VO. Accepted once and for ever; sending it again is no error."""
        wanted = parse(SignedStatement, await read_body(request, MAX_REQUEST_DOCUMENT, "a revocation"), "revocation")
        await to_thread.run_sync(revoking.accept_revocation, publishing, wanted, now().replace(microsecond=0))
        return Response(status_code=204)

    return routes
