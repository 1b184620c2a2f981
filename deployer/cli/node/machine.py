"""The commands `partita machine`, about the machines of this machine's node. Wiring only; the work is done by its service."""

import json as json_text
from pathlib import Path
from typing import Annotated, Any

import typer

from catalog.errors import Misused
from deployer.cli.arguments import MachineArgument, parse_amount, print_console
from deployer.cli.node.options import node_client
from deployer.node.schema.machines import OperationName, ResizeRequest, SaveOrder
from deployer.records.machine_store import MachineRecord
from signer.documents import validate
from signer.runtime import terminal
from signer.runtime.terminal import Json
from signer.runtime.units import parse_duration, parse_size

machine_app = typer.Typer(no_args_is_help=True, help="Machines: look at them, change them, end them.")

VERBS: dict[OperationName, tuple[str, str]] = {
    "pause": ("Halt a machine, which stays in memory.", "paused"),
    "resume": ("Let a paused machine go on.", "goes on"),
    "suspend": ("Save a machine's memory on disk, and free what it takes of the node.", "suspended"),
    "reactivate": ("Let a suspended machine go on, or a stopped one boot again.", "runs"),
    "stop": ("Have a machine power off, or cut its power; its disks stay until its time is over.", "stopped"),
    "reboot": ("Have a machine boot again.", "was rebooted"),
}


@machine_app.command("list")
def list_node_machines(context: typer.Context, json: Json = False) -> None:
    """List the node's machines, the oldest first."""
    with node_client(context) as node:
        machines = node.machines()
    terminal.show([record_summary(record) for record in machines], _table(machines), as_json=json)


@machine_app.command("show")
def show_node_machine(context: typer.Context, name: MachineArgument, json: Json = False) -> None:
    """Show all that the node knows of a machine."""
    with node_client(context) as node:
        record = node.machine(name)
    value = record.model_dump(mode="json", exclude_none=True)
    rows = [(key, json_text.dumps(entry) if isinstance(entry, dict) else entry) for key, entry in value.items()]
    terminal.show(value, terminal.table(("FIELD", "VALUE"), rows), as_json=json)


@machine_app.command("console")
def print_node_console(
    context: typer.Context,
    name: MachineArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the machine has ended.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="The guest's very bytes, terminal control included.")] = False,
    json: Json = False,
) -> None:
    """Print what a machine's guest wrote to its console."""
    with node_client(context) as node:
        if json:
            text = b"".join(node.console(name)).decode(errors="replace")
            terminal.show({"console": text}, "", as_json=True)
            return
        print_console(node.console(name, follow=follow), raw=raw)


@machine_app.command("shutdown")
def shut_down_machine(
    context: typer.Context,
    name: MachineArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Until the guest has powered off.")] = False,
    timeout: Annotated[int, typer.Option(help="Seconds to wait at most.", min=1)] = 60,
    json: Json = False,
) -> None:
    """Ask a machine's guest to power off."""
    with node_client(context) as node:
        record = node.shutdown(name, float(timeout) if wait else 0.0)
    done = record.state.value if wait else "asked to power off"
    terminal.show(record_summary(record), f"{record.name}: {done}", as_json=json)
    if wait and record.state.value == "running":
        raise typer.Exit(1)


@machine_app.command("destroy")
def destroy_machine(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(help="Machines, by UUID, its beginning, or name.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All machines of the node.")] = False,
    json: Json = False,
) -> None:
    """End machines now, and remove all that is left of them, consoles included."""
    if bool(names) == every:
        raise Misused("name the machines to destroy, or give --all")
    with node_client(context) as node:
        wanted = [record.uuid for record in node.machines()] if every else names or []
        gone = [node.destroy(name) for name in wanted]
    text = "\n".join(f"{record.name}: destroyed" for record in gone) or "there is no machine"
    terminal.show([record_summary(record) for record in gone], text, as_json=json)


def _verb(verb: OperationName, about: str, done: str) -> None:
    def command(context: typer.Context, name: MachineArgument, json: Json = False) -> None:
        with node_client(context) as node:
            record = node.do(name, verb)
        terminal.show(record_summary(record), f"{record.name}: {done}", as_json=json)

    machine_app.command(verb, help=about)(command)


for _name, (_about, _done) in VERBS.items():
    _verb(_name, _about, _done)


@machine_app.command("resize")
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
    with node_client(context) as node:
        record = node.resize(name, sized)
    text = f"{record.name}: {terminal.format_size(record.memory)}, {record.cores} cores"
    terminal.show(record_summary(record), text, as_json=json)


@machine_app.command("extend")
def extend(
    context: typer.Context,
    name: MachineArgument,
    lifetime: Annotated[str, typer.Argument(help="How long it lives from now on, such as 2h; less is fine.")],
    json: Json = False,
) -> None:
    """Let a machine's time end later, or sooner."""
    with node_client(context) as node:
        record = node.extend(name, parse_amount(lifetime, parse_duration, "LIFETIME"))
    terminal.show(record_summary(record), f"{record.name}: ends at {record.ends:%Y-%m-%d %H:%M:%S} UTC", as_json=json)


@machine_app.command("save")
def save(
    context: typer.Context,
    name: MachineArgument,
    directory: Annotated[Path, typer.Argument(help="The image directory to make.")],
    version: Annotated[str, typer.Option(help="Of the new image.")],
    json: Json = False,
) -> None:
    """Save what a machine that rests has changed, as a new version of its image that nobody has endorsed."""
    order = validate(SaveOrder, {"directory": str(directory.absolute()), "version": version}, "request")
    with node_client(context) as node:
        saved = node.save(name, order)
    changed = ", ".join(saved.changed) or "nothing"
    text = f"{saved.title} ({saved.image_id}) in {saved.directory}; changed: {changed} ({terminal.format_size(saved.written)})"
    terminal.show(saved.model_dump(mode="json"), text, as_json=json)


@machine_app.command("addresses")
def addresses(context: typer.Context, name: MachineArgument, json: Json = False) -> None:
    """Show a machine's IP addresses, as the hypervisor's network or the guest's agent reports them."""
    with node_client(context) as node:
        found = node.addresses(name)
    terminal.show(found, "\n".join(found) or "nobody knows any", as_json=json)


def list_exposure(
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
        [one.name, one.title, one.state.value, "affected" if one.affected else "", one.reason] for one in found.machines
    ]
    shown = terminal.table(["MACHINE", "IMAGE", "STATE", "", "WHY"], rows) if rows else "nothing that runs"
    terminal.show(found.model_dump(mode="json"), shown, as_json=as_json)
    if affected := sum(one.affected for one in found.machines):
        terminal.say(f"{affected} affected; the policy says: {found.action}")


def record_summary(record: MachineRecord) -> dict[str, Any]:
    """A record for programs, without what the hypervisor was told."""
    value = record.model_dump(mode="json", exclude_none=True)
    value.pop("spec", None)
    return value


def _table(machines: list[MachineRecord]) -> object:
    rows = [
        (
            record.uuid[:8],
            record.name,
            record.state.value,
            record.title,
            f"{record.cores} x {terminal.format_size(record.memory)}",
            record.ends.strftime("%Y-%m-%d %H:%M UTC"),
            record.reason,
        )
        for record in machines
    ]
    return terminal.table(("UUID", "NAME", "STATE", "IMAGE", "SIZE", "ENDS", "REASON"), rows) if rows else "no machines"
