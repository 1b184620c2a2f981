"""The commands `partita site machine`. Wiring only; the work is done by the service."""

import time
import uuid as uuids
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catalog.errors import Misused
from deployer.cli.arguments import print_console
from deployer.cli.site.options import MachineName, ReasonOption, SiteOption, open_client, to_json
from deployer.errors import DeployerError
from signer.documents import validate
from signer.runtime import terminal
from signer.runtime.terminal import Json

if TYPE_CHECKING:
    from deployer.site.client.client import SiteClient
    from deployer.site.model.records import SaveProgress, SiteMachine

LOOK_EVERY = 1.0
"""Seconds between two looks at a save that is waited for."""

site_machine_app = typer.Typer(no_args_is_help=True, help="Machines of a site: list, look at, pause, extend, end.")


@site_machine_app.command("list")
def machine_list(
    context: typer.Context,
    deployment: Annotated[str, typer.Option(help="Only of this deployment.")] = "",
    node: Annotated[str, typer.Option(help="Only on this node.")] = "",
    vo: Annotated[str, typer.Option(help="Only of people of this VO.")] = "",
    state: Annotated[str, typer.Option(help="Only in this state.")] = "",
    every: Annotated[bool, typer.Option("--all", help="Those that have ended, too.")] = False,
    site: SiteOption = "",
    json: Json = False,
) -> None:
    """List machines, the newest first: those that you may see."""
    with open_client(context, site) as asked:
        uuid = asked.node(node).uuid if node else ""
        found = [
            one
            for one in asked.machines(deployment=deployment, node=uuid, vo=vo, state=state)
            if every or state or not one.state.final
        ]
    terminal.show([to_json(one) for one in found], machine_table(found), as_json=json)


@site_machine_app.command("show")
def machine_show(context: typer.Context, machine: MachineName, site: SiteOption = "", json: Json = False) -> None:
    """Show all that the site knows of a machine."""
    with open_client(context, site) as asked:
        value = to_json(asked.machine(machine))
    terminal.show(value, terminal.table(("FIELD", "VALUE"), list(value.items())), as_json=json)


def _verb(verb: str, about: str) -> None:
    def command(
        context: typer.Context,
        machine: MachineName,
        reason: ReasonOption = "",
        site: SiteOption = "",
        json: Json = False,
    ) -> None:
        with open_client(context, site) as asked:
            found = asked.do(machine, verb, reason)
        text = f"{found.hostname}: is {found.state.value}, will be {found.want.value}"
        terminal.show(to_json(found), text, as_json=json)

    site_machine_app.command(verb, help=about)(command)


for _name, _about in (
    ("pause", "Stop a machine's processors; it keeps its memory on the node."),
    ("resume", "Let a paused machine go on."),
    ("suspend", "Save a machine's memory to disk and free what it held."),
    ("reboot", "Ask a machine's guest to boot again; it is reset if it does not."),
    ("shutdown", "Ask a machine's guest to power off; its disks are kept until its end."),
    ("destroy", "End a machine now, and remove all that is left of it."),
):
    _verb(_name, _about)


@site_machine_app.command("reactivate")
def machine_reactivate(
    context: typer.Context,
    machine: MachineName,
    node: Annotated[str, typer.Option(help="On this node, with all that it has, instead of where it is.")] = "",
    elsewhere: Annotated[bool, typer.Option("--elsewhere", help="On another node, whichever can.")] = False,
    reason: ReasonOption = "",
    site: SiteOption = "",
    json: Json = False,
) -> None:
    """Let a suspended or stopped machine run again, where it is or on another node."""
    with open_client(context, site) as asked:
        found = asked.do(machine, "reactivate", reason, node=node, elsewhere=elsewhere)
    text = f"{found.hostname}: is {found.state.value}, will be {found.want.value}"
    if found.moving is not None:
        text = f"{found.hostname}: goes to another node, and runs there then; see `partita site events`"
    terminal.show(to_json(found), text, as_json=json)


