"""The states of a machine, what can happen to it, and what follows from that. Pure."""

from enum import StrEnum
from typing import Final


class MachineState(StrEnum):
    """Where a machine is in its life. `paused` is in memory, `suspended` on disk, `stopped` has only its disks."""

    PENDING = "pending"
    STAGING = "staging"
    BOOTING = "booting"
    RUNNING = "running"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    STOPPED = "stopped"
    ENDED = "ended"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """Whether nothing more can happen."""
        return self in {MachineState.ENDED, MachineState.FAILED}


class MachineEvent(StrEnum):
    """What can happen to a machine. `suspended` is: its memory was saved and the emulator ended."""

    ACCEPTED = "accepted"
    STAGED = "staged"
    STARTED = "started"
    PAUSED = "paused"
    RESUMED = "resumed"
    SUSPENDED = "suspended"
    REBOOTED = "rebooted"
    POWERED_OFF = "powered-off"
    CRASHED = "crashed"
    EXPIRED = "expired"
    DESTROYED = "destroyed"
    BROKE = "broke"


_LIVE: Final = frozenset({MachineState.BOOTING, MachineState.RUNNING, MachineState.PAUSED})
_AT_REST: Final = frozenset({MachineState.STOPPED, MachineState.SUSPENDED})
_TRANSITIONS: Final[dict[MachineEvent, tuple[frozenset[MachineState], MachineState]]] = {
    MachineEvent.ACCEPTED: (frozenset({MachineState.PENDING}), MachineState.STAGING),
    MachineEvent.STAGED: (frozenset({MachineState.STAGING}), MachineState.BOOTING),
    MachineEvent.STARTED: (_AT_REST | {MachineState.BOOTING}, MachineState.RUNNING),
    MachineEvent.PAUSED: (frozenset({MachineState.RUNNING}), MachineState.PAUSED),
    MachineEvent.RESUMED: (frozenset({MachineState.PAUSED}), MachineState.RUNNING),
    MachineEvent.SUSPENDED: (frozenset({MachineState.RUNNING, MachineState.PAUSED}), MachineState.SUSPENDED),
    MachineEvent.REBOOTED: (frozenset({MachineState.RUNNING}), MachineState.RUNNING),
    MachineEvent.POWERED_OFF: (_LIVE | {MachineState.SUSPENDED}, MachineState.STOPPED),
    MachineEvent.CRASHED: (_LIVE, MachineState.FAILED),
    MachineEvent.EXPIRED: (_LIVE | _AT_REST, MachineState.ENDED),
    MachineEvent.DESTROYED: (_LIVE | _AT_REST | {MachineState.PENDING, MachineState.STAGING}, MachineState.ENDED),
    MachineEvent.BROKE: (
        frozenset({MachineState.PENDING, MachineState.STAGING, MachineState.BOOTING}),
        MachineState.FAILED,
    ),
}


def next_state(state: MachineState, happening: MachineEvent) -> MachineState:
    """The state that follows. What cannot happen in a state leaves it as it is: events of the hypervisor come late,
    twice, or after the machine was ended from another side."""
    begins, follows = _TRANSITIONS[happening]
    return follows if state in begins else state
