"""What a node tells its site of the swarm: bounded, and the same while nothing arrives."""

from pathlib import Path

from catalog.image.address import Address
from deployer.node.agent.reporter import MAX_REPORTED, build_swarm_report
from signer.documents import canonical
from stager.cache.cache import Cache
from stager.content.peer_stats import PeerStats
from stager.content.transfer_stats import RECENT_SECONDS, TransferRegistry, TransferTraffic
from stager.staging import Stager
from tests.support.stager.fakes import Clock, MemorySource


def address(number: int) -> Address:
    return Address.parse(f"{number:064x}-1000000")


def test_what_comes_and_what_came_is_told_until_it_is_old(tmp_path: Path) -> None:
    """A node without a swarm that fetches nothing tells nothing; rates end when the content is here."""
    clock = Clock()
    with Cache(tmp_path, 1 << 30, clock) as cache:
        stager = Stager(cache, MemorySource({}, {}))
        stager.transfers = arrivals = TransferRegistry(clock)
        assert build_swarm_report(stager) is None
        traffic = TransferTraffic(
            from_peers=700, from_origin=300, peers=1, feeders=(PeerStats(peer="p", at="x:1", received=700, rate=9),)
        )
        with arrivals.begin(address(1), "star/hello@1.0") as arrival, arrival.counting(lambda: traffic):
            arrival.settled(0)
            found = build_swarm_report(stager)
            assert found is not None
            (content,) = found.contents
            assert (content.arriving, content.from_peers, content.from_origin) == (True, 700, 300)
            assert content.feeders == traffic.feeders
        came = build_swarm_report(stager)
        assert came is not None
        assert (came.contents[0].arriving, came.contents[0].feeders[0].rate) == (False, 0)
        clock.now += RECENT_SECONDS / 2
        assert build_swarm_report(stager) == came
        with arrivals.begin(address(2), "star/hello@1.0"):
            pass  # nothing of it came over the network
        assert build_swarm_report(stager) == came
        clock.now += RECENT_SECONDS
        assert build_swarm_report(stager) is None


def test_a_report_stays_small_whatever_comes(tmp_path: Path) -> None:
    """Of many contents those that arrive are told first, then those that came last; each once."""
    clock = Clock()
    with Cache(tmp_path, 1 << 30, clock) as cache:
        stager = Stager(cache, MemorySource({}, {}))
        stager.transfers = arrivals = TransferRegistry(clock)
        feeders = tuple(
            PeerStats(peer=f"{number:020}", at="[2001:db8::1]:65535", received=1 << 50, rate=1 << 40)
            for number in range(8)
        )
        traffic = TransferTraffic(from_peers=1 << 53 - 1, from_origin=1, feeders=feeders)
        for number in [*range(100), 98]:
            with (
                arrivals.begin(address(number), "star/" + "n" * 100 + "@1.0") as arrival,
                arrival.counting(lambda: traffic),
            ):
                pass
        with arrivals.begin(address(200), "star/hello@1.0") as arrival, arrival.counting(lambda: traffic):
            found = build_swarm_report(stager)
        assert found is not None
        assert [Address.parse(one.address) for one in found.contents] == [
            address(one) for one in (200, 98, 99, *range(97, 97 - MAX_REPORTED + 3, -1))
        ]
        assert len(canonical(found)) < 32 << 10
