"""Who feeds whom at a site, and a picture of it: nodes in a ring, the catalog in their middle. Pure."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deployer.protocol.swarm_report import CATALOG_SOURCE, Feed, list_feeds
from deployer.site.model.records import NodeState, SiteNode

MAX_DIAGRAM_NODES = 16
"""Nodes in a picture: those through which the most went. More are unreadable on a telephone; the table has them all."""

SIZE, RING, DOT = 360.0, 128.0, 9.0
"""Width and height of the picture, radius of the ring and of a node, in its units."""

GAP, APART, HEAD = 4.0, 5.0, 7.0
"""Between an arrow and a node, between the arrows of two that feed each other, and the length of an arrow's head."""

ELSEWHERE = "elsewhere"


@dataclass(frozen=True)
class DiagramNode:
    """A node, the catalog or everything else: what it is called, its UUID if it is a node, and where it is."""

    name: str
    uuid: str | None
    x: float
    y: float


@dataclass(frozen=True)
class DiagramArrow:
    """What one gives another of all contents: from where to where, how wide, and the points of its head."""

    source: str
    to: str
    received: int
    rate: int
    arriving: bool
    x1: float
    y1: float
    x2: float
    y2: float
    width: float
    head: str


@dataclass(frozen=True)
class SwarmDiagram:
    """A drawing of `SIZE` by `SIZE`; `hidden` is the number of nodes that are not in it."""

    dots: tuple[DiagramNode, ...]
    arrows: tuple[DiagramArrow, ...]
    hidden: int
    size: float = SIZE
    dot: float = DOT


def site_feeds(nodes: Iterable[SiteNode]) -> tuple[Feed, ...]:
    """Who feeds whom, by the last reports of the nodes that are not lost."""
    present = {one.uuid: one for one in nodes if one.state in (NodeState.READY, NodeState.DRAINING)}
    reports = {uuid: one.swarm for uuid, one in present.items() if one.swarm is not None}
    return list_feeds(reports, {uuid: one.name for uuid, one in present.items()})


def draw_swarm(found: Sequence[Feed], nodes: Iterable[SiteNode]) -> SwarmDiagram | None:
    """A picture of the transfers between nodes; None without any."""
    names = {one.uuid: one.name for one in nodes}
    given = defaultdict[tuple[str, str], list[Feed]](list)
    through = defaultdict[str, int](int)
    for feed in found:
        source = feed.source or (CATALOG_SOURCE if feed.kind == "origin" else ELSEWHERE)
        given[source, feed.to].append(feed)
        for end in (source, feed.to):
            through[end] += feed.received
    ringed = sorted((one for one in through if one != CATALOG_SOURCE), key=lambda one: (-through[one], one))
    hidden, ringed = (
        max(0, len(ringed) - MAX_DIAGRAM_NODES),
        sorted(ringed[:MAX_DIAGRAM_NODES], key=lambda one: names.get(one, "~")),
    )
    if not through:
        return None
    centre = SIZE / 2
    dots = {CATALOG_SOURCE: DiagramNode(CATALOG_SOURCE, None, centre, centre)} if CATALOG_SOURCE in through else {}
    for number, one in enumerate(ringed):
        angle = 2 * math.pi * number / len(ringed) - math.pi / 2
        x, y = centre + RING * math.cos(angle), centre + RING * math.sin(angle)
        dots[one] = DiagramNode(names.get(one, one), one if one in names else None, round(x, 1), round(y, 1))
    most = max(sum(feed.received for feed in several) for several in given.values())
    arrows = [
        _arrow(dots[source], dots[to], several, most)
        for (source, to), several in given.items()
        if source in dots and to in dots and source != to
    ]
    return SwarmDiagram(tuple(dots.values()), tuple(arrows), hidden)


def _arrow(source: DiagramNode, to: DiagramNode, several: Sequence[Feed], most: int) -> DiagramArrow:
    length = math.dist((source.x, source.y), (to.x, to.y)) or 1.0
    dx, dy = (to.x - source.x) / length, (to.y - source.y) / length
    aside_x, aside_y = -dy * APART, dx * APART
    start, end = DOT + GAP, length - DOT - GAP
    tip = source.x + dx * end + aside_x, source.y + dy * end + aside_y
    back = tip[0] - dx * HEAD, tip[1] - dy * HEAD
    corners = (
        tip,
        (back[0] - dy * HEAD / 2, back[1] + dx * HEAD / 2),
        (back[0] + dy * HEAD / 2, back[1] - dx * HEAD / 2),
    )
    received = sum(feed.received for feed in several)
    return DiagramArrow(
        source=source.name,
        to=to.name,
        received=received,
        rate=sum(feed.rate for feed in several),
        arriving=any(feed.arriving for feed in several),
        x1=round(source.x + dx * start + aside_x, 1),
        y1=round(source.y + dy * start + aside_y, 1),
        x2=round(back[0], 1),
        y2=round(back[1], 1),
        width=round(1 + 4 * received / (most or 1), 1),
        head=" ".join(f"{x:.1f},{y:.1f}" for x, y in corners),
    )
