"""The route at which nodes get what opens swarms to them: announce keys and, for restricted contents, certificates."""

from collections.abc import Callable
from datetime import datetime

from anyio import to_thread
from fastapi import APIRouter, Request, Response

from catalog.access.authorizer import CREDENTIAL, CatalogAuthorizer
from catalog.errors import Malformed, NotEntitled, NotFound, TooLarge, Unavailable
from catalog.schema.swarms import SwarmGrant, SwarmGrantQuery
from catalog.swarm.announce_keys import KEY_LIFE, ORIGIN, KeyHolder
from catalog.web.parameters import read_body
from catalog.web.problems import problem_responses
from catalog.web.responses import document_response
from signer.documents import MAX_DOCUMENT, parse


def grant_routes(readers: CatalogAuthorizer, now: Callable[[], datetime]) -> APIRouter:
    """POST /swarms/grants."""
    routes = APIRouter(tags=["swarm"])
    schema = SwarmGrantQuery.model_json_schema()
    example = schema.pop("examples")[0]

    @routes.post(
        "/swarms/grants",
        response_model=SwarmGrant,
        responses=problem_responses(Malformed, NotEntitled, NotFound, TooLarge, Unavailable),
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}
        },
        summary="Get what opens the swarm of a content",
    )
    async def grant(request: Request, shown: CREDENTIAL) -> Response:
        """For 12 hours: an announce key and, for a restricted content, a TLS certificate for the key in the request."""
        wanted = parse(SwarmGrantQuery, await read_body(request, MAX_DOCUMENT, "a request for a grant"), "grant")
        return document_response(request, await to_thread.run_sync(_grant, readers, readers.who(shown), wanted, now()))

    return routes


def _grant(readers: CatalogAuthorizer, site: str, wanted: SwarmGrantQuery, now: datetime) -> SwarmGrant:
    address = wanted.address
    if not readers.may_read_content(site, address):
        raise NotFound(f"there is no content {address} here")
    if wanted.node == ORIGIN:
        raise NotEntitled(f"the name {ORIGIN} is the catalog's own; call the node otherwise")
    authority = readers.authority_of(address)
    certificate = None
    if authority:
        if wanted.request is None:
            raise Malformed("grant: request: the content is restricted; send a certificate request")
        certificate = readers.authority.issue(
            wanted.request, address.root.hex(), f"{wanted.node} of {site}", now, KEY_LIFE
        )
    return SwarmGrant(
        grant=readers.keys.issue(KeyHolder(wanted.node, site), readers.swarm_hash(address), now),
        expires=(now + KEY_LIFE).replace(microsecond=0),
        authority=authority.decode("ascii") or None,
        certificate=certificate,
    )