@site_machine_app.command("change")
def machine_change(
    context: typer.Context,
    machine: MachineName,
    lifetime: Annotated[str, typer.Option(help="How long it lives from now on, such as 12h.")] = "",
    memory: Annotated[str, typer.Option(help="Memory, such as 1GiB, within its maximum.")] = "",
    cores: Annotated[int | None, typer.Option(min=1, help="Cores, within its maximum.")] = None,
    site: SiteOption = "",
    json: Json = False,
) -> None:
    """Give a machine more or less time, memory or cores."""
    from deployer.site.schema.messages import MachineChange
    from signer.runtime.units import parse_duration, parse_size

    try:
        wanted: dict[str, Any] = {
            "lifetime": parse_duration(lifetime) if lifetime else None,
            "memory": parse_size(memory) if memory else None,
            "cores": cores,
        }
    except ValueError as exc:
        raise Misused(str(exc)) from exc
    if not any(value is not None for value in wanted.values()):
        raise Misused("say what should be otherwise: --lifetime, --memory or --cores")
    with open_client(context, site) as asked:
        found = asked.change(machine, validate(MachineChange, wanted, "change"))
    text = (
        f"{found.hostname}: {found.cores} x {terminal.format_size(found.memory)}, ends {found.ends:%Y-%m-%d %H:%M} UTC"
    )
    terminal.show(to_json(found), text, as_json=json)


@site_machine_app.command("console")
def machine_console(
    context: typer.Context,
    machine: MachineName,
    most: Annotated[int, typer.Option("--bytes", min=1, max=1 << 20, help="How much of its end.")] = 64 << 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the machine has ended.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="The guest's very bytes, terminal control included.")] = False,
    site: SiteOption = "",
    json: Json = False,
) -> None:
    """Print the end of what a machine's guest wrote to its serial console."""

    with open_client(context, site) as asked:
        if json:
            text = asked.console(machine, most).decode(errors="replace")
            terminal.show({"console": text}, "", as_json=True)
            return
        print_console(asked.follow_console(machine, most) if follow else (asked.console(machine, most),), raw=raw)


@site_machine_app.command("save")
def machine_save(
    context: typer.Context,
    machine: MachineName,
    version: Annotated[str, typer.Option(help="Of the new image.")],
    key: Annotated[str, typer.Option(help="Idempotency key: the same one is the same save.")] = "",
    wait: Annotated[bool, typer.Option(help="Until it is saved, or is not.")] = True,
    reason: ReasonOption = "",
    site: SiteOption = "",
    json: Json = False,
) -> None:
    """Save a machine that rests as a new version of its image: a candidate in the catalog, for its VO to endorse."""
    with open_client(context, site) as asked:
        found = asked.save(machine, version, key or str(uuids.uuid4()), reason)
        last = next(one for one in reversed(found.saves) if one.version == version)
        if wait:
            last = _saved(asked, found.uuid, last)
    if last.state == "failed":
        raise DeployerError(f"machine {found.hostname} was not saved: {last.reason}")
    changed = ", ".join(last.changed) or "nothing"
    text = (
        f"{last.title} ({last.image_id}) is a candidate in the catalog; changed: {changed}"
        if last.state == "saved"
        else f"{found.hostname}: is being saved as version {version}"
    )
    terminal.show(last.model_dump(mode="json", exclude_none=True), text, as_json=json)


def _saved(asked: "SiteClient", machine: str, last: "SaveProgress") -> "SaveProgress":
    """A save once it is over, with its progress shown meanwhile."""
    with terminal.progress("saving", None) as advance:
        done = 0
        while last.state not in {"saved", "failed"}:
            time.sleep(LOOK_EVERY)
            last = next(one for one in asked.machine(machine).saves if one.number == last.number)
            advance(max(0, last.done - done))
            done = max(done, last.done)
    return last


def machine_table(machines: "list[SiteMachine]") -> object:
    """Machines for people."""
    rows = [
        (
            one.uuid[:8],
            one.hostname,
            one.state.value + ("" if one.ready is None else f", {one.ready}"),
            one.title,
            f"{one.cores} x {terminal.format_size(one.memory)}",
            ", ".join(one.known),
            one.ends.strftime("%Y-%m-%d %H:%M UTC"),
            one.reason or one.want_reason,
        )
        for one in machines
    ]
    columns = ("UUID", "HOST NAME", "STATE", "IMAGE", "SIZE", "ADDRESSES", "ENDS", "REASON")
    return terminal.table(columns, rows) if rows else "no machines"
