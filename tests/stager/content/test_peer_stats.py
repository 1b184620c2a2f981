"""Counts by peer while peers come and go: nothing is lost, nothing counted twice, and the sum is what came."""

from hypothesis import given
from hypothesis import strategies as st

from stager.content.peer_stats import (
    MAX_PEERS_KEPT,
    MAX_PEERS_SHOWN,
    PeerSample,
    PeerStats,
    PeerStatsRecorder,
    idle_peer_stats,
    merge_peer_stats,
    top_peers,
)


def counts(feeders: tuple[PeerStats, ...]) -> dict[str, int]:
    return {one.peer: one.received for one in feeders}


def test_what_a_peer_sent_after_the_last_look_is_known_by_the_sum() -> None:
    """It left; the sum has its last bytes, and nobody else's."""
    feeding = PeerStatsRecorder()
    feeding.sample([PeerSample("a", "192.0.2.1:1", 100, 50), PeerSample("b", "192.0.2.2:1", 10, 5)])
    assert feeding.stats(110)[0] == PeerStats(peer="a", at="192.0.2.1:1", received=100, rate=50)
    feeding.sample([PeerSample("b", "192.0.2.2:1", 10, 5)])
    assert feeding.stats(160) == (
        PeerStats(peer="a", at="192.0.2.1:1", received=150, rate=0),
        PeerStats(peer="b", at="192.0.2.2:1", received=10, rate=5),
    )


def test_of_several_that_left_each_gets_what_it_was_sending() -> None:
    """By their rates; whoever sent nothing gets next to nothing."""
    feeding = PeerStatsRecorder()
    feeding.sample(
        [
            PeerSample("a", "192.0.2.1:1", 1000, 3000),
            PeerSample("b", "192.0.2.2:1", 1000, 1000),
            PeerSample("c", "192.0.2.3:1", 0, 0),
        ]
    )
    feeding.sample([])
    found = counts(feeding.stats(2400))
    assert (found["a"], found["b"]) == (1299, 1099)
    assert found.get("c", 0) == 0


def test_a_peer_that_comes_again_goes_on_counting() -> None:
    """Whether it was seen to be gone or not, and from whatever port it calls."""
    feeding = PeerStatsRecorder()
    feeding.sample([PeerSample("a", "192.0.2.1:1", 100, 9)])
    feeding.sample([PeerSample("a", "192.0.2.1:1", 20, 9)])  # a new connection
    feeding.sample([PeerSample("a", "192.0.2.1:1", 20, 9), PeerSample("a", "192.0.2.1:44444", 5, 1)])
    (only,) = feeding.stats(125)
    assert (only.received, only.rate, only.at) == (125, 10, "192.0.2.1:44444")


def test_who_calls_itself_something_new_each_time_takes_no_memory() -> None:
    """Beyond a number of peers, others are counted together."""
    feeding = PeerStatsRecorder()
    for number in range(4 * MAX_PEERS_KEPT):
        feeding.sample([PeerSample(f"p{number}", "192.0.2.1:1", 10, 0)])
    found = feeding.stats(40 * MAX_PEERS_KEPT)
    assert len(found) == MAX_PEERS_SHOWN
    assert found[0].peer == ""
    assert found[0].received >= 30 * MAX_PEERS_KEPT - 10
    assert len(feeding._earlier) <= MAX_PEERS_KEPT + 1


def test_counts_of_several_sessions_are_one() -> None:
    """A peer process that was replaced begins at nothing; what went before is kept."""
    before = idle_peer_stats((PeerStats(peer="a", at="x", received=5, rate=7), PeerStats(peer="b", at="y", received=1)))
    now = (PeerStats(peer="a", at="z", received=2, rate=3),)
    assert merge_peer_stats(before, now) == (
        PeerStats(peer="a", at="z", received=7, rate=3),
        PeerStats(peer="b", at="y", received=1, rate=0),
    )


LOOKS = st.lists(st.dictionaries(st.sampled_from("abcde"), st.integers(0, 1000)), max_size=8)


@given(LOOKS, st.integers(0, 1000))
def test_never_more_than_the_sum_that_came(steps: list[dict[str, int]], lost: int) -> None:
    """Whoever comes, sends, and goes: the counts add up to what came, as soon as somebody has left who may have sent it."""
    feeding, standing, gone, total = PeerStatsRecorder(), dict[str, int](), 0, 0
    for more in steps:
        gone += len(set(standing) - set(more))
        standing = {peer: standing.get(peer, 0) + count for peer, count in more.items()}
        total += sum(more.values())
        feeding.sample([PeerSample(peer, f"{peer}:1", count, count) for peer, count in standing.items()])
        assert sum(counts(feeding.stats(total)).values()) == total
    told = sum(counts(feeding.stats(total + lost)).values())
    assert total <= told <= total + lost
    if gone:
        assert told >= total + lost - 5  # what is left over by dividing


def test_the_first_are_those_who_sent_the_most() -> None:
    """And no more of them than anybody wants to know."""
    many = [PeerStats(peer=f"p{number:02}", at="x", received=number) for number in range(20)]
    assert [one.received for one in top_peers(many)] == list(range(19, 19 - MAX_PEERS_SHOWN, -1))
