"""A guest's file system as a directory, in which the context agent runs."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployer.guest.context_agent import AGENT, seed_extras
from deployer.protocol.desired_state import BrokerAccess
from tests.deployer.guest.test_nocloud_seed import public_key

KEY = public_key(comment="root@guest")


class Root:
    """A guest's file system, as far as the agent sees it."""

    def __init__(
        self, place: Path, context: BrokerAccess, uuid: str, busybox: Path | None, shell: str = "dash"
    ) -> None:
        self.place, self._busybox, self._shell = place, busybox, shell
        self.scripts = place / "etc/partita/context.d"
        self.scripts.mkdir(parents=True)
        (place / "etc/ssh").mkdir()
        (place / "etc/ssh/ssh_host_ed25519_key.pub").write_text(KEY + "\n")
        (place / "etc/hosts").write_text("127.0.0.1 localhost\n")
        self.seed(context, uuid)

    def seed(self, context: BrokerAccess | None, uuid: str) -> None:
        """Put a seed in."""
        place = self.place / "seed"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for name, data in seed_extras(context, uuid)[0].items():
            (place / name).write_bytes(data)

    def script(self, name: str, text: str) -> None:
        """Put a script where the agent runs it."""
        (self.scripts / name).parent.mkdir(exist_ok=True)
        (self.scripts / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.scripts / name).chmod(0o755)

    def start(self, *words: str, wait: int = 60, agent: bytes | None = None) -> "subprocess.Popen[str]":
        """Start the agent, from the seed as a guest does."""
        shell: list[str | Path] = [self._shell]
        path = os.environ["PATH"]
        if self._busybox is not None:
            shell, path = [self._busybox / "sh"], str(self._busybox)
        script = self.place / "agent"
        script.write_bytes(agent or seed_extras(BrokerAccess(url="http://x", secret="x" * 20), "x")[0][AGENT])
        environment = {
            "PATH": path,
            "PARTITA_ROOT": str(self.place),
            "PARTITA_SEED": str(self.place / "seed"),
            "PARTITA_WAIT": str(wait),
        }
        return subprocess.Popen(
            [*shell, script, *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str, wait: int = 60) -> tuple[int, str]:
        """Run it to its end; the code, and what it said."""
        return ended(self.start(*words, wait=wait))

    def text(self, path: str) -> str:
        """What is in a file."""
        return (self.place / path).read_text()


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """The code, and what it said."""
    said, _ = process.communicate(timeout=120)
    return process.returncode, said


WATCHING = {
    "name": "star",
    "roles": {
        "head": {"image": "star/head@1.0", "provides": ["batch"], "watches": ["work"]},
        "worker": {"image": "star/worker@1.0", "count": 2, "quorum": 1, "requires": ["batch"], "provides": ["work"]},
    },
}


@contextmanager
def watcher(root: Root) -> Iterator[Path]:
    """The watcher that a guest's agent leaves in the background is ended with the test; its log."""
    place = root.place / "var/lib/partita"
    try:
        yield place / "watch.log"
    finally:
        os.kill(int((place / "watch/pid").read_text()), signal.SIGKILL)
