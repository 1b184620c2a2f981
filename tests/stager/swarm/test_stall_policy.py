"""The steps of a rescue, in order and not too soon."""

import pytest

from stager.swarm.stall_policy import STALL_SECONDS, RescueAction, StallHistory, decide_rescue


@pytest.mark.parametrize(
    ("what", "history", "now", "action"),
    [
        ("pieces are coming", StallHistory(100.0, 3), 100.0 + STALL_SECONDS / 2, RescueAction.KEEP),
        ("nothing for a while", StallHistory(100.0, 3), 100.0 + STALL_SECONDS, RescueAction.READD),
        (
            "just joined again",
            StallHistory(100.0, 3, ((RescueAction.READD, 103.0),)),
            103.0 + STALL_SECONDS / 2,
            RescueAction.KEEP,
        ),
        (
            "joining again did not help",
            StallHistory(100.0, 3, ((RescueAction.READD, 103.0),)),
            103.0 + STALL_SECONDS,
            RescueAction.DROP_PEERS,
        ),
        (
            "nor did other peers",
            StallHistory(100.0, 3, ((RescueAction.READD, 103.0), (RescueAction.DROP_PEERS, 106.0))),
            106.0 + STALL_SECONDS,
            RescueAction.HTTP,
        ),
        ("nobody is connected", StallHistory(100.0, 0), 100.0 + STALL_SECONDS, RescueAction.HTTP),
        ("nobody is connected yet", StallHistory(100.0, 0), 100.0 + STALL_SECONDS / 2, RescueAction.KEEP),
        (
            "everybody left after joining again",
            StallHistory(100.0, 0, ((RescueAction.READD, 103.0),)),
            103.0 + STALL_SECONDS,
            RescueAction.HTTP,
        ),
        ("HTTP is at work", StallHistory(100.0, 0, ((RescueAction.HTTP, 103.0),)), 200.0, RescueAction.KEEP),
        ("pieces came after a step", StallHistory(110.0, 3, ((RescueAction.READD, 103.0),)), 112.0, RescueAction.KEEP),
    ],
)
def test_each_step_has_its_time(what: str, history: StallHistory, now: float, action: RescueAction) -> None:
    assert decide_rescue(history, now) is action


def test_whatever_happens_http_is_reached_in_seconds() -> None:
    taken: tuple[tuple[RescueAction, float], ...] = ()
    now = 0.0
    while RescueAction.HTTP not in [action for action, _ in taken]:
        action = decide_rescue(StallHistory(0.0, 1, taken), now)
        taken += ((action, now),) if action is not RescueAction.KEEP else ()
        now += 0.25
        assert now <= 3 * STALL_SECONDS + 1
    assert [action for action, _ in taken] == [RescueAction.READD, RescueAction.DROP_PEERS, RescueAction.HTTP]
