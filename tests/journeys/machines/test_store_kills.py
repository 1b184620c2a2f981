"""Killed at any instant: what was answered is remembered, and nothing is remembered by half."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from deployer.machine.state import MachineState
from deployer.site.db.engine import SiteDatabase
from deployer.site.db.events import list_events
from deployer.site.db.machines import list_machines
from tests.support.forkserver import PROCESSES
from tests.support.node.service_process import wait_for
from tests.support.site.store_worker import CORES, work
from tests.support.site.values import GIB, MIB, world


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_a_killed_service_forgets_nothing_and_halves_nothing(
    database_url: str, make_database: Callable[[], SiteDatabase], tmp_path: Path, kills: int
) -> None:
    """SIGKILL while it orders, changes and absorbs; looked at by another process."""
    here = world(make_database(), seed=1000)
    node = here.join("n1", cores=CORES, memory=CORES * GIB, disk=CORES * GIB)
    log = tmp_path / "answered"
    log.touch()
    random = Random(7)
    for seed in range(kills):
        before = log.stat().st_size
        process: Any = PROCESSES.Process(target=work, args=(database_url, node, log, seed))
        process.start()
        wait_for(lambda before=before: log.stat().st_size > before, 60)
        time.sleep(random.random() / 5)
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    answered = dict(line.split() for line in log.read_text().splitlines() if line.count(" ") == 1)
    assert len(answered) >= kills
    for key, uuid in list(answered.items())[-50:]:
        deployment, machines, new = here.admit(key=key, count=3, memory=16 * MIB, disk=MIB)
        assert (deployment.uuid, len(machines), new) == (uuid, 3, False)
    machines = here.store.read(list_machines, limit=100_000)[0]
    assert set(Counter(machine.deployment for machine in machines).values()) == {3}
    events = here.store.read(list_events, limit=1_000_000)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    told: dict[str, list[str]] = {}
    for event in events:
        told.setdefault(event.subject, []).append(event.what)
    for machine in machines:
        states = [what for what in told[machine.uuid] if what in set(MachineState)]
        assert states[0] == "pending"
        assert states[-1] == machine.state.value
        assert ("destroying" in told[machine.uuid]) is (machine.desired.value == "ended" and machine.number == 1)
