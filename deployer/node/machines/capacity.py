"""What a node has for machines, and what its own orders take of it: /proc, the file system and settings in, numbers out."""

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from deployer.machine.state import MachineState
from deployer.node.settings import DeploySettings
from deployer.protocol.desired_state import Capacity
from deployer.records.machine_store import MachineRecord

MEMORY_STEP = 64 << 20
"""Bytes: free space is reported in multiples of this, so that not every log line of a guest is news."""

_TAKING = frozenset(
    {MachineState.PENDING, MachineState.STAGING, MachineState.BOOTING, MachineState.RUNNING, MachineState.PAUSED}
)
"""States of machines that take cores and memory."""


def measure_capacity(
    settings: DeploySettings, machines: Path, records: Sequence[MachineRecord], site: str, memory: int
) -> Capacity:
    """What there is for machines.

    Args:
        settings: may say less, or more, than there is.
        machines: the directory of the machines. What those of the site take there counts as free: the site counts it itself.
        records: of all machines on the node.
        site: the identity of the site; the machines of others, and local orders, are taken off.
        memory: bytes that this computer has.
    """
    others = [record for record in records if record.site != site]
    own = [machines / record.uuid for record in records if record.site == site]
    free = shutil.disk_usage(machines).free + sum(map(_allocated, own))
    taking = [record for record in others if record.state in _TAKING]
    has = settings.memory if settings.memory is not None else max(0, memory - settings.reserve)
    return Capacity(
        cores=len(os.sched_getaffinity(0)) if settings.cores is None else settings.cores,
        memory=has,
        disk=free // MEMORY_STEP * MEMORY_STEP,
        taken_cores=sum(record.max_cores for record in taking),
        taken_memory=sum(record.max_memory for record in taking),
    )


def total_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes of memory that this computer has (proc(5), MemTotal); 0 if it is not stated."""
    for line in _lines(meminfo):
        name, _, value = line.partition(":")
        if name == "MemTotal":
            return int(value.split()[0]) << 10
    return 0


def _lines(path: Path) -> Iterable[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return ()


def _allocated(directory: Path) -> int:
    try:
        return sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in os.scandir(directory))
    except FileNotFoundError:  # it was removed meanwhile
        return 0
