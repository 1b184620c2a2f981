"""The node's process: takes over its directory, listens on its socket, reports when it is ready, and ends cleanly."""

from collections.abc import Callable
from pathlib import Path

from catalog.web import server as answering
from catalog.web.metrics import RequestMetrics, expose_metrics
from deployer.errors import BackendFailed
from deployer.node.api.app import create_node_app
from deployer.node.gauges import figures
from deployer.node.node import Node
from deployer.node.schema.orders import NodeStatus
from deployer.node.settings import DeploySettings
from deployer.web.local_server import ServiceServer, listen_locally
from stager.settings import NodeSettings

END_SECONDS = 5
"""Seconds that a response may still take when the service is stopped."""


def serve_node(
    settings: NodeSettings,
    deploy: DeploySettings,
    ready: Callable[[Path, NodeStatus], None],
    *,
    end_machines: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT. Machines keep running after that, unless they are to be ended too.

    Args:
        settings, deploy: of the node.
        ready: called once with the socket, when requests are answered.
        end_machines: destroy all machines at the end.

    Raises:
        What Node.open raises; BackendFailed when the socket cannot be made.
    """
    node = Node.open(settings, deploy)
    try:
        path = deploy.socket_path(settings)
        requests = RequestMetrics()
        with (
            expose_metrics(deploy.metrics, lambda: figures(node.status(), node.stager.cache), requests),
            listen_locally(path, BackendFailed) as listening,
        ):
            config = answering.server_config(requests.watching(create_node_app(node)), ending=END_SECONDS)
            server = ServiceServer(config, lambda: ready(path, node.status()), node.cancel)
            answering.run_server(server, listening)
        if end_machines:
            node.end_machines()
    finally:
        node.close()
