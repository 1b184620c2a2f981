"""The tracker's decisions: who is named to whom, who is remembered, who fetches first."""

import math

import pytest

from catalog.errors import Conflict, TooLarge
from catalog.image.address import Address
from catalog.swarm.origin_scheduler import ORIGIN_PART
from catalog.swarm.tracker import (
    CALL_LIFE,
    DEGREE,
    FAR,
    LEECHER_INTERVAL,
    MAX_PEERS,
    MISSED_ANNOUNCES,
    SEED_INTERVAL,
    AnnounceEvent,
    Announcement,
    Endpoint,
    SwarmCounts,
    Tracker,
    choose_peers,
    degree,
)

CONTENT = Address(b"r" * 32, 8 * ORIGIN_PART)


def said(number: int, *, left: int = CONTENT.size, site: str = "", origin: bool = False, event: AnnounceEvent = AnnounceEvent.STARTED,
         want: int = 50) -> Announcement:  # fmt: skip
    return Announcement(Endpoint(f"10.0.{number // 256}.{number % 256}", 6881), left, event, site, origin, want)


def ips(answer) -> list[str]:
    return [peer.announcement.endpoint.ip for peer in answer.peers]


def test_two_nodes_hear_of_each_other_and_of_the_counts() -> None:
    tracker = Tracker()
    assert tracker.announce(CONTENT, said(1, left=0), 0.0).peers == ()
    answer = tracker.announce(CONTENT, said(2), 1.0)
    assert ips(answer) == ["10.0.0.1"]
    assert (answer.complete, answer.incomplete, answer.interval) == (1, 1, LEECHER_INTERVAL)
    assert tracker.announce(CONTENT, said(1, left=0, event=AnnounceEvent.UPDATE), 2.0).interval == SEED_INTERVAL


def test_swarms_are_apart() -> None:
    tracker = Tracker()
    tracker.announce(CONTENT, said(1), 0.0)
    assert tracker.announce(Address(b"q" * 32, CONTENT.size), said(2), 0.0).peers == ()
    assert tracker.announce(Address(b"r" * 32, CONTENT.size + 1), said(2), 0.0).peers == ()


def test_a_seed_hears_of_newcomers_through_callers() -> None:
    tracker = Tracker()
    tracker.announce(CONTENT, said(1, left=0), 0.0)
    tracker.announce(CONTENT, said(2), 5.0)
    seed = said(1).endpoint
    assert tracker.incoming_peers(seed, 6.0) == [(CONTENT, said(2).endpoint)]
    assert tracker.incoming_peers(seed, 5.0 + CALL_LIFE) == []
    assert tracker.incoming_peers(said(3).endpoint, 6.0) == []


def test_who_leaves_or_is_silent_is_forgotten() -> None:
    tracker = Tracker()
    tracker.announce(CONTENT, said(1), 0.0)
    tracker.announce(CONTENT, said(2), 0.0)
    tracker.announce(CONTENT, said(1, event=AnnounceEvent.STOPPED), 1.0)
    assert ips(tracker.announce(CONTENT, said(3), 2.0)) == ["10.0.0.2"]
    late = MISSED_ANNOUNCES * LEECHER_INTERVAL + 0.1
    assert ips(tracker.announce(CONTENT, said(3, event=AnnounceEvent.UPDATE), late)) == []
    assert tracker.scrape([CONTENT]) == [SwarmCounts(0, 1, 0)]


def test_completions_are_counted_once_each() -> None:
    tracker = Tracker()
    tracker.announce(CONTENT, said(1), 0.0)
    for now in (1.0, 2.0):
        tracker.announce(CONTENT, said(1, left=0, event=AnnounceEvent.COMPLETED), now)
    tracker.announce(CONTENT, said(2, left=0), 3.0)  # began complete: not a download
    assert tracker.scrape([CONTENT, Address(b"x" * 32, 1)]) == [SwarmCounts(2, 0, 1), SwarmCounts(0, 0, 0)]


def test_the_same_site_comes_first_then_seeds_then_the_origin_then_the_rest() -> None:
    tracker = Tracker()
    for number, site, left, origin in [
        (1, "bern", 5, False), (2, "bern", 0, False), (3, "lyon", 0, True), (4, "lyon", 5, False), (5, "lyon", 0, False),
    ]:  # fmt: skip
        tracker.announce(CONTENT, said(number, site=site, left=left, origin=origin), 0.0)
    answer = tracker.announce(CONTENT, said(9, site="lyon"), 1.0)
    assert ips(answer) == ["10.0.0.5", "10.0.0.3", "10.0.0.4", "10.0.0.2", "10.0.0.1"]


def test_seeds_are_not_named_to_seeds() -> None:
    tracker = Tracker()
    tracker.announce(CONTENT, said(1, left=0), 0.0)
    tracker.announce(CONTENT, said(2, left=9), 0.0)
    assert ips(tracker.announce(CONTENT, said(3, left=0), 0.0)) == ["10.0.0.2"]


