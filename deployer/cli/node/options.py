"""The connection of commands to this machine's node."""

import typer

from deployer.node.client import NodeClient
from deployer.node.settings import DeploySettings
from signer.runtime import terminal
from stager.settings import NodeSettings


def node_client(context: typer.Context) -> NodeClient:
    """A client of the node that the settings name."""
    return NodeClient(terminal.section(context, DeploySettings).socket_path(terminal.section(context, NodeSettings)))
