"""The systemd units: systemd takes them, and grades what they leave open."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import partita

OPERATIONS = Path(__file__).resolve().parents[3] / "docs" / "operations"
EXPOSURE = {"catalog": 1.5, "site": 1.5, "node": 9.0}
"""The most that `systemd-analyze security` may find: 0 is a closed box, 10 a service as root without any restriction."""


@pytest.mark.parametrize("name", sorted(EXPOSURE))
def test_systemd_takes_the_unit(name: str, tmp_path: Path) -> None:
    unit = tmp_path / f"partita-{name}.service"
    command = f"{sys.executable} -m partita"
    text = (OPERATIONS / unit.name).read_text().replace("/opt/partita/.venv/bin/partita", command)
    # The accounts are the administrator's to make.
    unit.write_text(re.sub(r"^(User|Group)=.*\n", "", text, flags=re.MULTILINE))
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(("name", "most"), sorted(EXPOSURE.items()))
def test_what_a_unit_leaves_open_is_graded(name: str, most: float) -> None:
    ended = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={round(most * 10)}",
         OPERATIONS / f"partita-{name}.service"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-300:] + ended.stderr


@pytest.mark.parametrize("name", sorted(EXPOSURE))
def test_units_run_commands_that_there_are(name: str) -> None:
    (line,) = re.findall(
        r"^ExecStart=\S+/partita (.*)$", (OPERATIONS / f"partita-{name}.service").read_text(), re.MULTILINE
    )
    ended = partita(*line.split(), "--help")
    assert ended.returncode == 0, ended.stderr
