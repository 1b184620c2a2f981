"""The commands `partita machine ...`, for machines of this machine's node. Wiring only; the node's service does the work."""

import json as json_text
from pathlib import Path
from typing import Annotated, Any

import typer

from catalog.errors import Misused
from deployer.cli import arguments
from deployer.cli.arguments import to_json
from deployer.cli.node.options import node_client
from deployer.node.schema.machines import OperationName, ResizeRequest, SaveOrder
from deployer.records.machine_store import MachineRecord
from signer.documents import validate
from signer.runtime import terminal
from signer.runtime.units import parse_duration, parse_size

machine_app = typer.Typer(no_args_is_help=True, help="Manage this node's machines: show, change and end them.")

VERBS: dict[OperationName, tuple[str, str]] = {
    "pause": ("Pause a machine; it stays in memory.", "paused"),
    "resume": ("Resume a paused machine.", "resumed"),
    "suspend": ("Save a machine's memory to disk, and free its cores and memory.", "suspended"),
    "reactivate": ("Resume a suspended machine, or boot a stopped one.", "running"),
    "stop": ("Power a machine off, by force if need be; its disks stay until it expires.", "stopped"),
    "reboot": ("Reboot a machine.", "rebooted"),
}
"""The help of each command, and the state that it reports."""


@machine_app.command("list")
def machine_list(context: typer.Context) -> None:
    """List the node's machines, the oldest first."""
    with node_client(context) as node:
        machines = node.machines()
    rows = [
        (
            record.uuid[:8],
            record.name,
            record.state.value,
            record.title,
            f"{record.cores} x {terminal.format_size(record.memory)}",
            arguments.minute(record.expires),
            record.reason,
        )
        for record in machines
    ]
    columns = ("UUID", "NAME", "STATE", "IMAGE", "SIZE", "EXPIRES", "REASON")
    shown = terminal.table(columns, rows) if rows else "no machines"
    terminal.show([record_summary(record) for record in machines], shown)


@machine_app.command("show")
def machine_show(context: typer.Context, name: arguments.MachineArgument) -> None:
    """Show the node's full record of a machine."""
    with node_client(context) as node:
        value = to_json(node.machine(name))
    rows = [(key, json_text.dumps(entry) if isinstance(entry, dict) else entry) for key, entry in value.items()]
    terminal.show(value, terminal.table(("FIELD", "VALUE"), rows))


@machine_app.command("console")
def machine_console(
    context: typer.Context,
    name: arguments.MachineArgument,
    follow: arguments.FollowOption = False,
    raw: arguments.RawOption = False,
) -> None:
    """Print a machine's serial console."""
    with node_client(context) as node:
        if terminal.options.json:
            arguments.print_console_json(b"".join(node.console(name)))
            return
        arguments.print_console(node.console(name, follow=follow), raw=raw)


@machine_app.command("shutdown")
def machine_shutdown(
    context: typer.Context,
    name: arguments.MachineArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the guest has powered off.")] = False,
    timeout: Annotated[int, typer.Option(help="Longest wait in seconds.", min=1)] = 60,
) -> None:
    """Ask a machine's guest to power off."""
    with node_client(context) as node:
        record = node.shutdown(name, float(timeout) if wait else 0.0)
    _show(record, record.state.value if wait else "asked to power off")
    if wait and record.state.value == "running":
        raise typer.Exit(1)


@machine_app.command("destroy")
def machine_destroy(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(help="Machines, by UUID, its beginning, or name.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All machines of the node.")] = False,
) -> None:
    """End machines now, and remove their disks and consoles."""
    if bool(names) == every:
        raise Misused("name the machines to destroy, or give --all")
    with node_client(context) as node:
        wanted = [record.uuid for record in node.machines()] if every else names or []
        ended = [node.destroy(name) for name in wanted]
    text = "\n".join(f"{record.name}: destroyed" for record in ended) or "no machines"
    terminal.show([record_summary(record) for record in ended], text)


def _add_verb(verb: OperationName, about: str, done: str) -> None:
    def command(context: typer.Context, name: arguments.MachineArgument) -> None:
        with node_client(context) as node:
            record = node.do(name, verb)
        _show(record, done)

    machine_app.command(verb, help=about)(command)


for _verb, (_about, _done) in VERBS.items():
    _add_verb(_verb, _about, _done)


@machine_app.command("resize")
def machine_resize(
    context: typer.Context,
    name: arguments.MachineArgument,
    memory: Annotated[str | None, typer.Option(help="Memory, such as 2GiB.")] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="Number of cores.")] = None,
) -> None:
    """Change a machine's memory or cores, up to its maximum; at once if it runs."""
    if memory is None and cores is None:
        raise Misused("give --memory, --cores, or both")
    wanted = {"memory": arguments.optional_amount(memory, parse_size, "--memory"), "cores": cores}
    request = validate(ResizeRequest, {key: value for key, value in wanted.items() if value is not None}, "request")
    with node_client(context) as node:
        record = node.resize(name, request)
    _show(record, f"{terminal.format_size(record.memory)}, {record.cores} cores")


@machine_app.command("extend")
def machine_extend(
    context: typer.Context,
    name: arguments.MachineArgument,
    lifetime: Annotated[str, typer.Argument(help="Lifetime from now on, such as 2h; may be shorter than before.")],
) -> None:
    """Change when a machine expires."""
    with node_client(context) as node:
        record = node.extend(name, arguments.parse_amount(lifetime, parse_duration, "LIFETIME"))
    _show(record, f"expires at {record.expires:%Y-%m-%d %H:%M:%S} UTC")


@machine_app.command("save")
def machine_save(
    context: typer.Context,
    name: arguments.MachineArgument,
    directory: Annotated[Path, typer.Argument(help="The image directory to make.")],
    version: Annotated[str, typer.Option(help="Version of the new image.")],
) -> None:
    """Save a stopped or suspended machine's disks as a new, unendorsed version of its image."""
    order = validate(SaveOrder, {"directory": str(directory.absolute()), "version": version}, "request")
    with node_client(context) as node:
        saved = node.save(name, order)
    changed = f"{', '.join(saved.changed) or 'nothing'} ({terminal.format_size(saved.written)})"
    text = f"{saved.title} ({saved.image_id}) in {saved.directory}; changed: {changed}"
    terminal.show(saved.model_dump(mode="json"), text)


@machine_app.command("addresses")
def machine_addresses(context: typer.Context, name: arguments.MachineArgument) -> None:
    """Show a machine's IP addresses, from the hypervisor's network or the guest's agent."""
    with node_client(context) as node:
        found = node.addresses(name)
    terminal.show(found, "\n".join(found) or "no addresses are known")


def _show(record: MachineRecord, text: str) -> None:
    terminal.show(record_summary(record), f"{record.name}: {text}")


def record_summary(record: MachineRecord) -> dict[str, Any]:
    """A machine's record as JSON-ready values, without its specification for the hypervisor."""
    value = to_json(record)
    value.pop("spec", None)
    return value