def test_a_large_swarm_is_named_in_part_and_stays_one_piece() -> None:
    tracker = Tracker()
    edges: dict[str, set[str]] = {}
    for number in range(400):
        site = f"site{number % 4}"
        me = said(number, site=site)
        answer = tracker.announce(CONTENT, me, 0.0)
        assert len(answer.peers) <= degree(400)
        if number > 40:
            assert len(answer.peers) >= DEGREE
            assert sum(peer.announcement.site != site for peer in answer.peers) >= FAR
        for ip in ips(answer):
            edges.setdefault(me.endpoint.ip, set()).add(ip)
            edges.setdefault(ip, set()).add(me.endpoint.ip)
    seen, new = set(), {"10.0.0.0"}
    while new:
        seen |= new
        new = set().union(*(edges[ip] for ip in new)) - seen
    assert len(seen) == 400
    assert max(len(ends) for ends in edges.values()) < 60


def test_one_complete_peer_is_always_named() -> None:
    tracker = Tracker()
    tracker.announce(CONTENT, said(500, site="far", left=0), 0.0)
    for number in range(100):
        answer = tracker.announce(CONTENT, said(number, site="near"), 0.0)
        assert "10.0.1.244" in ips(answer)


@pytest.mark.parametrize("members", [1, 10, 1000, 100_000])
def test_the_degree_exceeds_the_logarithm(members: int) -> None:
    assert degree(members) >= max(DEGREE, math.log(members) + 2)


def test_an_asker_gets_no_more_than_it_wants() -> None:
    tracker = Tracker()
    for number in range(20):
        tracker.announce(CONTENT, said(number), 0.0)
    assert len(tracker.announce(CONTENT, said(99, want=3), 0.0).peers) == 3
    assert tracker.announce(CONTENT, said(98, want=0), 0.0).peers == ()


def test_choosing_is_the_same_each_time() -> None:
    tracker = Tracker()
    for number in range(50):
        tracker.announce(CONTENT, said(number), 0.0)
    first = tracker.announce(CONTENT, said(77), 0.0)
    assert ips(tracker.announce(CONTENT, said(77), 1.0)) == ips(first)
    assert choose_peers(first.peers[0], []) == []


def test_a_swarm_has_a_largest_size() -> None:
    tracker = Tracker()
    for number in range(MAX_PEERS):
        tracker._swarms.setdefault(CONTENT, tracker._swarms.get(CONTENT) or _swarm())
        tracker._swarms[CONTENT].peers[said(number).endpoint] = _peer(number)
    with pytest.raises(TooLarge, match=str(MAX_PEERS)):
        tracker.announce(CONTENT, Announcement(Endpoint("10.9.9.9", 1), 1), 0.0)
    tracker.announce(CONTENT, said(3), 0.0)  # a member may go on


def _swarm():
    from catalog.swarm.tracker import _Swarm

    return _Swarm()


def _peer(number: int):
    from catalog.swarm.tracker import SwarmPeer

    return SwarmPeer(said(number), 0.0)


def test_parts_are_for_members_and_stop_when_somebody_has_everything() -> None:
    tracker = Tracker()
    with pytest.raises(Conflict, match="announce first"):
        tracker.assign(CONTENT, said(1).endpoint, [], ORIGIN_PART, 0.0)
    tracker.announce(CONTENT, said(1), 0.0)
    tracker.announce(CONTENT, said(2), 0.0)
    first = tracker.assign(CONTENT, said(1).endpoint, [], 2 * ORIGIN_PART, 0.0)
    second = tracker.assign(CONTENT, said(2).endpoint, [], 2 * ORIGIN_PART, 0.0)
    assert first == [(0, 2 * ORIGIN_PART)]
    assert second[0][0] == 2 * ORIGIN_PART
    tracker.announce(CONTENT, said(3, left=0), 1.0)
    assert tracker.assign(CONTENT, said(1).endpoint, first, ORIGIN_PART, 1.0) == []


def test_the_origins_own_seed_does_not_stop_parts() -> None:
    tracker = Tracker()
    tracker.announce(CONTENT, said(3, left=0, origin=True), 0.0)
    tracker.announce(CONTENT, said(1), 0.0)
    assert tracker.assign(CONTENT, said(1).endpoint, [], ORIGIN_PART, 0.0) == [(0, ORIGIN_PART)]


@pytest.mark.parametrize("how", ["stops", "falls silent", "starts again"])
def test_parts_of_a_node_that_goes_are_given_again(how: str) -> None:
    tracker = Tracker()
    tracker.announce(CONTENT, said(1), 0.0)
    tracker.announce(CONTENT, said(2), 0.0)
    lost = tracker.assign(CONTENT, said(1).endpoint, [], ORIGIN_PART, 0.0)
    now = 1.0
    match how:
        case "stops":
            tracker.announce(CONTENT, said(1, event=AnnounceEvent.STOPPED), now)
        case "starts again":
            tracker.announce(CONTENT, said(1), now)
        case "falls silent":
            now = MISSED_ANNOUNCES * LEECHER_INTERVAL + 1.0
            tracker.announce(CONTENT, said(2, event=AnnounceEvent.UPDATE), now - 1.0)
            tracker.announce(CONTENT, said(2, event=AnnounceEvent.UPDATE), now)
    assert tracker.assign(CONTENT, said(2).endpoint, [], ORIGIN_PART, now) == lost


def test_memory_is_given_back() -> None:
    tracker = Tracker()
    for number in range(20):
        tracker.announce(Address(bytes([number]) * 32, 5), said(1), 0.0)
        tracker.announce(Address(bytes([number]) * 32, 5), said(2), 0.0)
    tracker.announce(CONTENT, said(1), 10_000.0)
    assert set(tracker._swarms) == {CONTENT}
    assert not tracker._calls
