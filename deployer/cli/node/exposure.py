"""The commands of a site: what runs here that should not."""

from collections.abc import Callable
from typing import Annotated

import typer

from deployer.cli.site.application import site_app
from deployer.node.client import NodeClient
from signer.runtime import terminal
from signer.runtime.terminal import Json


def add_exposure_commands(node_client: Callable[[typer.Context], NodeClient]) -> None:
    """Add the commands, given how a node is reached."""

    @site_app.command("exposure")
    def exposure(
        context: typer.Context,
        target: Annotated[
            str,
            typer.Argument(help="An image (ID, VO/NAME or VO/NAME@VERSION), a fingerprint, or x509:SUBJECT; else all."),
        ] = "",
        as_json: Json = False,
    ) -> None:
        """List the machines now running that an image or a key concerns, and which of them are affected by revocations."""
        with node_client(context) as client:
            found = client.exposure(target)
        rows = [
            [one.name, one.title, one.state.value, "affected" if one.affected else "", one.reason]
            for one in found.machines
        ]
        shown = terminal.table(["MACHINE", "IMAGE", "STATE", "", "WHY"], rows) if rows else "nothing that runs"
        terminal.show(found.model_dump(mode="json"), shown, as_json=as_json)
        if affected := sum(one.affected for one in found.machines):
            terminal.say(f"{affected} affected; the policy says: {found.action}")
