"""Decides what to do about a stalled swarm. Pure: a history in, an action out.

The cause does not matter (corrupting peers, a seed banned by mistake, a dead tracker, half-open connections): each step
helps against more causes and costs more. First the content leaves its swarm and joins it again, which drops bans and dead
connections; then without the old peers, only with those that the tracker names now; then the missing pieces are fetched
from the origin over HTTP, while the swarm stays open.
"""

from dataclasses import dataclass, field
from enum import StrEnum

STALL_SECONDS = 3.0
"""Seconds without a correct piece before each step."""


class RescueAction(StrEnum):
    """The steps of a rescue, in order."""

    KEEP = "keep"
    READD = "readd"
    DROP_PEERS = "drop_peers"
    HTTP = "http"


@dataclass(frozen=True)
class StallHistory:
    """The recent history of one content.

    Attributes:
        progress_at: when the last correct piece arrived, from any source, or the start; seconds of the caller's clock.
        connected: peers connected now.
        taken: the steps taken since then, with their times.
    """

    progress_at: float
    connected: int
    taken: tuple[tuple[RescueAction, float], ...] = field(default=())


def decide_rescue(history: StallHistory, now: float) -> RescueAction:
    """Return the step to take now; KEEP for none."""
    since = max([history.progress_at, *(at for _, at in history.taken)])
    steps = [action for action, _ in history.taken]
    if RescueAction.HTTP in steps:
        return RescueAction.KEEP
    if now - since < STALL_SECONDS:
        return RescueAction.KEEP
    if history.connected == 0:  # there are no peers to drop
        return RescueAction.HTTP
    if RescueAction.READD not in steps:
        return RescueAction.READD
    return RescueAction.DROP_PEERS if RescueAction.DROP_PEERS not in steps else RescueAction.HTTP
