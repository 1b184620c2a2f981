"""The experiment of the 2007 paper, with real Slurm in real guests on two nodes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.guest
@pytest.mark.timeout(2400)
def test_workers_join_a_pool_and_take_a_job_that_was_running() -> None:
    """Head and workers come up, find each other, run a job through Slurm, and the pool grows while it runs."""
    ended = subprocess.run(
        [sys.executable, "-m", "examples.star"], cwd=ROOT, capture_output=True, text=True, timeout=2300, check=False
    )
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-3000:]
    assert "events were reconstructed by 3 workers on 2 nodes, one of whom joined while the job ran" in ended.stdout
