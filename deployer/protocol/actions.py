"""Actions that bring a machine to the state that its site desires: one vocabulary for nodes and for pools at EC2."""

from dataclasses import dataclass
from enum import StrEnum

from deployer.protocol.desired_state import DesiredMachine, IncomingMigration


class ActionKind(StrEnum):
    """The kinds of actions on a machine."""

    MAKE = "make"
    """There is no such machine, and there should be one."""
    PAUSE = "pause"
    RESUME = "resume"
    """It is paused and should run."""
    SUSPEND = "suspend"
    """Its memory should be on disk; at EC2 it hibernates."""
    START = "start"
    """It is suspended or was stopped, and should run."""
    STOP = "stop"
    """It should have its disks and nothing else."""
    REBOOT = "reboot"
    """It was rebooted less often than is desired."""
    RESIZE = "resize"
    """It has another amount of memory, or of cores, than is desired."""
    EXTEND = "extend"
    """It expires at another instant."""
    REMEMBER = "remember"
    """What is desired of it has to be written down."""
    END = "end"
    """It should not be there; one that is being made is cancelled."""
    FORGET = "forget"
    """It has ended, and its site knows."""
    GIVE = "give"
    """It rests, and another node is to have it: it is locked, and what the other gets of it is described."""
    RETAIN = "retain"
    """It was to be given away, and stays."""
    TAKE = "take"
    """It is to be brought here from another node, which has it until the site says otherwise."""
    ADOPT = "adopt"
    """It was brought here, and its site says that it is this node's now."""
    REPORT_LOST = "report-lost"
    """It was brought here once, and there is nothing of it: it had a life that cannot be made anew."""


MIGRATION = frozenset({ActionKind.GIVE, ActionKind.RETAIN, ActionKind.TAKE, ActionKind.ADOPT, ActionKind.REPORT_LOST})


@dataclass(frozen=True)
class Action:
    """One action on one machine.

    Attributes:
        kind: what.
        machine: its UUID.
        reason: why, in a sentence; may be empty.
        instance: at EC2, the instance that it is done to; empty where it is to be made.
        wanted: how the machine should be; None where its site does not want it.
        incoming: what is to be brought from another node, and from which.
    """

    kind: ActionKind
    machine: str
    reason: str = ""
    instance: str = ""
    wanted: DesiredMachine | None = None
    incoming: IncomingMigration | None = None

    @property
    def desired(self) -> DesiredMachine:
        """How the machine should be; only what its site does not want is ended, retained or forgotten without it."""
        assert self.wanted is not None  # noqa: S101 - reconcilers see to it
        return self.wanted
