"""Peers become nodes by what they call themselves."""

from collections.abc import Sequence

from deployer.protocol.swarm_report import CATALOG_SOURCE, Feed, SwarmReport, list_feeds
from tests.deployer.site.model.test_swarm_map import content, fed

ONE, TWO, THREE = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2, 3))


def brief(found: Sequence[Feed]) -> list[tuple[str, str, str, int, int]]:
    return [(one.kind, one.name, one.to[-1], one.received, one.rate) for one in found]


def test_peers_become_nodes_by_what_they_call_themselves() -> None:
    """Others are said by their addresses; what is not told apart is said to be so; what arrives fastest is first."""
    reports = {
        ONE: SwarmReport(
            name="-PA-one", contents=(content(fed("-PA-two", 60, 10), fed("stranger", 5), from_origin=30),)
        ),
        TWO: SwarmReport(name="-PA-two", contents=(content(fed("-PA-one", 1), from_peers=100, arriving=False),)),
        THREE: SwarmReport(contents=(content(fed("", 7), arriving=False),)),
    }
    found = list_feeds(reports, {ONE: "w1", TWO: "w2", THREE: "w3"})
    assert brief(found) == [
        ("node", "w2", "1", 60, 10),
        ("origin", CATALOG_SOURCE, "1", 30, 3),
        ("peer", "192.0.2.9:4", "1", 5, 0),
        ("others", "other peers", "2", 99, 0),
        ("peer", "192.0.2.9:4", "3", 7, 0),  # a peer without a name is not the node without a swarm
        ("node", "w1", "2", 1, 0),
    ]
    assert found[0].source == TWO
