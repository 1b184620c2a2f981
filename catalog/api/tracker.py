"""The tracker's routes: announce and scrape for every BitTorrent client, parts and callers for Partita's nodes.

`catalog.swarm.tracker` decides the answers; an `AnnounceAuthorizer` decides who may read which content.
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from catalog.errors import CatalogError, Conflict, Malformed, NotEntitled, NotFound, TooLarge
from catalog.image.address import Address
from catalog.swarm.announce_keys import ORIGIN, AnnounceKeys, KeyHolder
from catalog.swarm.torrent import short_hash
from catalog.swarm.tracker import Endpoint, Tracker
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
from catalog.web.parameters import example_response, read_document, request_body
from catalog.web.problems import problem_responses

MayRead = Callable[[KeyHolder, Address], bool]
"""Whether the holder of an announce key (ANONYMOUS_HOLDER without a key) may read a content."""

ContentLookup = Callable[[bytes], Address | None]
"""The published content with a short info-hash, or None. A restricted content has a swarm, and a hash, of its own."""

ANONYMOUS_HOLDER = KeyHolder("", "")

BODY = "text/plain"


@dataclass(frozen=True)
class AnnounceAuthorizer:
    """Decides who is admitted to which swarm.

    Attributes:
        keys: verifies announce keys.
        contents: finds a content by its short info-hash.
        may_read: decides who may read it.
        now: the wall clock, for the expiry of keys.
        hash_of: gives the short info-hash of a content's swarm.
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
        """The holder of an announce key, or ANONYMOUS_HOLDER without one.

        Raises:
            NotEntitled: the holder may not read the content.
            NotFound: an anonymous client may not; the content does not exist for it.
        """
        holder = self.keys.check(grant, self.hash_of(address), self.now()) if grant else ANONYMOUS_HOLDER
        if not self.may_read(holder, address):
            if grant:
                raise NotEntitled(
                    "this node may not read that content; its site can ask the catalog's operator for access"
                )
            raise NotFound(_UNKNOWN)
        return holder


def tracker_routes(tracker: Tracker, gate: AnnounceAuthorizer, clock: Callable[[], float]) -> APIRouter:
    """The routes. They run in the event loop, one at a time, and do not use the disk; `clock` gives seconds."""
    routes = APIRouter(tags=["swarm"])

    @routes.get(
        "/announce",
        summary="Announce a peer to the swarm of one content and learn of others (BEP 3, 7, 23)",
        response_class=Response,
        responses=example_response(BODY, "d8:completei1e10:incompletei0e8:intervali900e5:peers0:e"),
    )
    async def announce(request: Request) -> Response:
        """As in BEP 3, with peers in the form of BEP 23. A refusal has a `failure reason` and an HTTP error status."""
        try:
            query = parse_announce(request.scope["query_string"], _ip(request))
            address = gate.find(query.short_hash)
            holder = gate.admit(address, query.grant)
            site = holder.site or query.announcement.site
            announcement = replace(query.announcement, site=site, origin=holder.node == ORIGIN)
            answer = tracker.announce(address, announcement, clock())
        except CatalogError as exc:
            return Response(encode_failure(str(exc)), exc.status, media_type=BODY)
        return Response(encode_announce(answer, compact=query.compact), media_type=BODY)

    @routes.get(
        "/scrape",
        summary="The numbers of seeds and leechers of public contents (BEP 48)",
        response_class=Response,
        responses=example_response(BODY, "d5:filesdee"),
    )
    async def scrape(request: Request) -> Response:
        """At most 64 info-hashes; restricted contents are left out."""
        try:
            hashes = parse_scrape(request.scope["query_string"])
        except CatalogError as exc:
            return Response(encode_failure(str(exc)), exc.status, media_type=BODY)
        found = {short: gate.contents(short) for short in hashes}
        known = {
            short: address for short, address in found.items() if address and gate.may_read(ANONYMOUS_HOLDER, address)
        }
        return Response(encode_scrape(list(known), tracker.scrape(list(known.values()))), media_type=BODY)

    @routes.post(
        "/swarms/parts",
        summary="What a member of a swarm should fetch from the origin next",
        responses=problem_responses(Malformed, NotEntitled, NotFound, Conflict, TooLarge),
        openapi_extra=request_body(OriginRangesQuery),
    )
    async def parts(request: Request) -> OriginRanges:
        """Each part is assigned to one member: fetch it from the origin and share it. Empty when all are assigned."""
        query = await read_document(request, OriginRangesQuery, "parts")
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
        summary="The peers that learned of the asking peer in the last minute",
        responses=problem_responses(Malformed),
    )
    async def callers(
        request: Request,
        port: Annotated[int, Query(ge=1, le=65535, description="Where the asking peer listens.", examples=[6881])],
    ) -> IncomingPeers:
        """The asking peer, known by its address, accepts connections from these, and may connect to them itself."""
        calls = tracker.incoming_peers(Endpoint(_ip(request), port), clock())
        return IncomingPeers(
            callers=tuple(IncomingPeer(address=address, ip=end.ip, port=end.port) for address, end in calls)
        )

    return routes


_UNKNOWN = "no content with that info-hash here"


def _ip(request: Request) -> str:
    """The address that a request came from, in its canonical form; an IPv4-mapped IPv6 address is IPv4."""
    address = ipaddress.ip_address(request.client.host if request.client else "")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
