"""Token buckets: a burst, then a steady rate, each for its own; whoever is refused is told how long."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployer.errors import TooManyRequests
from deployer.site.auth.rate_limits import (
    BURSTS,
    PER_ADDRESS,
    PER_FAILURE,
    PER_PERSON,
    RequestLimiter,
    RequestRate,
    TokenBuckets,
)
from deployer.site.settings import SiteSettings


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def test_a_burst_and_then_a_rate() -> None:
    clock = Clock()
    buckets = TokenBuckets(RequestRate(burst=3, per_second=2), clock)
    assert [buckets.take("ann") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("bob") == 0, "everybody has a bucket of their own"
    clock.time = 0.25
    assert buckets.take("ann") == pytest.approx(0.25), "whoever was refused has taken nothing"
    clock.time = 0.5
    assert buckets.take("ann") == 0
    assert buckets.take("ann") == 0.5
    clock.time = 1000
    assert [buckets.take("ann") for _ in range(4)] == [0, 0, 0, 0.5], "a bucket does not grow"


def test_what_was_promised_is_kept() -> None:
    clock = Clock()
    buckets = TokenBuckets(RequestRate(burst=1, per_second=0.3), clock)
    buckets.take("ann")
    clock.time += buckets.take("ann") + 1e-9
    assert buckets.take("ann") == 0


@given(st.lists(st.floats(0, 3), max_size=60))
def test_never_more_than_the_burst_and_the_rate(pauses: list[float]) -> None:
    clock = Clock()
    buckets = TokenBuckets(RequestRate(burst=5, per_second=2), clock)
    served = 0
    for pause in pauses:
        clock.time += pause
        served += buckets.take("ann") == 0
        assert served <= 5 + 2 * clock.time + 1e-6


def test_buckets_that_nobody_uses_are_forgotten() -> None:
    buckets = TokenBuckets(RequestRate(burst=1, per_second=1), Clock(), most=2)
    assert [buckets.take(name) for name in ("a", "b", "c")] == [0, 0, 0]
    assert len(buckets._held) == 2
    assert buckets.take("c") > 0
    assert buckets.take("a") == 0, "forgotten, and so full again"


def test_many_threads_take_no_more_than_there_is() -> None:
    buckets = TokenBuckets(RequestRate(burst=100, per_second=1), Clock())
    taken: list[float] = []
    threads = [threading.Thread(target=lambda: taken.extend(buckets.take("ann") for _ in range(50))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(taken) == 400
    assert taken.count(0.0) == 100


def test_who_asks_too_often_is_told_when_to_ask_again() -> None:
    clock = Clock()
    slow = RequestRate(burst=2, per_second=0.1)
    rates = RequestLimiter(clock, person=slow, address=slow, failure=slow)
    for ask in (rates.check_address, rates.check_person, rates.count_failure):
        ask("x")
        ask("x")
        with pytest.raises(TooManyRequests, match="retry in 10 s") as caught:
            ask("x")
        assert caught.value.retry_after == 10
    rates.check_address("y")


def test_the_address_and_the_person_are_counted_apart() -> None:
    rates = RequestLimiter(Clock(), person=RequestRate(1, 1), address=RequestRate(2, 1), failure=RequestRate(1, 1))
    rates.check_address("::1")
    rates.check_person("ann")
    rates.check_address("::1")
    rates.check_person("bob")
    rates.count_failure("::1")
    with pytest.raises(TooManyRequests, match="from your address"):
        rates.check_address("::1")


def test_what_is_usual_is_what_the_settings_say() -> None:
    said = SiteSettings()
    usual = map(RequestRate.steady, (said.person_rate, said.address_rate, said.failure_rate), BURSTS)
    assert tuple(usual) == (PER_PERSON, PER_ADDRESS, PER_FAILURE)
    assert RequestRate.steady(0.001, 5).burst == 1
