"""The commands `partita site machine ...`. Wiring only; the site's service does the work."""

import time
import uuid as uuids
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catalog.errors import Misused
from deployer.cli import arguments
from deployer.cli.arguments import to_json
from deployer.cli.site.options import KeyOption, MachineName, ReasonOption, SiteOption, VoOption, open_client
from deployer.errors import DeployerError
from signer.documents import validate
from signer.runtime import terminal
from signer.runtime.units import parse_duration, parse_size

if TYPE_CHECKING:
    from deployer.site.client.client import SiteClient
    from deployer.site.model.records import MachineSave
    from deployer.site.schema.views import MachineView

site_machine_app = typer.Typer(no_args_is_help=True, help="Manage a site's machines: show, change and end them.")

LOOK_EVERY = 1.0
"""Seconds between two queries while waiting for a save."""

VERBS = {
    "pause": "Pause a machine; it keeps its memory on the node.",
    "resume": "Resume a paused machine.",
    "suspend": "Save a machine's memory to disk, and free its cores and memory.",
    "reboot": "Ask a machine's guest to reboot; reset it if it does not.",
    "shutdown": "Ask a machine's guest to power off; its disks stay until it expires.",
    "destroy": "End a machine now, and remove its disks.",
}
"""The help of each command that only names a verb."""


@site_machine_app.command("list")
def site_machine_list(
    context: typer.Context,
    deployment: Annotated[str, typer.Option(help="Only of this deployment.")] = "",
    node: Annotated[str, typer.Option(help="Only on this node.")] = "",
    vo: VoOption = "",
    state: Annotated[str, typer.Option(help="Only in this state.")] = "",
    every: Annotated[bool, typer.Option("--all", help="Include machines that have ended.")] = False,
    site: SiteOption = "",
) -> None:
    """List the machines that you may see, the newest first."""
    with open_client(context, site) as client:
        uuid = client.node(node).uuid if node else ""
        found = [
            one
            for one in client.machines(deployment=deployment, node=uuid, vo=vo, state=state)
            if every or state or not one.state.final
        ]
    terminal.show([to_json(one) for one in found], machine_table(found))


@site_machine_app.command("show")
def site_machine_show(context: typer.Context, machine: MachineName, site: SiteOption = "") -> None:
    """Show the site's full record of a machine."""
    with open_client(context, site) as client:
        value = to_json(client.machine(machine))
    terminal.show(value, terminal.table(("FIELD", "VALUE"), list(value.items())))


def _add_verb(verb: str, about: str) -> None:
    def command(context: typer.Context, machine: MachineName, reason: ReasonOption = "", site: SiteOption = "") -> None:
        with open_client(context, site) as client:
            found = client.do(machine, verb, reason)
        terminal.show(to_json(found), _states(found))

    site_machine_app.command(verb, help=about)(command)


for _verb, _about in VERBS.items():
    _add_verb(_verb, _about)


@site_machine_app.command("reactivate")
def site_machine_reactivate(
    context: typer.Context,
    machine: MachineName,
    node: Annotated[str, typer.Option(help="Migrate it to this node first.")] = "",
    elsewhere: Annotated[bool, typer.Option("--elsewhere", help="Migrate it to any other node first.")] = False,
    reason: ReasonOption = "",
    site: SiteOption = "",
) -> None:
    """Resume a suspended machine or boot a stopped one, on its node or on another."""
    with open_client(context, site) as client:
        found = client.do(machine, "reactivate", reason, node=node, elsewhere=elsewhere)
    migrates = (
        f"{found.hostname}: is being migrated to another node and runs there afterwards; see `partita site events`"
    )
    terminal.show(to_json(found), _states(found) if not found.migrating else migrates)


