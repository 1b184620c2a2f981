"""What a node has to do so that its machines are as its site wants them. Pure: two lists in, actions out.

The state of a machine says what is, `DesiredStatus` what should be; only the difference is acted upon, so an action that was done
already, or half, is never done twice. One thing cannot be seen from the two: whether a machine that is stopped was stopped
because somebody wanted that, or powered itself off. So its record keeps what its site wanted last (`wanted`), noted before a
machine is brought to rest and after it was brought to run. A guest that powered itself off stays off.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from deployer.machine.spec import MachineState
from deployer.protocol.desired_state import DesiredMachine, DesiredState, DesiredStatus, IncomingMigration
from deployer.protocol.migration import OutgoingMigration
from deployer.records.machine_store import MachineRecord

MAKING: Final = frozenset({MachineState.PENDING, MachineState.STAGING, MachineState.BOOTING})
LIVE: Final = frozenset({MachineState.RUNNING, MachineState.PAUSED})
UNKNOWN: Final = "its site does not know it any more"
MOVED: Final = "it was moved to another node"


@dataclass(frozen=True)
class Create:
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
class ChangeEnd:
    """Its time ends at another instant."""

    uuid: str
    ends: datetime


@dataclass(frozen=True)
class RecordDesired:
    """What is wanted of it has to be remembered."""

    uuid: str
    want: DesiredStatus


@dataclass(frozen=True)
class Destroy:
    """It should not be there; one that is being made is cancelled."""

    uuid: str
    reason: str


@dataclass(frozen=True)
class Forget:
    """It has ended, and its site knows."""

    uuid: str


@dataclass(frozen=True)
class PrepareMigration:
    """It rests, and another node is to have it: it is locked, and what the other gets of it is described."""

    uuid: str
    giving: OutgoingMigration


@dataclass(frozen=True)
class CancelMigration:
    """It was to be given away, and stays."""

    uuid: str


@dataclass(frozen=True)
class ReceiveMigration:
    """It is to be brought here from another node, which has it until the site says otherwise."""

    incoming: IncomingMigration

    @property
    def uuid(self) -> str:
        """Of the machine."""
        return self.incoming.machine.uuid


@dataclass(frozen=True)
class Adopt:
    """It was brought here, and its site says that it is this node's now."""

    uuid: str


@dataclass(frozen=True)
class ReportLost:
    """It was brought here once, and there is nothing of it: it had a life that cannot be made anew."""

    machine: DesiredMachine

    @property
    def uuid(self) -> str:
        """Of the machine."""
        return self.machine.uuid


MigrationAction = PrepareMigration | CancelMigration | ReceiveMigration | Adopt | ReportLost
MachineAction = (
    Create
    | Pause
    | Resume
    | Suspend
    | Reactivate
    | Stop
    | Reboot
    | Resize
    | ChangeEnd
    | RecordDesired
    | Destroy
    | Forget
    | MigrationAction
)


def plan_actions(desired: DesiredState, here: Sequence[MachineRecord]) -> tuple[MachineAction, ...]:
    """What is to be done now. Those of one machine belong together, in their order; more may follow from what comes of them.

    Args:
        desired: all machines that the site wants on this node.
        here: the records of the machines of that site on this node, and no others.
    """
    records = {record.uuid: record for record in here}
    found: list[MachineAction] = []
    for machine in desired.machines:
        record = records.pop(machine.uuid, None)
        if record is None and machine.moved is not None and machine.want is not DesiredStatus.ENDED:
            found.append(ReportLost(machine))
        elif record is None:
            # One that should rest has nothing that it could rest on, until somebody wants it to run.
            if machine.want in {DesiredStatus.RUNNING, DesiredStatus.PAUSED, DesiredStatus.SUSPENDED}:
                found.append(Create(machine))
        else:
            found += _machine(machine, record)
    for incoming in desired.incoming or ():
        record = records.get(incoming.machine.uuid)
        if record is None:
            found.append(ReceiveMigration(incoming))
        elif record.arriving == incoming.number and not record.state.final:
            del records[record.uuid]  # it is here, or on its way, and waits for its site's word
    for record in records.values():
        found.append(
            Forget(record.uuid) if record.state.final else Destroy(record.uuid, MOVED if record.giving else UNKNOWN)
        )
    return tuple(found)


def _machine(machine: DesiredMachine, record: MachineRecord) -> Iterator[MachineAction]:
    uuid, state = record.uuid, record.state
    if state.final:
        return  # its site has not heard of it yet
    if machine.want is DesiredStatus.ENDED:
        yield Destroy(uuid, machine.reason or "its site ended it")
        return
    if record.arriving is not None:
        # Of another move than that which the site speaks of it is no more than a copy.
        yield Adopt(uuid) if record.arriving == machine.moved else Destroy(uuid, UNKNOWN)
        return
    if machine.ends != record.ends:
        yield ChangeEnd(uuid, machine.ends)
    if state in MAKING:
        return
    if (
        machine.want is not DesiredStatus.RUNNING
        and record.wanted != machine.want
        and not _to_be_started(machine, record)
    ):
        yield RecordDesired(uuid, machine.want)
    if machine.giving is not None and state in {MachineState.SUSPENDED, MachineState.STOPPED}:
        if record.giving != machine.giving:
            yield PrepareMigration(uuid, machine.giving)
        return
    if machine.giving is None and record.giving is not None:
        yield CancelMigration(uuid)
        return
    yield from _state(machine, record)
    if state in LIVE | {MachineState.STOPPED} and (machine.memory, machine.cores) != (record.memory, record.cores):
        yield Resize(uuid, machine.memory, machine.cores)


def _to_be_started(machine: DesiredMachine, record: MachineRecord) -> bool:
    """Whether a machine is stopped because that was wanted, and something else is wanted now. Before it can be paused or
    suspended it has to run; what came to be stopped while it was to be suspended has lost its memory, and waits for an order."""
    if record.state is not MachineState.STOPPED:
        return False
    return (
        record.wanted != DesiredStatus.RUNNING
        if machine.want is DesiredStatus.RUNNING
        else (
            machine.want in {DesiredStatus.PAUSED, DesiredStatus.SUSPENDED} and record.wanted == DesiredStatus.STOPPED
        )
    )


def _state(machine: DesiredMachine, record: MachineRecord) -> Iterator[MachineAction]:
    uuid = record.uuid
    match machine.want, record.state:
        case DesiredStatus.RUNNING, MachineState.RUNNING:
            if record.wanted != DesiredStatus.RUNNING:
                yield RecordDesired(uuid, DesiredStatus.RUNNING)
            if record.reboots < machine.reboots:
                yield Reboot(uuid, machine.reboots)
        case DesiredStatus.RUNNING, MachineState.PAUSED:
            yield Resume(uuid)
        case ((DesiredStatus.RUNNING | DesiredStatus.PAUSED), MachineState.SUSPENDED):
            yield Reactivate(uuid)
        case ((DesiredStatus.RUNNING | DesiredStatus.PAUSED | DesiredStatus.SUSPENDED), MachineState.STOPPED):
            if _to_be_started(machine, record):
                yield Reactivate(uuid)
        case DesiredStatus.PAUSED, MachineState.RUNNING:
            yield Pause(uuid)
        case DesiredStatus.SUSPENDED, (MachineState.RUNNING | MachineState.PAUSED):
            yield Suspend(uuid)
        case DesiredStatus.STOPPED, (MachineState.RUNNING | MachineState.PAUSED | MachineState.SUSPENDED):
            yield Stop(uuid)
