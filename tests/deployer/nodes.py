"""A real node process for tests, in a directory of its own with a short path; everything it started ends with it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from deployer.amounts import size_text
from deployer.machine import State
from deployer.machines import MachineRecord
from deployer.node_client import NodeClient
from deployer.policy import anchor_block
from deployer.wire import Deployed, Order, Step
from signer.documents import validate
from signer.trust import Anchor

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import logging, sys
from pathlib import Path
from deployer.node_serving import serve
from deployer.settings import DeploySettings
from signer.documents import parse
from stager.settings import NodeSettings
logging.basicConfig(level=logging.INFO)
node, deploy, ready = sys.argv[1:]
def tell(socket, status):
    print(status, flush=True)
    Path(ready + ".new").write_text(str(socket))
    Path(ready + ".new").rename(ready)
serve(parse(NodeSettings, node.encode(), "node"), parse(DeploySettings, deploy.encode(), "deploy"), tell)
"""


def policy(*anchors: Anchor, machines: int = 8, memory: int = 1 << 30, threshold: int = 1) -> str:
    """A policy that accepts every image that one of the anchors vouches for."""
    text = f"""
[endorsements]
threshold = {threshold}
[vos]
allow = ["*"]
[images]
allow = ["*/*"]
[limits]
memory = "{size_text(memory)}"
cores = 2
disk = "4GiB"
blank = "1GiB"
lifetime = "12h"
machines = {machines}
[user_data]
allow = ["script"]
[networks]
allow = ["user"]
"""
    for anchor in anchors:
        text += anchor_block(anchor.vo, anchor.role, anchor.fingerprint, anchor.key.decode())
    return text


def wait_for(what: Callable[[], object], seconds: float = 30.0) -> Any:
    """The first true answer, within so many seconds."""
    until = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < until, f"{what} did not come true within {seconds} s"
        time.sleep(0.05)
    return answer


class NodeProcess:
    """A node's service, started by `start`, killed or stopped, started again on the same directory."""

    def __init__(self, catalog: str, policy_text: str, *, warm: Path | None = None, **deploy: object) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pn-", dir="/tmp"))
        self.log = self.directory / "log"
        self.policy = self.directory / "policy.toml"
        self.policy.write_text(policy_text)
        self._node = {"directory": str(self.directory / "n"), "catalog": catalog, "cache_quota": 1 << 30}
        self._deploy = {"policy": str(self.policy), "accelerator": "tcg", "network": "none"} | deploy
        self._process: subprocess.Popen[bytes] | None = None
        if warm is not None:  # what libvirt found out about QEMU before: four seconds saved
            shutil.copytree(warm, self.libvirt / "cache")

    @property
    def libvirt(self) -> Path:
        """The embedded driver's root."""
        return self.directory / "n" / "libvirt"

    @property
    def machines(self) -> Path:
        """Where the node keeps its machines."""
        return self.directory / "n" / "machines"

    @property
    def socket(self) -> Path:
        """Where the service listens."""
        return self.directory / "n" / "node.sock"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for pid in self.guests():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not self.guests())
        shutil.rmtree(self.directory)

    def start(self) -> None:
        """Start it and wait until it answers."""
        import json

        ready = self.directory / "ready"
        ready.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, json.dumps(self._node), json.dumps(self._deploy), str(ready)],
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

        def answers() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self.log.read_text()
            return ready.exists()

        wait_for(answers, 60)

    def kill(self) -> None:
        """End the service as a power cut would; its guests go on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> int:
        """End the service as an operator would; returns its exit code."""
        assert self._process is not None
        self._process.terminate()
        code = self._process.wait(60)
        self._process = None
        return code

    def guests(self) -> list[int]:
        """The emulator processes that run for this node."""
        mark = str(self.directory).encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    line = (entry / "cmdline").read_bytes()
                    if b"qemu-system" in line.split(b"\0")[0] and mark in line:
                        found.append(int(entry.name))
        return found

    def client(self) -> NodeClient:
        """A client of it."""
        return NodeClient(self.socket)

    def deploy(self, image: str = "star/hello@1.0", **values: object) -> Deployed:
        """Carry out an order."""
        with self.client() as client:
            return client.deploy(order(image, **values), lambda _step: None)

    def steps(self, image: str = "star/hello@1.0", **values: object) -> list[Step]:
        """Carry out an order; returns its steps."""
        found: list[Step] = []
        with self.client() as client:
            client.deploy(order(image, **values), found.append)
        return found

    def console(self, uuid: str) -> bytes:
        """What a guest wrote so far."""
        with self.client() as client:
            return b"".join(client.console(uuid))

    def said(self, uuid: str, words: bytes, seconds: float = 30.0) -> bytes:
        """A guest's console, once it holds these words."""
        wait_for(lambda: words in self.console(uuid), seconds)
        return self.console(uuid)

    def state(self, uuid: str) -> State:
        """A machine's state."""
        with self.client() as client:
            return client.machine(uuid).state

    def records(self) -> list[MachineRecord]:
        """All machines."""
        with self.client() as client:
            return client.machines()


def order(image: str, **values: object) -> Order:
    """An order."""
    return validate(Order, {"image": image, **values}, "order")