@site_machine_app.command("change")
def site_machine_change(
    context: typer.Context,
    machine: MachineName,
    lifetime: Annotated[str, typer.Option(help="Lifetime from now on, such as 12h.")] = "",
    memory: Annotated[str, typer.Option(help="Memory, such as 1GiB, up to its maximum.")] = "",
    cores: Annotated[int | None, typer.Option(min=1, help="Cores, up to its maximum.")] = None,
    site: SiteOption = "",
) -> None:
    """Change when a machine expires, its memory or its cores."""
    from deployer.site.schema.messages import MachineChange

    wanted: dict[str, Any] = {
        "lifetime": arguments.optional_amount(lifetime, parse_duration, "--lifetime"),
        "memory": arguments.optional_amount(memory, parse_size, "--memory"),
        "cores": cores,
    }
    if not any(value is not None for value in wanted.values()):
        raise Misused("nothing to change: give --lifetime, --memory or --cores")
    with open_client(context, site) as client:
        found = client.change(machine, validate(MachineChange, wanted, "change"))
    size = f"{found.cores} x {terminal.format_size(found.memory)}"
    terminal.show(to_json(found), f"{found.hostname}: {size}, expires {arguments.minute(found.expires)}")


@site_machine_app.command("console")
def site_machine_console(
    context: typer.Context,
    machine: MachineName,
    most: Annotated[int, typer.Option("--bytes", min=1, max=1 << 20, help="Number of bytes from its end.")] = 64 << 10,
    follow: arguments.FollowOption = False,
    raw: arguments.RawOption = False,
    site: SiteOption = "",
) -> None:
    """Print the end of a machine's serial console."""
    with open_client(context, site) as client:
        if terminal.options.json:
            arguments.print_console_json(client.console(machine, most))
            return
        arguments.print_console(
            client.follow_console(machine, most) if follow else (client.console(machine, most),), raw=raw
        )


@site_machine_app.command("save")
def site_machine_save(
    context: typer.Context,
    machine: MachineName,
    version: Annotated[str, typer.Option(help="Version of the new image.")],
    key: KeyOption = "",
    wait: Annotated[bool, typer.Option(help="Wait until it is saved, or has failed.")] = True,
    reason: ReasonOption = "",
    site: SiteOption = "",
) -> None:
    """Save a stopped or suspended machine as a new version of its image: a candidate that its VO can endorse."""
    with open_client(context, site) as client:
        found = client.save(machine, version, key or str(uuids.uuid4()), reason)
        last = next(one for one in reversed(found.saves) if one.version == version)
        if wait:
            last = _wait_saved(client, found.uuid, last)
    if last.state == "failed":
        raise DeployerError(f"machine {found.hostname} was not saved: {last.reason}")
    changed = ", ".join(last.changed) or "nothing"
    text = (
        f"{last.title} ({last.image_id}) is a candidate in the catalog; changed: {changed}"
        if last.state == "saved"
        else f"{found.hostname}: is being saved as version {version}"
    )
    terminal.show(to_json(last), text)


def _wait_saved(client: "SiteClient", machine: str, last: "MachineSave") -> "MachineSave":
    """Wait until a save has ended, and show its progress."""
    with terminal.progress("saving", None) as advance:
        done = 0
        while last.state not in {"saved", "failed"}:
            time.sleep(LOOK_EVERY)
            last = next(one for one in client.machine(machine).saves if one.number == last.number)
            advance(max(0, last.done - done))
            done = max(done, last.done)
    return last


def _states(machine: "MachineView") -> str:
    return f"{machine.hostname}: is {machine.state.value}, will be {machine.desired.value}"


def machine_table(machines: "list[MachineView]") -> object:
    """A table of machines."""
    rows = [
        (
            one.uuid[:8],
            one.hostname,
            one.state.value + ("" if one.ready is None else f", {one.ready}"),
            one.title,
            f"{one.cores} x {terminal.format_size(one.memory)}",
            ", ".join(one.known),
            arguments.minute(one.expires),
            one.reason or one.desired_reason,
        )
        for one in machines
    ]
    columns = ("UUID", "HOST NAME", "STATE", "IMAGE", "SIZE", "ADDRESSES", "EXPIRES", "REASON")
    return terminal.table(columns, rows) if rows else "no machines"
