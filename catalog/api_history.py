"""The route of the history: who vouched for what and when, since the catalog exists."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from catalog.errors import Malformed, NotFound, Unavailable
from catalog.publishing import Publishing
from catalog.responses import document
from catalog.routes import problems
from catalog.wire_history import MAX_HISTORY_PAGE, HistoryEntry, HistoryPage


def history_routes(publishing: Publishing) -> APIRouter:
    """GET /v1/history."""
    routes = APIRouter(prefix="/v1", tags=["history"])

    @routes.get(
        "/history",
        response_model=HistoryPage,
        responses=problems(Malformed, NotFound, Unavailable),
        summary="List all that was ever accepted",
    )
    def history(
        request: Request,
        cursor: Annotated[
            int, Query(ge=0, le=2**53 - 1, description="The number of the last entry that you have.", examples=[0])
        ] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_HISTORY_PAGE, description="Entries in a page.", examples=[100])] = 100,
    ) -> Response:
        """The oldest first. Each entry carries the SHA-256 of the one before it: nothing is changed or left out unseen."""
        if publishing.history is None:
            raise NotFound("this catalog keeps no history")
        found = publishing.history.page(cursor, limit)
        items = tuple(HistoryEntry.model_validate(entry.model_dump()) for entry in found)
        return document(request, HistoryPage(items=items, next=str(items[-1].seq) if len(items) == limit else None))

    return routes
