"""The demo of EC2 shows what it must show."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_sends_the_first_image_nothing_for_the_same_and_the_change_for_its_update() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "examples.demo_ec2"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=800
    )
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-5000:]
    sent = re.search(r"blocks sent: (\d+) for the first image, (\d+) for the same again, (\d+)", ended.stdout)
    assert sent is not None
    first, again, update = (int(text) for text in sent.groups())
    assert first > 50  # a kernel and 24 MiB of noise
    assert (again, update) == (0, 1)  # one file of one line, in a partition of its own
