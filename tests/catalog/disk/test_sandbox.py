"""What the child that reads foreign formats cannot do, and that nothing is read without its confinement."""

import re
import socket
import sys
from pathlib import Path

import pytest

from catalog.disk.sandbox import ResourceLimits, _bwrap, run_confined
from catalog.errors import DiskRefused, Unavailable
from tests.support.catalog.disk_images import MIB, run

ATTEMPTS = (
    (
        "it reaches no network",
        "import socket; socket.create_connection(('127.0.0.1', {port}), 2)",
        "refused|unreachable",
    ),
    ("it sees no file of the host", "open({secret!r})", "No such file"),
    ("it does not see who lives here", "open('/etc/passwd')", "No such file"),
    ("it cannot write what it reads", "open('/disk', 'r+b')", "Read-only|Permission"),
    ("it gets no more memory", "bytearray(2 << 30)", "MemoryError"),
    ("it writes no large file", "open('/scratch/x', 'wb').write(bytes(8 << 20))", "File too large"),
    ("it fills no disk", "[open(f'/scratch/{{i}}', 'wb').write(bytes(1 << 20)) for i in range(8)]", "No space"),
    (
        "it sees no other process",
        "import os; assert len([p for p in os.listdir('/proc') if p.isdigit()]) > 4",
        "Assertion",
    ),
)


@pytest.mark.parametrize(("attempt", "answer"), [pytest.param(*row[1:], id=row[0]) for row in ATTEMPTS])
def test_what_a_child_that_was_taken_over_cannot_do(tmp_path: Path, attempt: str, answer: str) -> None:
    """The child's code is the attacker's here; each of these works outside of the confinement."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "disk").write_bytes(bytes(512))
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = attempt.format(port=server.getsockname()[1], secret=str(tmp_path / "secret"))
        outcome = run_confined(
            ["/usr/bin/python3", "-c", code],
            reads={"/disk": tmp_path / "disk"},
            limits=ResourceLimits(file_size=4 * MIB, scratch=4 * MIB),
        )
    assert outcome.code != 0
    assert re.search(answer, outcome.errors), outcome.errors


def test_a_child_that_never_ends_is_ended(tmp_path: Path) -> None:
    """By the clock, by the processor's time, and by the amount that it prints."""
    with pytest.raises(DiskRefused, match="took longer than the 1 s allowed"):
        run_confined(["sleep", "60"], reads={}, limits=ResourceLimits(wall=1))
    assert run_confined(["sh", "-c", "while :; do :; done"], reads={}, limits=ResourceLimits(cpu=1)).code != 0
    with pytest.raises(DiskRefused, match="takes more than the"):
        run_confined(["cat", "/dev/zero"], reads={})


def test_without_confinement_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No bubblewrap, or a kernel that does not let it: a refusal that says what to do, never a look without it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="install bubblewrap"):
        _bwrap.__wrapped__()
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    with pytest.raises(Unavailable, match=r"No permissions to create new namespace\); allow user namespaces"):
        _bwrap.__wrapped__()


def test_limits_fit_under_those_of_the_caller() -> None:
    """A caller that may do less itself can still confine: nothing is raised above what it has."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "from catalog.disk.sandbox import run_confined; assert run_confined(['true'], reads={}).code == 0"
    )
    run(sys.executable, "-c", code)
