"""The state of a node's machines for its site. Pure: records and other facts in, a report's machines out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from deployer.machine.state import MachineState
from deployer.protocol.desired_state import DesiredState, DesiredStatus, ObservedMachine
from deployer.protocol.save import SaveStatus
from deployer.records.machine_store import MachineRecord

MAX_REASON = 500
"""Characters of a reason in a report."""


@dataclass(frozen=True)
class LiveFacts:
    """Facts about machines that are in no record.

    Attributes:
        begun: since when a machine that has no record yet is known.
        trouble: why something that the site wants has not been done yet.
        progress: bytes staged so far and in all, while a machine is made.
        addresses: as the hypervisor or the guest's agent reports them.
        saving: how far saves are that are not over.
    """

    begun: Mapping[str, datetime] = field(default_factory=dict)
    trouble: Mapping[str, str] = field(default_factory=dict)
    progress: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    saving: Mapping[str, SaveStatus] = field(default_factory=dict)


def observe_machines(
    desired: DesiredState, here: Sequence[MachineRecord], beside: LiveFacts, now: datetime
) -> tuple[ObservedMachine, ...]:
    """All machines of a site on a node: those that have a record, and those that it has not begun to make yet.

    Args:
        desired: what is acted on.
        here: the records of the site's machines.
        beside: facts that no record has.
        now: aware, UTC, whole seconds.
    """
    found = [_recorded(record, beside) for record in here]
    known = {record.uuid for record in here}
    found += [
        ObservedMachine(
            uuid=machine.uuid,
            state=MachineState.PENDING,
            reason=beside.trouble.get(machine.uuid, "")[:MAX_REASON],
            changed=beside.begun.get(machine.uuid, now),
        )
        for machine in desired.machines
        if machine.uuid not in known and machine.desired is not DesiredStatus.ENDED
    ]
    return tuple(found)


def _recorded(record: MachineRecord, beside: LiveFacts) -> ObservedMachine:
    fetched, total = beside.progress.get(record.uuid, (0, 0))
    reason = record.reason if record.state.final else beside.trouble.get(record.uuid) or record.reason
    return ObservedMachine(
        uuid=record.uuid,
        state=record.state,
        reason=reason[:MAX_REASON],
        changed=record.changed,
        addresses=beside.addresses.get(record.uuid, ()) if record.state is MachineState.RUNNING else (),
        memory=record.memory,
        cores=record.cores,
        reboots=record.reboots,
        fetched=fetched,
        total=total,
        from_network=record.from_network,
        from_cache=record.from_cache,
        virt=record.virt,
        saved=beside.saving.get(record.uuid) or record.saved,
    )
