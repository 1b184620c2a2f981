"""How long is waited before something is tried again, and how often that is done."""

from signer.runtime.retry import RetryPolicy

FULL = RetryPolicy(attempts=5, base=1.0, max_pause=10.0)
HALF = RetryPolicy(attempts=5, base=1.0, max_pause=10.0, floor=0.5)


def test_pauses_double_up_to_the_longest() -> None:
    assert [FULL.pause(n, 0.5) for n in (1, 2, 3, 4, 5, 60, 10_000)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]
    assert [HALF.pause(n, 0.0) for n in (1, 2, 5)] == [0.5, 1.0, 5.0]
    assert [HALF.pause(n, 1.0) for n in (1, 2, 5)] == [1.0, 2.0, 10.0]


def test_the_other_side_is_waited_for_no_longer_than_the_longest() -> None:
    assert FULL.pause(1, 0.0, 3.0) == 3.0
    assert FULL.pause(1, 0.0, 3000.0) == 10.0


def test_those_that_failed_together_do_not_come_back_together() -> None:
    drawn = [HALF.pause(4) for _ in range(200)]
    assert all(4.0 <= one <= 8.0 for one in drawn)
    assert max(drawn) - min(drawn) > 1.0
    assert len(set(drawn)) > 150


def test_every_attempt_has_a_pause_but_the_last() -> None:
    assert [FULL.has_next(n) for n in (1, 4, 5)] == [True, True, False]
    pauses = list(HALF.pauses())
    assert len(pauses) == 5
    assert pauses[-1] is None
    assert None not in pauses[:-1]
    assert list(RetryPolicy(attempts=1, base=1.0, max_pause=1.0).pauses()) == [None]
