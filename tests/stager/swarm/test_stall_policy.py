"""The steps of a rescue, in order and not too soon."""

import pytest

from stager.swarm.stall_policy import STALL, Action, History, decide_rescue


@pytest.mark.parametrize(
    ("what", "history", "now", "action"),
    [
        ("pieces are coming", History(100.0, 3), 100.0 + STALL / 2, Action.KEEP),
        ("nothing for a while", History(100.0, 3), 100.0 + STALL, Action.READD),
        ("just joined again", History(100.0, 3, ((Action.READD, 103.0),)), 103.0 + STALL / 2, Action.KEEP),
        ("joining again did not help", History(100.0, 3, ((Action.READD, 103.0),)), 103.0 + STALL, Action.DROP_PEERS),
        (
            "nor did other peers",
            History(100.0, 3, ((Action.READD, 103.0), (Action.DROP_PEERS, 106.0))),
            106.0 + STALL,
            Action.HTTP,
        ),
        ("nobody is connected", History(100.0, 0), 100.0 + STALL, Action.HTTP),
        ("nobody is connected yet", History(100.0, 0), 100.0 + STALL / 2, Action.KEEP),
        ("everybody left after joining again", History(100.0, 0, ((Action.READD, 103.0),)), 103.0 + STALL, Action.HTTP),
        ("HTTP is at work", History(100.0, 0, ((Action.HTTP, 103.0),)), 200.0, Action.KEEP),
        ("pieces came after a step", History(110.0, 3, ((Action.READD, 103.0),)), 112.0, Action.KEEP),
    ],
)
def test_each_step_has_its_time(what: str, history: History, now: float, action: Action) -> None:
    assert decide_rescue(history, now) is action


def test_whatever_happens_http_is_reached_in_seconds() -> None:
    taken: tuple[tuple[Action, float], ...] = ()
    now = 0.0
    while Action.HTTP not in [action for action, _ in taken]:
        action = decide_rescue(History(0.0, 1, taken), now)
        taken += ((action, now),) if action is not Action.KEEP else ()
        now += 0.25
        assert now <= 3 * STALL + 1
    assert [action for action, _ in taken] == [Action.READD, Action.DROP_PEERS, Action.HTTP]
