"""A real node process for tests, in a directory of its own with a short path; everything it started ends with it."""

import contextlib
import faulthandler
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from deployer.machine.state import MachineState
from deployer.node.client import NodeClient
from deployer.node.daemon import serve_node
from deployer.node.schema.orders import DeploymentResult, DeploymentStep, NodeStatus
from deployer.node.settings import DeploySettings
from deployer.policy.anchors import anchor_block
from deployer.protocol.machine_order import MachineOrder
from deployer.records.machine_store import MachineRecord
from signer.documents import validate
from signer.runtime.units import size_text
from signer.verification.trust import Anchor
from stager.settings import NodeSettings
from tests.support.catalog.service_process import first_root
from tests.support.forkserver import PROCESSES
from tests.support.network_namespaces import Host, enter, inside


def _serve(settings: NodeSettings, deploy: DeploySettings, ready: Path, log: Path, namespace: str) -> None:
    """What the node's process does; everything that it says goes to the log."""
    if namespace:
        enter(namespace)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    logging.basicConfig(level=logging.INFO)
    faulthandler.register(signal.SIGUSR1, file=sys.__stderr__)  # where it hangs, if it does

    def up(socket: Path, status: NodeStatus) -> None:
        print(status, flush=True)  # noqa: T201 - into the log
        ready.with_suffix(".new").write_text(str(socket))
        ready.with_suffix(".new").rename(ready)

    serve_node(settings, deploy, up)


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

    def __init__(
        self,
        catalog: str,
        policy_text: str,
        *,
        warm: Path | None = None,
        cache_quota: int = 1 << 30,
        pinned: bool = True,
        host: Host | None = None,
        **deploy: object,
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pn-", dir="/tmp"))
        self.log = self.directory / "log"
        self.policy = self.directory / "policy.toml"
        self.policy.write_text(policy_text)
        self._node = {"directory": str(self.directory / "n"), "catalog": catalog, "cache_quota": cache_quota}
        self._namespace = host.namespace if host else ""
        if host:
            self._node["swarm_listen"] = f"{host.ip}:0"
        if pinned:
            root = inside(host, lambda: first_root(catalog)) if host else first_root(catalog)
            (self.directory / "root.json").write_bytes(root)
            self._node["tuf_root"] = str(self.directory / "root.json")
        self._deploy = {"policy": str(self.policy), "accelerator": "tcg", "network": "none"} | deploy
        self._process: Any = None
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
        ready = self.directory / "ready"
        ready.unlink(missing_ok=True)
        settings, deploy = validate(NodeSettings, self._node, "node"), validate(DeploySettings, self._deploy, "deploy")
        arguments = (settings, deploy, ready, self.log, self._namespace)
        self._process = PROCESSES.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()

        def answers() -> bool:
            assert self._process.is_alive() or ready.exists(), self.log.read_text()
            return ready.exists()

        try:
            wait_for(answers, 60)
        except AssertionError:
            os.kill(self._process.pid, signal.SIGUSR1)
            time.sleep(1)
            raise AssertionError("the node does not answer:\n" + self.log.read_text()[-8000:]) from None

    def kill(self) -> None:
        """End the service as a power cut would; its guests go on."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    def stop(self) -> int:
        """End the service as an operator would; returns its exit code."""
        self._process.terminate()
        self._process.join(60)
        code = self._process.exitcode
        assert code is not None, "it did not end"
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

    def deploy(self, image: str = "star/hello@1.0", **values: object) -> DeploymentResult:
        """Carry out an order."""
        with self.client() as client:
            return client.deploy(order(image, **values), lambda _step: None)

    def steps(self, image: str = "star/hello@1.0", **values: object) -> list[DeploymentStep]:
        """Carry out an order; returns its steps."""
        found: list[DeploymentStep] = []
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

    def state(self, uuid: str) -> MachineState:
        """A machine's state."""
        with self.client() as client:
            return client.machine(uuid).state

    def records(self) -> list[MachineRecord]:
        """All machines."""
        with self.client() as client:
            return client.machines()


def order(image: str, **values: object) -> MachineOrder:
    """An order."""
    return validate(MachineOrder, {"image": image, **values}, "order")
