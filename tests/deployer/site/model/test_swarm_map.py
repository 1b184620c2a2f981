"""Who feeds whom: peers' names become nodes, the site keeps the last report alone, and the picture is of what went most."""

import pytest

from deployer.protocol.swarm_report import CATALOG_SOURCE, ContentFeed, SwarmReport
from deployer.site.db.nodes import get_node, list_nodes
from deployer.site.db.tables import swarms
from deployer.site.model.records import NodeState
from deployer.site.model.swarm_map import MAX_DIAGRAM_NODES, SIZE, draw_swarm, site_feeds
from deployer.site.store.reports import store_report
from stager.content.peer_stats import PeerStats
from tests.support.site.values import World, capable

CONTENT = "ab" * 32 + "-100"


def content(
    *feeders: PeerStats,
    from_peers: int | None = None,
    from_origin: int = 0,
    arriving: bool = True,
    address: str = CONTENT,
) -> ContentFeed:
    return ContentFeed(
        address=address,
        image="star/hello@1.0",
        arriving=arriving,
        from_peers=sum(one.received for one in feeders) if from_peers is None else from_peers,
        from_origin=from_origin,
        origin_rate=3 if from_origin else 0,
        feeders=feeders,
    )


def fed(peer: str, received: int, rate: int = 0, at: str = "192.0.2.9:4") -> PeerStats:
    return PeerStats(peer=peer, at=at, received=received, rate=rate)


def test_the_site_keeps_the_last_report_alone(world: World) -> None:
    """Each takes the place of the one before; a node with nothing to tell leaves nothing; lists have none of it."""
    uuid = world.join("n1")
    for received in (1, 2, 2):
        report = SwarmReport(name="-PA-n1", contents=(content(fed("-PA-n2", received)),))
        world.store.write(store_report, uuid, capable(swarm=report))
        assert world.store.read(get_node, uuid).swarm == report
        with world.store.database.reading() as connection:
            assert len(connection.execute(swarms.select()).all()) == 1
    assert [one.swarm for one in world.store.read(list_nodes)] == [report]
    assert [one.swarm for one in world.store.read(list_nodes, contents=False)] == [None]
    world.store.write(store_report, uuid, capable())
    assert world.store.read(get_node, uuid).swarm is None


def test_a_node_that_is_lost_feeds_nobody_and_is_fed_by_nobody(world: World) -> None:
    """What it said last is not how it is. Where it fed others, it is a peer that nobody knows."""
    for name, other in (("n1", "n2"), ("n2", "n1")):
        uuid = world.join(name)
        world.store.write(
            store_report,
            uuid,
            capable(swarm=SwarmReport(name=f"-PA-{name}", contents=(content(fed(f"-PA-{other}", 5)),))),
        )
    nodes = world.store.read(list_nodes)
    assert [(one.kind, one.name) for one in site_feeds(nodes)] == [("node", "n2"), ("node", "n1")]
    lost = [nodes[0], nodes[1].model_copy(update={"state": NodeState.LOST})]
    assert [(one.kind, one.to) for one in site_feeds(lost)] == [("peer", nodes[0].uuid)]


@pytest.mark.parametrize("count", [1, 2, 5, 60])
def test_the_picture_holds_whoever_fed_and_was_fed_most(world: World, count: int) -> None:
    """All in it lies within it, each with its arrows; what is left out is counted."""
    uuids = [world.join(f"n{number}") for number in range(count)]
    for number, uuid in enumerate(uuids):
        other = f"-PA-{(number + 1) % count}"
        feeders = (fed(other, 100 + number),) if count > 1 else ()
        report = SwarmReport(name=f"-PA-{number}", contents=(content(*feeders, from_origin=50, arriving=number == 0),))
        world.store.write(store_report, uuid, capable(swarm=report))
    nodes = world.store.read(list_nodes)
    picture = draw_swarm(site_feeds(nodes), nodes)
    assert picture is not None
    shown = min(count, MAX_DIAGRAM_NODES)
    assert picture.hidden == count - shown
    assert len(picture.dots) == shown + 1  # and the catalog
    assert {one.uuid for one in picture.dots} - {None} <= set(uuids)
    for arrow in picture.arrows:
        assert {arrow.source, arrow.to} <= {one.name for one in picture.dots}
        assert all(0 <= value <= SIZE for value in (arrow.x1, arrow.y1, arrow.x2, arrow.y2))
        assert 1 <= arrow.width <= 5
    assert sum(arrow.source == CATALOG_SOURCE for arrow in picture.arrows) == shown
    if count > 1:
        assert max(picture.arrows, key=lambda one: one.received).width == 5


def test_where_nothing_goes_there_is_no_picture() -> None:
    """Not even a round one."""
    assert draw_swarm((), ()) is None
