"""`./dev test`: what can run side by side runs on all cores, then what needs a core for itself, then a verdict."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
MOST_ALONE = 4
"""Tests that measure side by side, at most: they share the memory and the disk however many cores there are."""


def main(arguments: list[str]) -> int:
    """Run the suite; arguments go to pytest, `--slow` adds the tests that take minutes."""
    if any(not argument.startswith("-") for argument in arguments):
        return int(pytest.main(arguments))
    _keep_bytecode()
    cores = os.cpu_count() or 1
    # Three times as many as there are cores: most tests wait for guests, services and links more than they compute.
    side_by_side = _run(3 * cores, "not serial", arguments)
    # Only they are collected again: to collect them all takes longer than some of them. Each has a core of its own.
    measuring = [str(path) for path in sorted(TESTS.rglob("test_*.py")) if "mark.serial" in path.read_text()]
    alone = _run(min(cores, MOST_ALONE), "serial", [*arguments, *measuring])
    # 5 is "no tests collected": a machine may have nothing that must run alone, but never nothing at all.
    return side_by_side or (0 if alone == 5 else alone)


def _run(workers: int, which: str, arguments: list[str]) -> int:
    return int(pytest.main(["-n", str(workers), "--dist", "worksteal", "-m", which, *arguments]))


def _keep_bytecode() -> None:
    """Some thousand processes read the same modules: they are compiled once, whatever the habit of this machine is.

    In a checkout whose tests were never run all workers would compile all tests at the same moment, so two compile them before.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if (TESTS / "deployer" / "__pycache__").exists():
        return
    large = [str(TESTS / name) for name in ("deployer", "journeys")]
    halves = (large, [str(TESTS), *(f"--ignore={path}" for path in large)])
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-qq"]
    for running in [subprocess.Popen([*command, *half], stdout=subprocess.DEVNULL) for half in halves]:
        running.wait()  # what cannot be collected is said by the run itself


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
