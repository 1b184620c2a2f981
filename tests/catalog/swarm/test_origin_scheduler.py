"""First copies: every part goes to one node, and comes back into the pot only when it would be lost."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.swarm.origin_scheduler import MAX_OUTSTANDING, ORIGIN_PART, REPORT_TIMEOUT, OriginScheduler


def take_all(copies: OriginScheduler, holders: list[str], now: float = 0.0) -> dict[str, list[tuple[int, int]]]:
    """Let holders ask in turn until nothing is left; returns what each was given."""
    given: dict[str, list[tuple[int, int]]] = {holder: [] for holder in holders}
    while sum(len(_fetch(copies, holder, len(holders), given, now)) for holder in holders):
        pass
    return given


def _fetch(copies, holder, sharers, given, now):
    ranges = copies.assign(holder, 4 * ORIGIN_PART, sharers, now)
    copies.report(holder, ranges)
    given[holder] += ranges
    return ranges


@given(size=st.integers(1, 40 * ORIGIN_PART), holders=st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_together_nodes_are_given_every_byte_exactly_once(size: int, holders: int) -> None:
    given = take_all(OriginScheduler(size), [f"n{number}" for number in range(holders)])
    ranges = sorted(piece for pieces in given.values() for piece in pieces)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == size
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(ranges))


def test_nodes_of_equal_speed_get_equal_shares() -> None:
    given = take_all(OriginScheduler(240 * ORIGIN_PART), ["a", "b", "c"])
    shares = [sum(end - start for start, end in ranges) / ORIGIN_PART for ranges in given.values()]
    assert max(shares) - min(shares) <= 8


def test_what_a_node_has_is_not_given_to_anybody() -> None:
    copies = OriginScheduler(10 * ORIGIN_PART)
    copies.report(
        "early", [(0, 6 * ORIGIN_PART), (7 * ORIGIN_PART + 1, 9 * ORIGIN_PART - 1)]
    )  # the second covers no part whole
    given = take_all(copies, ["late"])["late"]
    assert (
        given
        == [(6 * ORIGIN_PART, 8 * ORIGIN_PART), (8 * ORIGIN_PART, 9 * ORIGIN_PART), (9 * ORIGIN_PART, 10 * ORIGIN_PART)]
        or sum(end - start for start, end in given) == 4 * ORIGIN_PART
    )


def test_a_part_that_is_not_reported_goes_to_another_node_after_a_while_and_not_before() -> None:
    copies = OriginScheduler(ORIGIN_PART)
    assert copies.assign("slow", ORIGIN_PART, 2, 100.0) == [(0, ORIGIN_PART)]
    assert copies.assign("other", ORIGIN_PART, 2, 100.0 + REPORT_TIMEOUT - 0.1) == []
    assert copies.assign("slow", ORIGIN_PART, 2, 100.0 + REPORT_TIMEOUT) == []
    assert copies.assign("other", ORIGIN_PART, 2, 100.0 + REPORT_TIMEOUT) == [(0, ORIGIN_PART)]


def test_what_left_with_its_only_holder_is_given_again_and_what_another_has_is_not() -> None:
    copies = OriginScheduler(4 * ORIGIN_PART)
    copies.report("goes", [(0, 3 * ORIGIN_PART)])
    copies.report("stays", [(ORIGIN_PART, 2 * ORIGIN_PART)])
    assert copies.assign("goes", ORIGIN_PART, 2, 0.0) == [(3 * ORIGIN_PART, 4 * ORIGIN_PART)]
    copies.remove("goes")
    ranges = take_all(copies, ["stays"])["stays"]
    assert sorted(part for start, end in ranges for part in range(start // ORIGIN_PART, end // ORIGIN_PART)) == [
        0,
        2,
        3,
    ]


def test_one_node_never_holds_more_than_the_bound_unreported() -> None:
    copies = OriginScheduler(4 * MAX_OUTSTANDING)
    held = 0
    while ranges := copies.assign("greedy", 1 << 40, 1, 0.0):
        held += sum(end - start for start, end in ranges)
    assert held == MAX_OUTSTANDING


def test_asking_for_nothing_still_brings_one_part() -> None:
    assert OriginScheduler(5 * ORIGIN_PART).assign("a", 0, 1, 0.0) == [(0, ORIGIN_PART)]


@pytest.mark.parametrize("seed", range(5))
def test_nodes_that_die_at_random_lose_nothing(seed: int) -> None:
    rng = random.Random(seed)
    copies, alive, kept, now = OriginScheduler(60 * ORIGIN_PART), [f"n{i}" for i in range(6)], {}, 0.0
    while len(alive) > 1:
        holder = rng.choice(alive)
        now += 1.0
        ranges = copies.assign(holder, 3 * ORIGIN_PART, len(alive), now)
        if rng.random() < 0.8:
            copies.report(holder, ranges)
            kept.setdefault(holder, set()).update(
                part for s, e in ranges for part in range(s // ORIGIN_PART, e // ORIGIN_PART)
            )
        if rng.random() < 0.1:
            alive.remove(holder)
            kept.pop(holder, None)
            copies.remove(holder)
    last = alive[0]
    for _ in range(200):
        now += REPORT_TIMEOUT
        ranges = copies.assign(last, 3 * ORIGIN_PART, 1, now)
        copies.report(last, ranges)
        kept.setdefault(last, set()).update(
            part for s, e in ranges for part in range(s // ORIGIN_PART, e // ORIGIN_PART)
        )
    unreported = set(range(60)) - kept[last]
    # What is still missing is only what the last one itself was given and never reported: it fetches that by itself.
    assert len(unreported) * ORIGIN_PART <= MAX_OUTSTANDING
    assert copies.left == 0
