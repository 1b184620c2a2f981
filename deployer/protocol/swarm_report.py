"""Transfers between nodes: the reports of nodes about their swarms, and the feeds that follow when all nodes are known. Pure.

A node says what it calls itself to its peers, and what those call themselves that feed it. Only a site knows all nodes, and
so it can tell which is which, wherever they connect from and through whatever address translation. A peer may lie about
its name: it could pass for another node in a picture, and nothing else depends on it.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from deployer.machine.spec import Uuid
from signer.documents import Document
from stager.content.peer_stats import MAX_NAME, MAX_PEERS_SHOWN, PeerStats

CATALOG_SOURCE = "the catalog"


class ContentFeed(Document):
    """From whom a content came, or is coming, to a node; payload bytes, and bytes per second.

    Attributes:
        address: of the content.
        image: a title of an image that it is a part of (VO/NAME@VERSION).
        arriving: it is on its way; else it came lately.
        from_peers, from_origin: that came from other nodes, and from the catalog and its mirrors.
        origin_rate: of what comes from the catalog now.
        feeders: the peers that sent the most.
    """

    address: Annotated[str, Field(max_length=96)]
    image: Annotated[str, Field(max_length=300)]
    arriving: bool
    from_peers: Annotated[int, Field(ge=0)]
    from_origin: Annotated[int, Field(ge=0)]
    origin_rate: Annotated[int, Field(ge=0)] = 0
    feeders: Annotated[tuple[PeerStats, ...], Field(max_length=MAX_PEERS_SHOWN)] = ()


class SwarmReport(Document):
    """A node's part in swarms, as far as others at the site want to know.

    Attributes:
        name: what it calls itself to its peers; by this they are told from others. Empty: it takes part in none.
        contents: those that are arriving or came lately, and over the network.
    """

    name: Annotated[str, Field(max_length=MAX_NAME)] = ""
    contents: Annotated[tuple[ContentFeed, ...], Field(max_length=64)] = ()


class Feed(Document):
    """What one source gave one node of one content.

    Attributes:
        to: the node.
        kind: where it came from: a node of the site, its catalog, a peer that is not a node of the site, or several peers.
        source: the node, where it is one.
        name: of the source, for people; of a peer elsewhere its address.
        content, image, arriving: as `ContentFeed`.
        received: payload bytes, those that came twice among them.
        rate: bytes per second, now.
    """

    to: Uuid
    kind: Literal["node", "origin", "peer", "others"]
    source: Uuid | None = None
    name: str
    content: str
    image: str
    arriving: bool
    received: int
    rate: int = 0


def list_feeds(reports: Mapping[str, SwarmReport], names: Mapping[str, str]) -> tuple[Feed, ...]:
    """The feeds of all nodes: those of arriving contents first, and of these the fastest.

    Args:
        reports: by the nodes' UUIDs, of those that are heard of.
        names: of nodes, by UUID.
    """
    called = {report.name: uuid for uuid, report in reports.items() if report.name}
    found = [
        feed
        for uuid, report in reports.items()
        for content in report.contents
        for feed in _feeds(uuid, content, called, names)
    ]
    return tuple(
        sorted(found, key=lambda one: (not one.arriving, -one.rate, -one.received, one.to, one.name, one.content))
    )


def _feeds(to: str, content: ContentFeed, called: Mapping[str, str], names: Mapping[str, str]) -> Iterable[Feed]:
    feed = partial(Feed, to=to, content=content.address, image=content.image, arriving=content.arriving)
    if content.from_origin:
        yield feed(kind="origin", name=CATALOG_SOURCE, received=content.from_origin, rate=content.origin_rate)
    for one in content.feeders:
        source = called.get(one.peer) if one.peer else None
        if source is None:
            yield feed(kind="peer", name=one.at, received=one.received, rate=one.rate)
        else:
            name = names.get(source, source)
            yield feed(kind="node", name=name, received=one.received, rate=one.rate, source=source)
    if (rest := content.from_peers - sum(one.received for one in content.feeders)) > 0:
        yield feed(kind="others", name="other peers", received=rest)
