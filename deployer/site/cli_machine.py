"""Commands about what is in a site's machine: what its guest writes, and saving it. Wiring only."""

import sys
from typing import Annotated

import typer

from deployer.site.cli import At, MachineName, client, machine_app
from signer import terminal
from signer.terminal import Json


@machine_app.command("console")
def machine_console(
    context: typer.Context,
    machine: MachineName,
    most: Annotated[int, typer.Option("--bytes", min=1, max=1 << 20, help="How much of its end.")] = 64 << 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the machine has ended.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="The guest's very bytes, terminal control included.")] = False,
    site: At = "",
    json: Json = False,
) -> None:
    """Print the end of what a machine's guest wrote to its serial console."""
    from deployer.serial import readable

    with client(context, site) as asked:
        if json:
            text = asked.console(machine, most).decode(errors="replace")
            terminal.show({"console": text}, "", as_json=True)
            return
        for chunk in asked.follow_console(machine, most) if follow else (asked.console(machine, most),):
            if raw:
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
            else:
                sys.stdout.write(readable(chunk))
                sys.stdout.flush()
