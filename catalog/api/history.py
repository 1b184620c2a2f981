"""The route of the history: who vouched for what and when, since the catalog was created."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from catalog.access.authorizer import CREDENTIAL, CatalogAuthorizer
from catalog.access.rules import ImageScope
from catalog.errors import Malformed, Misused, NotEntitled, NotFound, Unavailable
from catalog.publication.images import PublicationService
from catalog.schema.history import MAX_HISTORY_PAGE, HistoryEntry, HistoryPage
from catalog.web.parameters import described
from catalog.web.responses import document_response


def history_routes(publishing: PublicationService, authorizer: CatalogAuthorizer) -> APIRouter:
    """GET /v1/history."""
    routes = APIRouter(prefix="/v1", tags=["history"])

    @routes.get(
        "/history",
        **described("List all that was ever accepted", HistoryPage, Malformed, NotEntitled, NotFound, Unavailable),
    )
    def history(
        request: Request,
        credential: CREDENTIAL,
        cursor: Annotated[
            int, Query(ge=0, le=2**53 - 1, description="The number of the last entry that you have.", examples=[0])
        ] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_HISTORY_PAGE, description="Entries on a page.", examples=[100])] = 100,
    ) -> Response:
        """Oldest first. Each entry carries the SHA-256 of the one before it, so that changes and omissions show.

        The facts of entries about images that you may not read are withheld.
        """
        site = authorizer.identify(credential)
        found = publishing.history.page(cursor, limit)
        entries = (HistoryEntry.model_validate(entry.model_dump()) for entry in found)
        items = tuple(entry if _may_read(authorizer, site, entry) else entry.without_facts() for entry in entries)
        return document_response(
            request, HistoryPage(items=items, next=str(items[-1].seq) if len(items) == limit else None)
        )

    return routes


def _may_read(authorizer: CatalogAuthorizer, site: str, entry: HistoryEntry) -> bool:
    """Whether a site may read the facts of an entry: they name no image, or one that it may read."""
    title = entry.data.get("title")
    if title is None or "image" not in entry.data:
        return True
    try:
        return authorizer.may_read(site, ImageScope.parse(str(title)))
    except Misused:
        return False
