"""What a node has for machines: by its settings, by its computer, less what its own orders take."""

import os
from pathlib import Path

import pytest

from deployer.machine.state import MachineState
from deployer.node.machines.capacity import MEMORY_STEP, measure_capacity, total_memory
from deployer.node.settings import DeploySettings
from tests.deployer.node.agent.test_reconciler import A, B, record

MINE = "5" * 64
GIB = 1 << 30


def test_what_nobody_says_is_what_there_is(tmp_path: Path) -> None:
    found = measure_capacity(DeploySettings(), tmp_path, [], MINE, 8 * GIB)
    assert found.cores == len(os.sched_getaffinity(0))
    assert found.memory == 8 * GIB - (512 << 20)
    assert found.disk % MEMORY_STEP == 0
    assert found.disk > 0
    assert (found.taken_cores, found.taken_memory) == (0, 0)


def test_settings_say_otherwise(tmp_path: Path) -> None:
    settings = DeploySettings(cores=0, memory=5 * GIB, reserve=GIB)
    found = measure_capacity(settings, tmp_path, [], MINE, 2 * GIB)
    assert (found.cores, found.memory) == (0, 5 * GIB)
    assert measure_capacity(DeploySettings(reserve=4 * GIB), tmp_path, [], MINE, 2 * GIB).memory == 0


@pytest.mark.parametrize(
    ("state", "takes"),
    [
        (MachineState.RUNNING, True),
        (MachineState.PAUSED, True),
        (MachineState.STAGING, True),
        (MachineState.SUSPENDED, False),
        (MachineState.ENDED, False),
    ],
)
def test_machines_of_others_take_what_they_were_granted(tmp_path: Path, state: MachineState, takes: bool) -> None:
    records = [record(A), record(B, state, site="", max_cores=4, max_memory=3 * GIB)]
    found = measure_capacity(DeploySettings(), tmp_path, records, MINE, 8 * GIB)
    assert (found.taken_cores, found.taken_memory) == ((4, 3 * GIB) if takes else (0, 0))


def test_what_the_site_s_own_machines_wrote_counts_as_free(tmp_path: Path) -> None:
    (tmp_path / A).mkdir()
    (tmp_path / A / "disk0.qcow2").write_bytes(os.urandom(MEMORY_STEP + 4096))
    alone = measure_capacity(DeploySettings(), tmp_path, [], MINE, GIB).disk
    counted = measure_capacity(DeploySettings(), tmp_path, [record(A), record(B)], MINE, GIB).disk
    assert MEMORY_STEP <= counted - alone <= 3 * MEMORY_STEP  # others write meanwhile


def test_memory_is_what_the_kernel_says(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:        2048 kB\nMemFree:          1 kB\n")
    assert total_memory(tmp_path / "meminfo") == 2 << 20
    assert total_memory(tmp_path / "absent") == 0
    assert total_memory() > 1 << 20
