"""The route that admits nodes to swarms: announce keys and, for restricted contents, certificates."""

from collections.abc import Callable
from datetime import datetime

from anyio import to_thread
from fastapi import APIRouter, Request, Response

from catalog.access.authorizer import CREDENTIAL, CatalogAuthorizer
from catalog.api.publications import ENDORSE_ERRORS
from catalog.errors import NotEntitled, NotFound
from catalog.schema.swarms import SwarmGrant, SwarmGrantQuery
from catalog.swarm.announce_keys import ORIGIN, KeyHolder
from catalog.web.parameters import described, read_document
from catalog.web.responses import document_response


def grant_routes(authorizer: CatalogAuthorizer, now: Callable[[], datetime]) -> APIRouter:
    """POST /swarms/grants."""
    routes = APIRouter(tags=["swarm"])

    @routes.post(
        "/swarms/grants",
        **described("Get a grant for the swarm of a content", SwarmGrant, *ENDORSE_ERRORS, body=SwarmGrantQuery),
    )
    async def grant(request: Request, credential: CREDENTIAL) -> Response:
        """For 12 hours: an announce key and, for a restricted content, a TLS certificate for the key in the request."""
        query = await read_document(request, SwarmGrantQuery, "grant")
        site = authorizer.identify(credential)
        return document_response(request, await to_thread.run_sync(_grant, authorizer, site, query, now()))

    return routes


def _grant(authorizer: CatalogAuthorizer, site: str, wanted: SwarmGrantQuery, now: datetime) -> SwarmGrant:
    address = wanted.address
    if not authorizer.may_read_content(site, address):
        raise NotFound(f"no content {address} here")
    if wanted.node == ORIGIN:
        raise NotEntitled(f"the node name {ORIGIN} is reserved for the catalog; use another name")
    holder = KeyHolder(wanted.node, site)
    return authorizer.issue_grant(holder, f"{wanted.node} of {site}", address, wanted.request, now)
