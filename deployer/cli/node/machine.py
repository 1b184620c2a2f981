"""The commands that change machines that exist; they are mounted below `machine`. Wiring only."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from catalog.errors import Misused
from deployer.cli.arguments import MachineArgument, parse_amount
from deployer.node.client import NodeClient
from deployer.node.schema.machines import OperationName, ResizeRequest, SaveOrder
from deployer.records.machine_store import MachineRecord
from signer.documents import validate
from signer.runtime import terminal
from signer.runtime.terminal import Json
from signer.runtime.units import parse_duration, parse_size

VERBS: dict[OperationName, tuple[str, str]] = {
    "pause": ("Halt a machine, which stays in memory.", "paused"),
    "resume": ("Let a paused machine go on.", "goes on"),
    "suspend": ("Save a machine's memory on disk, and free what it takes of the node.", "suspended"),
    "reactivate": ("Let a suspended machine go on, or a stopped one boot again.", "runs"),
    "stop": ("Have a machine power off, or cut its power; its disks stay until its time is over.", "stopped"),
    "reboot": ("Have a machine boot again.", "was rebooted"),
}


def add_machine_commands(app: typer.Typer, client: Callable[[typer.Context], NodeClient]) -> None:
    """Mount the commands; `client` makes a client of the node that the settings name."""
    for verb, (text, done) in VERBS.items():
        app.command(verb, help=text)(_verb(verb, done, client))

    @app.command("resize")
    def resize(
        context: typer.Context,
        name: MachineArgument,
        memory: Annotated[str | None, typer.Option(help="Such as 2GiB.")] = None,
        cores: Annotated[int | None, typer.Option(min=1)] = None,
        json: Json = False,
    ) -> None:
        """Give a machine other amounts, within its maximum: at once if it runs."""
        if memory is None and cores is None:
            raise Misused("give --memory, --cores, or both")
        wanted = {"memory": None if memory is None else parse_amount(memory, parse_size, "--memory"), "cores": cores}
        sized = validate(ResizeRequest, {key: value for key, value in wanted.items() if value is not None}, "request")
        with client(context) as node:
            record = node.resize(name, sized)
        text = f"{record.name}: {terminal.format_size(record.memory)}, {record.cores} cores"
        terminal.show(record_summary(record), text, as_json=json)

    @app.command("extend")
    def extend(
        context: typer.Context,
        name: MachineArgument,
        lifetime: Annotated[str, typer.Argument(help="How long it lives from now on, such as 2h; less is fine.")],
        json: Json = False,
    ) -> None:
        """Let a machine's time end later, or sooner."""
        with client(context) as node:
            record = node.extend(name, parse_amount(lifetime, parse_duration, "LIFETIME"))
        terminal.show(
            record_summary(record), f"{record.name}: ends at {record.ends:%Y-%m-%d %H:%M:%S} UTC", as_json=json
        )

    @app.command("save")
    def save(
        context: typer.Context,
        name: MachineArgument,
        directory: Annotated[Path, typer.Argument(help="The image directory to make.")],
        version: Annotated[str, typer.Option(help="Of the new image.")],
        json: Json = False,
    ) -> None:
        """Save what a machine that rests has changed, as a new version of its image that nobody has endorsed."""
        order = validate(SaveOrder, {"directory": str(directory.absolute()), "version": version}, "request")
        with client(context) as node:
            saved = node.save(name, order)
        changed = ", ".join(saved.changed) or "nothing"
        text = f"{saved.title} ({saved.image_id}) in {saved.directory}; changed: {changed} ({terminal.format_size(saved.written)})"
        terminal.show(saved.model_dump(mode="json"), text, as_json=json)

    @app.command("addresses")
    def addresses(context: typer.Context, name: MachineArgument, json: Json = False) -> None:
        """Show a machine's IP addresses, as the hypervisor's network or the guest's agent reports them."""
        with client(context) as node:
            found = node.addresses(name)
        terminal.show(found, "\n".join(found) or "nobody knows any", as_json=json)


def _verb(verb: OperationName, done: str, client: Callable[[typer.Context], NodeClient]) -> Callable[..., None]:
    def command(context: typer.Context, name: MachineArgument, json: Json = False) -> None:
        with client(context) as node:
            record = node.do(name, verb)
        terminal.show(record_summary(record), f"{record.name}: {done}", as_json=json)

    return command


def record_summary(record: MachineRecord) -> dict[str, Any]:
    """A record for programs, without what the hypervisor was told."""
    value = record.model_dump(mode="json", exclude_none=True)
    value.pop("spec", None)
    return value
