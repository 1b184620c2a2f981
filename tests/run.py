"""`./dev test`: what can run side by side runs on all cores, then what needs the machine for itself, then a verdict."""

import os
import sys

import pytest


def main(arguments: list[str]) -> int:
    """Run the suite; arguments go to pytest, `--slow` adds the tests that take minutes."""
    if any(not argument.startswith("-") for argument in arguments):
        return int(pytest.main(arguments))
    # Three times as many as there are cores: most tests wait for guests, services and links more than they compute.
    workers = str(3 * (os.cpu_count() or 1))
    side_by_side = int(pytest.main(["-n", workers, "--dist", "worksteal", "-m", "not serial", *arguments]))
    alone = int(pytest.main(["-m", "serial", *arguments]))
    # 5 is "no tests collected": a machine may have nothing that must run alone, but never nothing at all.
    return side_by_side or (0 if alone == 5 else alone)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
