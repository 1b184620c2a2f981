"""What to do about a swarm that brings nothing. Pure: a history in, an action out.

The cause does not matter (poisoners, a seed banned by mistake, a dead tracker, half-open connections): each step works
against more causes and costs more. First the content leaves its swarm and joins it again, which forgets bans and dead
connections; then with none of the old peers, only those that the tracker names now; then what is missing comes from the
origin over HTTP, while the swarm stays open.
"""

from dataclasses import dataclass, field
from enum import StrEnum

STALL_SECONDS = 3.0
"""Seconds without a right piece after which something is done, and after which the next thing is done."""


class RescueAction(StrEnum):
    """The steps of a rescue, in order."""

    KEEP = "keep"
    READD = "readd"
    DROP_PEERS = "drop_peers"
    HTTP = "http"


@dataclass(frozen=True)
class StallHistory:
    """What has happened to one content.

    Attributes:
        progress_at: when the last right piece came, from wherever, or the start; seconds of the caller's clock.
        connected: peers connected now.
        taken: the steps taken since then, with their times.
    """

    progress_at: float
    connected: int
    taken: tuple[tuple[RescueAction, float], ...] = field(default=())


def decide_rescue(history: StallHistory, now: float) -> RescueAction:
    """The step to take now; KEEP for none."""
    since = max([history.progress_at, *(at for _, at in history.taken)])
    steps = [action for action, _ in history.taken]
    if RescueAction.HTTP in steps:
        return RescueAction.KEEP
    if now - since < STALL_SECONDS:
        return RescueAction.KEEP
    if history.connected == 0:  # there is nobody to forget
        return RescueAction.HTTP
    if RescueAction.READD not in steps:
        return RescueAction.READD
    return RescueAction.DROP_PEERS if RescueAction.DROP_PEERS not in steps else RescueAction.HTTP
