"""Who gives way."""

from hypothesis import given
from hypothesis import strategies as st

from stager.cache.eviction import EvictionCandidate, choose_victims

NOW = 100.0

candidates = st.lists(
    st.builds(
        EvictionCandidate,
        key=st.integers(0, 10_000).map(str),
        allocated=st.integers(0, 50),
        last_used=st.floats(0, 100),
        leased_until=st.none() | st.floats(50, 150),
        busy=st.booleans(),
    ),
    max_size=12,
    unique_by=lambda one: one.key,
)


def one(
    key: str, allocated: int, last_used: float, *, leased: float | None = None, busy: bool = False
) -> EvictionCandidate:
    return EvictionCandidate(key, allocated, last_used, leased, busy)


def test_the_least_recently_used_goes_first() -> None:
    choice = choose_victims([one("new", 10, 9), one("old", 10, 1), one("middle", 10, 5)], 15, NOW)
    assert choice.victims == ("old", "middle")
    assert choice.freed == 20


def test_a_lease_that_has_ended_protects_nothing() -> None:
    assert choose_victims([one("a", 10, 1, leased=NOW)], 5, NOW).victims == ("a",)
    assert choose_victims([one("a", 10, 1, leased=NOW + 1)], 5, NOW).victims == ()


def test_nothing_is_evicted_in_vain() -> None:
    choice = choose_victims([one("a", 10, 1), one("b", 10, 2, busy=True)], 11, NOW)
    assert (choice.victims, choice.freed, choice.held) == ((), 10, 10)


@given(candidates, st.integers(1, 300))
def test_what_is_held_stays_and_enough_goes_or_nothing(known: list[EvictionCandidate], need: int) -> None:
    choice = choose_victims(known, need, NOW)
    by_key = {one.key: one for one in known}
    free = [one for one in known if not one.held(NOW)]
    assert not any(by_key[key].held(NOW) for key in choice.victims)
    if sum(one.allocated for one in free) < need:
        assert choice.victims == ()
        return
    assert sum(by_key[key].allocated for key in choice.victims) == choice.freed >= need
    assert choice.freed - by_key[choice.victims[-1]].allocated < need, "one victim too many"
    oldest_kept = min((one.last_used for one in free if one.key not in choice.victims and one.allocated), default=1e9)
    assert all(by_key[key].last_used <= oldest_kept for key in choice.victims)
