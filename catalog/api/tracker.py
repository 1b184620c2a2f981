"""The tracker's routes: announce and scrape for every BitTorrent client, parts and callers for Partita's nodes.

`tracker_routes` is mounted by the catalog's application. Its answers are decided by `catalog.swarm.tracker`; who may read what
is a port, answered by the catalog.
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from catalog.errors import CatalogError, Conflict, Malformed, NotEntitled, NotFound, TooLarge
from catalog.image.address import Address
from catalog.swarm.announce_keys import ORIGIN, AnnounceKeys, KeyHolder
from catalog.swarm.torrent import short_hash
from catalog.swarm.tracker import Announcement, Endpoint, Tracker
from catalog.swarm.tracker_protocol import (
    IncomingPeer,
    IncomingPeers,
    OriginRanges,
    OriginRangesQuery,
    encode_announce,
    encode_failure,
    encode_scrape,
    parse_announce,
    parse_scrape,
)
from catalog.web.parameters import read_body
from catalog.web.problems import problem_responses
from signer.documents import MAX_DOCUMENT, parse

MayRead = Callable[[KeyHolder, Address], bool]
"""Whether the holder of an announce key (two empty names: a stranger) may read content."""

ContentLookup = Callable[[bytes], Address | None]
"""The published content with a short info-hash, or None. Restricted content has a swarm, and a hash, of its own."""

ANONYMOUS_HOLDER = KeyHolder("", "")

BODY = "text/plain"


@dataclass(frozen=True)
class AnnounceAuthorizer:
    """Who is admitted to which swarm.

    Attributes:
        keys: checks announce keys.
        contents: finds content by short info-hash.
        may_read: decides who may read it.
        now: the wall clock, for the expiry of keys.
        hash_of: the short info-hash of a content's swarm.
    """

    keys: AnnounceKeys
    contents: ContentLookup
    may_read: MayRead
    now: Callable[[], datetime]
    hash_of: Callable[[Address], bytes] = short_hash

    def find(self, short: bytes) -> Address:
        """The content with a short info-hash, or NotFound."""
        address = self.contents(short)
        if address is None:
            raise NotFound(_UNKNOWN)
        return address

    def admit(self, address: Address, grant: str) -> KeyHolder:
        """Whom we speak with, if they may read the content; to strangers what they may not read does not exist."""
        holder = self.keys.check(grant, self.hash_of(address), self.now()) if grant else ANONYMOUS_HOLDER
        if not self.may_read(holder, address):
            if grant:
                raise NotEntitled("this node may not read that content; its site's administrator can ask for the right")
            raise NotFound(_UNKNOWN)
        return holder


def tracker_routes(tracker: Tracker, gate: AnnounceAuthorizer, clock: Callable[[], float]) -> APIRouter:
    """The routes. They run in the event loop, one at a time, and touch no disk; `clock` gives seconds."""
    routes = APIRouter(tags=["swarm"])
    _for_every_client(routes, tracker, gate, clock)
    _for_nodes(routes, tracker, gate, clock)
    return routes


def _for_every_client(
    routes: APIRouter, tracker: Tracker, gate: AnnounceAuthorizer, clock: Callable[[], float]
) -> None:
    @routes.get(
        "/announce",
        summary="Announce a peer to the swarm of one content and learn of others (BEP 3, 7, 23)",
        response_class=Response,
        responses={200: {"content": {BODY: {"example": "d8:completei1e10:incompletei0e8:intervali900e5:peers0:e"}}}},
    )
    async def announce(request: Request) -> Response:
        """As in BEP 3, with the peers in BEP 23's form. A refusal has a `failure reason` for clients, and a status."""
        try:
            query = parse_announce(request.scope["query_string"])
            address = gate.find(query.short_hash)
            holder = gate.admit(address, query.grant)
            said = Announcement(
                Endpoint(_ip(request), query.port),
                query.left,
                query.event,
                holder.site or query.site,
                holder.node == ORIGIN,
                want=query.want,
                peer_id=query.peer_id,
            )
            answer = tracker.announce(address, said, clock())
        except CatalogError as exc:
            return Response(encode_failure(str(exc)), exc.status, media_type=BODY)
        return Response(encode_announce(answer, compact=query.compact), media_type=BODY)

    @routes.get(
        "/scrape",
        summary="The numbers of seeds and leechers of public contents (BEP 48)",
        response_class=Response,
        responses={200: {"content": {BODY: {"example": "d5:filesdee"}}}},
    )
    async def scrape(request: Request) -> Response:
        """At most 64 info-hashes; a content that strangers may not read is left out."""
        try:
            hashes = parse_scrape(request.scope["query_string"])
        except CatalogError as exc:
            return Response(encode_failure(str(exc)), exc.status, media_type=BODY)
        found = {short: gate.contents(short) for short in hashes}
        known = {
            short: address for short, address in found.items() if address and gate.may_read(ANONYMOUS_HOLDER, address)
        }
        return Response(encode_scrape(list(known), tracker.scrape(list(known.values()))), media_type=BODY)


def _for_nodes(routes: APIRouter, tracker: Tracker, gate: AnnounceAuthorizer, clock: Callable[[], float]) -> None:
    schema = OriginRangesQuery.model_json_schema()
    example = schema.pop("examples")[0]

    @routes.post(
        "/swarms/parts",
        summary="What a member of a swarm should fetch from the origin next",
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}
        },
        responses=problem_responses(Malformed, NotEntitled, NotFound, Conflict, TooLarge),
    )
    async def parts(request: Request) -> OriginRanges:
        """Each part is given to one member: fetch it from the origin and share it. Nothing is left when all were given."""
        query = parse(OriginRangesQuery, await read_body(request, MAX_DOCUMENT, "a question for parts"), "parts")
        if gate.find(gate.hash_of(query.address)) != query.address:
            raise NotFound(_UNKNOWN)
        gate.admit(query.address, query.grant)
        if any(not start < end <= query.address.size for start, end in query.have):
            raise Malformed("parts: have: a range is empty or reaches beyond the content")
        endpoint = Endpoint(_ip(request), query.port)
        given = tracker.assign(query.address, endpoint, query.have, query.want, clock())
        return OriginRanges(parts=tuple(given))

    @routes.get(
        "/swarms/callers",
        summary="To whom the asking peer was named in the last minute",
        responses=problem_responses(Malformed),
    )
    async def callers(
        request: Request,
        port: Annotated[int, Query(ge=1, le=65535, description="Where the asking peer listens.", examples=[6881])],
    ) -> IncomingPeers:
        """From these the asking peer takes connections, and may call them itself. Who asks is told by its address."""
        calls = tracker.incoming_peers(Endpoint(_ip(request), port), clock())
        return IncomingPeers(
            callers=tuple(IncomingPeer(address=address, ip=end.ip, port=end.port) for address, end in calls)
        )


_UNKNOWN = "this catalog has no content with that info-hash"


def _ip(request: Request) -> str:
    """The address that a request came from, in its canonical form; IPv4 in IPv6 clothes is IPv4."""
    address = ipaddress.ip_address(request.client.host if request.client else "")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
