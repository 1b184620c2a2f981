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
        trouble: why an action that the desired state needs is still pending.
        progress: bytes staged so far and in all, while a machine is made.
        addresses: as the hypervisor or the guest's agent reports them.
        saving: the progress of saves under way.
    """

    begun: Mapping[str, datetime] = field(default_factory=dict)
    trouble: Mapping[str, str] = field(default_factory=dict)
    progress: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    saving: Mapping[str, SaveStatus] = field(default_factory=dict)


def observe_machines(
    desired: DesiredState, here: Sequence[MachineRecord], live: LiveFacts, now: datetime
) -> tuple[ObservedMachine, ...]:
    """All machines of a site on a node: those that have a record, and those that it has not begun to make yet.

    Args:
        desired: what is acted on.
        here: the records of the site's machines.
        live: facts that no record has.
        now: aware, UTC, whole seconds.
    """
    found = [_recorded(record, live) for record in here]
    known = {record.uuid for record in here}
    found += [
        ObservedMachine(
            uuid=machine.uuid,
            state=MachineState.PENDING,
            reason=live.trouble.get(machine.uuid, "")[:MAX_REASON],
            changed=live.begun.get(machine.uuid, now),
        )
        for machine in desired.machines
        if machine.uuid not in known and machine.desired is not DesiredStatus.ENDED
    ]
    return tuple(found)


def _recorded(record: MachineRecord, live: LiveFacts) -> ObservedMachine:
    fetched, total = live.progress.get(record.uuid, (0, 0))
    reason = record.reason if record.state.final else live.trouble.get(record.uuid) or record.reason
    same = ("uuid", "state", "changed", "memory", "cores", "reboots", "from_network", "from_cache", "virt")
    return ObservedMachine(
        **{name: getattr(record, name) for name in same},
        reason=reason[:MAX_REASON],
        addresses=live.addresses.get(record.uuid, ()) if record.state is MachineState.RUNNING else (),
        fetched=fetched,
        total=total,
        saved=live.saving.get(record.uuid) or record.saved,
    )
