"""The node as a process: takes its directory over, listens on its socket, says when it is ready, and ends cleanly."""

import os
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import FrameType

import uvicorn

from catalog.web import server as answering
from catalog.web.metrics import RequestMetrics, expose_metrics
from deployer.errors import BackendFailed
from deployer.node.api.app import create_node_app
from deployer.node.gauges import figures
from deployer.node.node import Node
from deployer.node.schema.orders import NodeStatus
from deployer.node.settings import DeploySettings
from deployer.web.socket_paths import MAX_SOCKET, short_socket_path
from stager.settings import NodeSettings

END_SECONDS = 5
"""Seconds that a response may still take when the service is stopped."""


def node_socket(settings: NodeSettings, deploy: DeploySettings) -> Path:
    """Where a node with these settings listens, and where commands look for it."""
    return deploy.socket or short_socket_path(settings.directory, "node.sock", MAX_SOCKET)


def serve_node(
    settings: NodeSettings,
    deploy: DeploySettings,
    ready: Callable[[Path, NodeStatus], None],
    *,
    end_machines: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT. Machines go on after that, unless they are to be ended too.

    Args:
        settings, deploy: of the node.
        ready: called once with the socket, when requests are answered.
        end_machines: destroy all machines at the end.

    Raises:
        What Node.open raises; BackendFailed when the socket cannot be made.
    """
    node = Node.open(settings, deploy)
    try:
        path = node_socket(settings, deploy)
        requests = RequestMetrics()
        with (
            expose_metrics(deploy.metrics, lambda: figures(node.status(), node.stager.cache), requests),
            closing(_listen(path)) as listening,
        ):
            _run(node, requests, listening, lambda: ready(path, node.status()))
            path.unlink(missing_ok=True)
        if end_machines:
            node.end_machines()
    finally:
        node.close()


def _run(node: Node, requests: RequestMetrics, listening: socket.socket, ready: Callable[[], None]) -> None:
    config = answering.server_config(requests.watching(create_node_app(node)), ending=END_SECONDS)
    answering.run_server(_Server(config, ready, node.cancel), listening)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell_ready, self._ending = ready, ending

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._tell_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The signal to end: answers that would go on for long learn of it now."""
        self._ending()
        super().handle_exit(sig, frame)


def _listen(path: Path) -> socket.socket:
    """A socket for this user alone. The node owns its directory by now: an existing socket was left by a dead process."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(mask)
    except OSError as exc:
        raise BackendFailed(f"{path}: the node cannot listen there: {exc.strerror or exc}") from exc
    return listening
