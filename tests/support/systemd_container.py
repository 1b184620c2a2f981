"""A machine with systemd in it, for units that are to be run and not only graded: this one's /usr, and nothing else of it.

`systemd-nspawn` boots systemd on a root that is in memory, with /usr read-only, a network of its own that leads nowhere, and
what is bound into it. It needs root, and no systemd on the machine itself.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

PATIENCE = 120.0
"""Seconds within which everything happens, on however busy a machine."""

INTERPRETER = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = next(Path(path) for path in sys.path if path.endswith("/site-packages"))
PARTS = ("signer", "catalog", "stager", "deployer", "policies")


class Container:
    """A container that runs from entering to leaving the block.

    Args:
        place: a directory for its console; made if absent.
        bound: what it sees read-only, by the path that it sees it at.
    """

    def __init__(self, place: Path, bound: Mapping[str, Path]) -> None:
        self.place, self._bound = place, bound
        self._leader = 0

    def __enter__(self) -> Self:
        """Boot, and wait until systemd has started what there is to start."""
        self.place.mkdir(parents=True, exist_ok=True)
        # One that has an identity is not new: nobody is asked for a password, and no unit is enabled by itself.
        identity = self.place / "machine-id"
        identity.write_text(uuid4().hex + "\n")
        hosts = self.place / "hosts"
        hosts.write_text("127.0.0.1 localhost\n")
        command = [
            "systemd-nspawn",
            "--quiet",
            "--register=no",
            "--keep-unit",
            "--directory=/",
            "--volatile=yes",
            "--boot",
        ]
        command += ["--private-network", "--link-journal=no", "--console=pipe", f"--machine=partita-{uuid4().hex[:8]}"]
        command += [
            f"--bind-ro={path}:{inside}"
            for inside, path in {"/etc/machine-id": identity, "/etc/hosts": hosts, **self._bound}.items()
        ]
        with (self.place / "console").open("wb") as console:
            self._process = subprocess.Popen(
                [*command, "systemd.unit=multi-user.target"],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                # The older hierarchies of control groups would be read-only in it, as they are on no real machine.
                env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        try:
            self.wait(self._booted, "systemd")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Switch it off."""
        self._end()

    def run(self, *command: str, timeout: float = PATIENCE, check: bool = True) -> str:
        """Run a command in it, as root; returns what it wrote to standard output."""
        ended = subprocess.run(
            [
                "nsenter",
                f"--target={self._leader}",
                "--all",
                "env",
                "-i",
                "PATH=/usr/sbin:/usr/bin",
                "HOME=/root",
                *command,
            ],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert not check or ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
        return ended.stdout.strip()

    def wait(self, until: Callable[[], bool], what: str) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + PATIENCE
        while not until():
            assert self._process.poll() is None, f"the container ended: {(self.place / 'console').read_text()}"
            assert time.monotonic() < deadline, f"{what}: not within {PATIENCE:.0f} s"
            time.sleep(0.25)

    def shown(self, unit: str, name: str) -> str:
        """What systemd says of a property of a unit."""
        return self.run("systemctl", "show", unit, "--property", name, "--value")

    def _booted(self) -> bool:
        # Its first child is a helper that makes the second one, which is systemd, and ends.
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self._leader = int(children[-1]) if children else 0
        return bool(self._leader) and self.run("systemctl", "is-system-running", check=False) in {"running", "degraded"}

    def _end(self) -> None:
        with suppress(ProcessLookupError):
            if self._leader and self._process.poll() is None:
                os.kill(self._leader, signal.SIGRTMIN + 4)  # power off
        try:
            self._process.wait(30 if self._leader else 0)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait()
        _remove_groups()


def _remove_groups() -> None:
    """The control groups that systemd-nspawn makes for itself and for what it runs outlive it; nobody is in them now."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        root = {"name=systemd": "systemd", "": "unified"}.get(controllers)
        if root is None:
            continue
        base = Path("/sys/fs/cgroup") / root
        for name in ("payload", "supervisor"):
            top = (base if base.exists() else base.parent) / own.strip("/") / name
            for group, _, _ in os.walk(top, topdown=False):
                with suppress(OSError):  # of another container that runs beside this one
                    Path(group).rmdir()


def installed(place: Path) -> dict[str, Path]:
    """Partita at /opt/partita, as `./dev setup` leaves it there: a checkout and its .venv; what is to be bound.

    The .venv is put together anew, since a .venv knows where it is.
    """
    venv, checkout = place / "venv", place / "checkout"
    libraries = venv / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    libraries.mkdir(parents=True)
    (libraries / "partita.pth").write_text("/opt/packages\n/opt/partita\n")
    (venv / "pyvenv.cfg").write_text(f"home = {INTERPRETER.parent}\ninclude-system-site-packages = false\n")
    (venv / "bin").mkdir()
    (venv / "bin" / "python").symlink_to(INTERPRETER)
    script = venv / "bin" / "partita"
    script.write_text("#!/opt/partita/.venv/bin/python\nimport sys\nfrom partita import main\nsys.exit(main())\n")
    script.chmod(0o755)
    for name in (*PARTS, ".venv"):
        (checkout / name).mkdir(parents=True)
    (checkout / "partita.py").write_bytes((CHECKOUT / "partita.py").read_bytes())
    for path in (venv, *venv.rglob("*"), checkout, *checkout.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path == script else 0o644)
    bound = {"/opt/partita": checkout, "/opt/partita/.venv": venv, "/opt/packages": PACKAGES}
    return bound | {f"/opt/partita/{name}": CHECKOUT / name for name in PARTS}
