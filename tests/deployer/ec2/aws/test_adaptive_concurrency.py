"""How fast requests are sent: halved when throttled, and back again."""

import os

import pytest

from deployer.ec2.aws.adaptive_concurrency import SETTLE, AdaptiveConcurrency


def test_a_pace_is_halved_once_in_a_while_and_comes_back() -> None:
    now = [0.0]
    pace = AdaptiveConcurrency(64, lambda: now[0])
    pace.throttled()
    pace.throttled()
    assert pace.window == 32
    now[0] += SETTLE
    pace.throttled()
    assert pace.window == 16
    for _ in range(16 * 20):
        with pace.one():
            pass
    assert 16 < pace.window <= 64
    for _ in range(10):
        now[0] += SETTLE
        pace.throttled()
    assert pace.window == 1
    with pytest.raises(OSError, match="x"), pace.one():
        raise OSError(os.strerror(5) and "x")
    with pace.one():
        pass
