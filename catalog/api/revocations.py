"""The routes of revocations: everyone may read them; signatures decide who may add one."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from catalog.db.images import list_revocations
from catalog.errors import Malformed, NotEntitled, TooLarge, Unavailable
from catalog.publication.images import PublicationService
from catalog.publication.revocations import accept_revocation
from catalog.schema.images import MAX_REVOCATION_PAGE, RevocationPage, SignedStatement
from catalog.web.parameters import described, read_document
from catalog.web.responses import document_response


def revocation_routes(
    publishing: PublicationService, now: Callable[[], datetime], *, mirror: bool = False
) -> APIRouter:
    """GET and POST /v1/revocations; a mirror accepts none."""
    routes = APIRouter(prefix="/v1", tags=["revocations"])

    @routes.get("/revocations", **described("List all revocations", RevocationPage, Malformed, Unavailable))
    def revocations(
        request: Request,
        cursor: Annotated[
            int, Query(ge=0, le=2**53 - 1, description="`next` of the previous page; 0 begins.", examples=[0])
        ] = 0,
        limit: Annotated[
            int, Query(ge=1, le=MAX_REVOCATION_PAGE, description="Revocations on a page.", examples=[100])
        ] = MAX_REVOCATION_PAGE,
    ) -> Response:
        """In the order in which they arrived; none is ever removed. Verify them yourself, by the anchors that you trust."""
        with publishing.database.reading() as connection:
            found = list_revocations(connection, cursor, limit)
        items = tuple(SignedStatement.of(*pair) for _, pair in found)
        return document_response(
            request, RevocationPage(items=items, next=str(found[-1][0]) if len(found) == limit else None)
        )

    if mirror:
        return routes

    @routes.post(
        "/revocations",
        status_code=204,
        **described(
            "Revoke an endorsement, an image or a key",
            None,
            *(Malformed, NotEntitled, TooLarge, Unavailable),
            body=SignedStatement,
        ),
    )
    async def revoke(request: Request) -> Response:
        """Signed by a registered key of the VO. A revocation is permanent; sending it again is allowed."""
        wanted = await read_document(request, SignedStatement, "revocation")
        await to_thread.run_sync(accept_revocation, publishing, wanted, now())
        return Response(status_code=204)

    return routes
