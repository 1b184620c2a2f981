"""What a node has to do so that its machines are as its site wants them. Pure: two lists in, actions out.

The state of a machine says what is, `Want` what should be; only the difference is acted upon, so an action that was done
already, or half, is never done twice. One thing cannot be seen from the two: whether a machine that is stopped was stopped
because somebody wanted that, or powered itself off. So its record keeps what its site wanted last (`wanted`), noted before a
machine is brought to rest and after it was brought to run. A guest that powered itself off stays off.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from deployer.machine.spec import State
from deployer.protocol.desired_state import DesiredMachine, DesiredState, Incoming, Want
from deployer.protocol.migration import Giving
from deployer.records.machine_store import MachineRecord

MAKING: Final = frozenset({State.PENDING, State.STAGING, State.BOOTING})
LIVE: Final = frozenset({State.RUNNING, State.PAUSED})
UNKNOWN: Final = "its site does not know it any more"
MOVED: Final = "it was moved to another node"


@dataclass(frozen=True)
class Make:
    """There is no such machine, and there should be one."""

    machine: DesiredMachine

    @property
    def uuid(self) -> str:
        """Of the machine."""
        return self.machine.uuid


@dataclass(frozen=True)
class Pause:
    """It runs and should be paused."""

    uuid: str


@dataclass(frozen=True)
class Resume:
    """It is paused and should run."""

    uuid: str


@dataclass(frozen=True)
class Suspend:
    """Its memory should be on disk."""

    uuid: str


@dataclass(frozen=True)
class Reactivate:
    """It is suspended or was stopped, and should run."""

    uuid: str


@dataclass(frozen=True)
class Stop:
    """It should have its disks and nothing else."""

    uuid: str


@dataclass(frozen=True)
class Reboot:
    """It was rebooted less often than somebody asked for; afterwards it was `number` times."""

    uuid: str
    number: int


@dataclass(frozen=True)
class Resize:
    """It has other amounts than it should: bytes of memory, cores."""

    uuid: str
    memory: int
    cores: int


@dataclass(frozen=True)
class Prolong:
    """Its time ends at another instant."""

    uuid: str
    ends: datetime


@dataclass(frozen=True)
class Note:
    """What is wanted of it has to be remembered."""

    uuid: str
    want: Want


@dataclass(frozen=True)
class End:
    """It should not be there; one that is being made is cancelled."""

    uuid: str
    reason: str


@dataclass(frozen=True)
class Forget:
    """It has ended, and its site knows."""

    uuid: str


@dataclass(frozen=True)
class Give:
    """It rests, and another node is to have it: it is locked, and what the other gets of it is described."""

    uuid: str
    giving: Giving


@dataclass(frozen=True)
class Retain:
    """It was to be given away, and stays."""

    uuid: str


@dataclass(frozen=True)
class Take:
    """It is to be brought here from another node, which has it until the site says otherwise."""

    incoming: Incoming

    @property
    def uuid(self) -> str:
        """Of the machine."""
        return self.incoming.machine.uuid


@dataclass(frozen=True)
class Own:
    """It was brought here, and its site says that it is this node's now."""

    uuid: str


@dataclass(frozen=True)
class Miss:
    """It was brought here once, and there is nothing of it: it had a life that cannot be made anew."""

    machine: DesiredMachine

    @property
    def uuid(self) -> str:
        """Of the machine."""
        return self.machine.uuid


Moves = Give | Retain | Take | Own | Miss
Action = Make | Pause | Resume | Suspend | Reactivate | Stop | Reboot | Resize | Prolong | Note | End | Forget | Moves


def actions(desired: DesiredState, here: Sequence[MachineRecord]) -> tuple[Action, ...]:
    """What is to be done now. Those of one machine belong together, in their order; more may follow from what comes of them.

    Args:
        desired: all machines that the site wants on this node.
        here: the records of the machines of that site on this node, and no others.
    """
    records = {record.uuid: record for record in here}
    found: list[Action] = []
    for machine in desired.machines:
        record = records.pop(machine.uuid, None)
        if record is None and machine.moved is not None and machine.want is not Want.ENDED:
            found.append(Miss(machine))
        elif record is None:
            # One that should rest has nothing that it could rest on, until somebody wants it to run.
            if machine.want in {Want.RUNNING, Want.PAUSED, Want.SUSPENDED}:
                found.append(Make(machine))
        else:
            found += _machine(machine, record)
    for incoming in desired.incoming or ():
        record = records.get(incoming.machine.uuid)
        if record is None:
            found.append(Take(incoming))
        elif record.arriving == incoming.number and not record.state.final:
            del records[record.uuid]  # it is here, or on its way, and waits for its site's word
    for record in records.values():
        found.append(
            Forget(record.uuid) if record.state.final else End(record.uuid, MOVED if record.giving else UNKNOWN)
        )
    return tuple(found)


def _machine(machine: DesiredMachine, record: MachineRecord) -> Iterator[Action]:
    uuid, state = record.uuid, record.state
    if state.final:
        return  # its site has not heard of it yet
    if machine.want is Want.ENDED:
        yield End(uuid, machine.reason or "its site ended it")
        return
    if record.arriving is not None:
        # Of another move than that which the site speaks of it is no more than a copy.
        yield Own(uuid) if record.arriving == machine.moved else End(uuid, UNKNOWN)
        return
    if machine.ends != record.ends:
        yield Prolong(uuid, machine.ends)
    if state in MAKING:
        return
    if machine.want is not Want.RUNNING and record.wanted != machine.want and not _to_be_started(machine, record):
        yield Note(uuid, machine.want)
    if machine.giving is not None and state in {State.SUSPENDED, State.STOPPED}:
        if record.giving != machine.giving:
            yield Give(uuid, machine.giving)
        return
    if machine.giving is None and record.giving is not None:
        yield Retain(uuid)
        return
    yield from _state(machine, record)
    if state in LIVE | {State.STOPPED} and (machine.memory, machine.cores) != (record.memory, record.cores):
        yield Resize(uuid, machine.memory, machine.cores)


def _to_be_started(machine: DesiredMachine, record: MachineRecord) -> bool:
    """Whether a machine is stopped because that was wanted, and something else is wanted now. Before it can be paused or
    suspended it has to run; what came to be stopped while it was to be suspended has lost its memory, and waits for an order."""
    if record.state is not State.STOPPED:
        return False
    return (
        record.wanted != Want.RUNNING
        if machine.want is Want.RUNNING
        else (machine.want in {Want.PAUSED, Want.SUSPENDED} and record.wanted == Want.STOPPED)
    )


def _state(machine: DesiredMachine, record: MachineRecord) -> Iterator[Action]:
    uuid = record.uuid
    match machine.want, record.state:
        case Want.RUNNING, State.RUNNING:
            if record.wanted != Want.RUNNING:
                yield Note(uuid, Want.RUNNING)
            if record.reboots < machine.reboots:
                yield Reboot(uuid, machine.reboots)
        case Want.RUNNING, State.PAUSED:
            yield Resume(uuid)
        case ((Want.RUNNING | Want.PAUSED), State.SUSPENDED):
            yield Reactivate(uuid)
        case ((Want.RUNNING | Want.PAUSED | Want.SUSPENDED), State.STOPPED):
            if _to_be_started(machine, record):
                yield Reactivate(uuid)
        case Want.PAUSED, State.RUNNING:
            yield Pause(uuid)
        case Want.SUSPENDED, (State.RUNNING | State.PAUSED):
            yield Suspend(uuid)
        case Want.STOPPED, (State.RUNNING | State.PAUSED | State.SUSPENDED):
            yield Stop(uuid)
