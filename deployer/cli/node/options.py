"""The connection of commands to this machine's node."""

import typer

from deployer.node.client import NodeClient
from deployer.node.settings import DeploySettings
from deployer.web.socket_paths import MAX_SOCKET, short_socket_path
from signer.runtime import terminal
from stager.settings import NodeSettings


def node_client(context: typer.Context) -> NodeClient:
    """A client of the node that the settings name."""
    settings, deploy_settings = terminal.section(context, NodeSettings), terminal.section(context, DeploySettings)
    return NodeClient(deploy_settings.socket or short_socket_path(settings.directory, "node.sock", MAX_SOCKET))
