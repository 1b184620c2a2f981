"""The routes of cluster documents: everyone may read them; signatures decide who may publish and endorse.

These answers are for people. Sites read cluster documents as TUF targets, which say what is current.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request, Response

from catalog.api.publications import BEGIN_ERRORS, ENDORSE_ERRORS
from catalog.db import clusters as rows
from catalog.errors import Malformed, NotFound, Unavailable
from catalog.publication.clusters import accept_endorsements, cluster_entry, publish_cluster
from catalog.publication.images import PublicationService
from catalog.schema.clusters import MAX_CLUSTERS_PAGE, ClusterEntries, ClusterEntry, ClusterPublication
from catalog.schema.images import EndorsementsRequest
from catalog.web.parameters import VO_FILTER, described, example_response, read_document
from catalog.web.responses import document_response

DIGEST = Annotated[
    str, Path(description="Of the document.", pattern=r"^sha256:[0-9a-f]{64}$", examples=["sha256:" + "2f" * 32])
]
DOCUMENT = example_response("application/json", {"name": "batch", "roles": {}})


def cluster_routes(publishing: PublicationService, now: Callable[[], datetime], *, mirror: bool = False) -> APIRouter:
    """Under /v1/clusters; a mirror accepts none."""
    routes = APIRouter(prefix="/v1/clusters", tags=["clusters"])

    @routes.get("", **described("List clusters", ClusterEntries, Malformed, Unavailable))
    def clusters(
        request: Request,
        vo: VO_FILTER = None,
        limit: Annotated[int, Query(ge=1, le=MAX_CLUSTERS_PAGE, description="Items on the page, at most.")] = 100,
        cursor: Annotated[
            int | None, Query(ge=0, le=2**53 - 1, description="`next` of the previous page.", examples=[41])
        ] = None,
    ) -> Response:
        """Published cluster documents, last published first."""
        with publishing.database.reading() as connection:
            found = rows.list_clusters(connection, vo, cursor, limit)
        items = tuple(cluster_entry(row) for _, row in found)
        return document_response(
            request, ClusterEntries(items=items, next=str(found[-1][0]) if len(found) == limit else None)
        )

    @routes.get(
        "/{digest}",
        **described("Get a cluster document", None, Malformed, NotFound, Unavailable, responses=DOCUMENT),
    )
    def cluster(digest: DIGEST) -> Response:
        """The canonical bytes, whose SHA-256 is the digest."""
        with publishing.database.reading() as connection:
            row = rows.get_cluster(connection, digest)
        if row is None:
            raise NotFound(f"no cluster document {digest} here")
        return Response(row.data, media_type="application/json")

    if mirror:
        return routes

    @routes.post("", **described("Publish a cluster document", ClusterEntry, *BEGIN_ERRORS, body=ClusterPublication))
    async def publish(request: Request) -> Response:
        """With at least one endorsement by a registered key of its VO, which names it. Publishing it again is allowed."""
        wanted = await read_document(request, ClusterPublication, "publication")
        return document_response(request, await to_thread.run_sync(publish_cluster, publishing, wanted, now()))

    @routes.post(
        "/{digest}/endorsements",
        status_code=204,
        **described("Add endorsements to a cluster document", None, *ENDORSE_ERRORS, body=EndorsementsRequest),
    )
    async def endorse(request: Request, digest: DIGEST) -> Response:
        """All of them must verify with registered keys of the document's VO."""
        wanted = await read_document(request, EndorsementsRequest, "list of endorsements")
        await to_thread.run_sync(accept_endorsements, publishing, digest, wanted.endorsements, now())
        return Response(status_code=204)

    return routes
