"""Commands of a site's operator and of whoever looks at one: `site`. Wiring only; the work is done by the service."""

import os
import sys
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catalog.errors import Misused
from deployer.cli.site.application import site_app
from deployer.cli.site.grants import rights_app
from deployer.ec2.settings import Ec2Settings
from deployer.site.settings import SiteSettings
from signer.documents import Document, validate
from signer.runtime import files, terminal
from signer.runtime.log_config import LogSettings, configure_logging
from signer.runtime.terminal import Json

if TYPE_CHECKING:  # it loads httpx and cryptography: only whoever asks a site pays for that
    from deployer.site.client.client import SiteClient
    from deployer.site.model.records import SiteEvent, SiteMachine, SiteNode

__all__ = ["site_app"]

site_machine_app = typer.Typer(no_args_is_help=True, help="Machines of a site: list, look at, pause, extend, end.")
site_app.add_typer(site_machine_app, name="machine")
site_app.add_typer(rights_app)

SiteOption = Annotated[
    str, typer.Option("--site", help="The site's URL, instead of the one in the settings.", metavar="URL")
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept with the event.")]
NodeName = Annotated[str, typer.Argument(help="A node's name, its UUID, or the beginning of one.")]
MachineName = Annotated[str, typer.Argument(help="A machine's UUID, the beginning of one, or its host name.")]


def open_client(context: typer.Context, url: str = "") -> "SiteClient":
    """A client of the site that the settings name."""
    from deployer.site.client.discovery import open_site_client

    return open_site_client(terminal.section(context, SiteSettings), os.environ, url)


@site_app.command("serve")
def site_serve(
    context: typer.Context,
    ready_file: Annotated[
        Path | None, typer.Option(help="Write the URL here when the site answers.", metavar="FILE")
    ] = None,
    json: Json = False,
) -> None:
    """Run the site's service until it is told to end. Machines go on without it."""
    from deployer.ec2.site.extension import AccountSupervisor  # loads the server, the database and all four packages
    from deployer.site.daemon import serve_site

    configure_logging(terminal.section(context, LogSettings))

    def ready(url: str, socket: Path, site: Any) -> None:
        status = site.status()
        text = f"site ready at {url}; its CA: SHA-256 {status.fingerprint}; operator's socket {socket}"
        for problem in status.problems:
            text += f"\n{problem}"
        value = {"socket": str(socket)} | status.model_dump(mode="json", exclude_none=True)
        terminal.show(value, text, as_json=json)
        if ready_file is not None:
            files.write(ready_file, f"{url}\n", sync=None)

    accounts = AccountSupervisor(terminal.section(context, Ec2Settings))
    serve_site(terminal.section(context, SiteSettings), ready, accounts)


@site_app.command("trust-root")
def site_trust_root(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="The catalog's root.json, got from its operator by a way that you trust.")
    ],
    json: Json = False,
) -> None:
    """Pin the root that says what is current; the site believes its catalog by nothing else."""
    from catalog.client.trusted import pin_root  # loads the TUF library: only here

    place = terminal.section(context, SiteSettings).pinned_root
    try:
        data = file.read_bytes()
    except OSError as exc:
        raise Misused(f"{file}: cannot be read: {exc.strerror}") from exc
    digest = pin_root(place, data)
    text = f"pinned; compare this with the catalog's operator: SHA-256 {digest}"
    terminal.show({"root": str(place), "sha256": digest}, text, as_json=json)


@site_app.command("status")
def site_status(context: typer.Context, site: SiteOption = "", json: Json = False) -> None:
    """Show how a site is doing: its policy, its nodes and machines, and what is wrong."""
    with open_client(context, site) as asked:
        status = asked.status()
    rows = [
        ("url", status.url),
        ("CA", f"SHA-256 {status.fingerprint}"),
        ("catalog", status.catalog),
        ("policy", status.policy_digest or "none is in force"),
        ("nodes", ", ".join(f"{count} {state}" for state, count in status.nodes.items()) or "none"),
        ("machines", ", ".join(f"{count} {state}" for state, count in status.machines.items()) or "none"),
        ("events", str(status.events)),
        *(("problem", problem) for problem in status.problems),
    ]
    terminal.show(_value(status), terminal.table(("WHAT", "IS"), rows), as_json=json)


@site_app.command("token")
def site_token(
    context: typer.Context,
    name: Annotated[str, typer.Option(help="What the node will be called; else it says so itself.")] = "",
    minutes: Annotated[int, typer.Option(min=1, max=1440, help="How long the token is good.")] = 60,
    site: SiteOption = "",
    json: Json = False,
) -> None:
    """Get a token with which one node may join, once."""
    from deployer.site.schema.messages import JoinTokenRequest

    wanted = validate(JoinTokenRequest, {"name": name, "minutes": minutes}, "request for a token")
    with open_client(context, site) as asked:
        made = asked.token(wanted)
    text = f"on the node, until {made.expires:%H:%M} UTC: partita node join {made.url} {made.token}"
    terminal.show(_value(made), text, as_json=json)


@site_app.command("login")
def site_login(context: typer.Context, json: Json = False) -> None:
    """Print a link by which this site's operator logs in on the console: good once, for a minute."""
    with open_client(context) as asked:
        made = asked.login_link()
    terminal.show(_value(made), f"open this until {made.expires:%H:%M:%S} UTC: {made.url}", as_json=json)


@site_app.command("nodes")
def site_nodes(context: typer.Context, site: SiteOption = "", json: Json = False) -> None:
    """List the site's nodes."""
    with open_client(context, site) as asked:
        nodes = asked.nodes()
    terminal.show([_value(one) for one in nodes], _node_table(nodes), as_json=json)


@site_app.command("node")
def site_node(context: typer.Context, node: NodeName, site: SiteOption = "", json: Json = False) -> None:
    """Show all that the site knows of a node."""
    with open_client(context, site) as asked:
        found = asked.node(node)
    value = _value(found)
    rows = [(key, entry) for key, entry in value.items()]
    terminal.show(value, terminal.table(("FIELD", "VALUE"), rows), as_json=json)


@site_app.command("drain")
def site_drain(
    context: typer.Context,
    node: NodeName,
    move: Annotated[bool, typer.Option("--move", help="Machines that rest there go to other nodes.")] = False,
    reason: ReasonOption = "",
    site: SiteOption = "",
    json: Json = False,
) -> None:
    """Give a node no more machines; those that it has go on."""
    _act_node(context, node, "drain", reason, site, as_json=json, move=move)


@site_app.command("undrain")
def site_undrain(
    context: typer.Context, node: NodeName, reason: ReasonOption = "", site: SiteOption = "", json: Json = False
) -> None:
    """Use a node again."""
    _act_node(context, node, "undrain", reason, site, as_json=json)


@site_app.command("remove")
def site_remove(
    context: typer.Context, node: NodeName, reason: ReasonOption = "", site: SiteOption = "", json: Json = False
) -> None:
    """Take a node out for good: its certificate is worth nothing any more."""
    _act_node(context, node, "remove", reason, site, as_json=json)


@site_app.command("events")
def site_events(
    context: typer.Context,
    after: Annotated[int, typer.Option(min=0, help="Only events after the one of this number.")] = 0,
    deployment: Annotated[str, typer.Option(help="Only of this deployment.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they happen.")] = False,
    site: SiteOption = "",
    json: Json = False,
) -> None:
    """Tell what happened: the whole story, or what happens from now on. With --json a line for each event."""
    with open_client(context, site) as asked:
        while True:
            page = asked.events(after, deployment=deployment)
            for one in page.items:
                _tell(one, as_json=json)
            after = page.last
            if not page.more:
                break
        if follow:
            for one in asked.follow(after, deployment):
                _tell(one, as_json=json)


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
    terminal.show([_value(one) for one in found], machine_table(found), as_json=json)


@site_machine_app.command("show")
def machine_show(context: typer.Context, machine: MachineName, site: SiteOption = "", json: Json = False) -> None:
    """Show all that the site knows of a machine."""
    with open_client(context, site) as asked:
        value = _value(asked.machine(machine))
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
        terminal.show(_value(found), text, as_json=json)

    command.__doc__ = about
    site_machine_app.command(verb)(command)


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
    terminal.show(_value(found), text, as_json=json)


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
    terminal.show(_value(found), text, as_json=json)


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


def _node_table(nodes: "tuple[SiteNode, ...]") -> object:
    rows = [
        (
            one.name,
            one.uuid[:8],
            one.state.value,
            f"{one.capacity.cores} cores, {terminal.format_size(one.capacity.memory)}, {terminal.format_size(one.capacity.disk)} disk",
            ", ".join(f"{name}={value}" for name, value in sorted(one.labels.items())),
            one.reported.strftime("%Y-%m-%d %H:%M:%S UTC") if one.reported else "never",
            one.problem,
        )
        for one in nodes
    ]
    columns = ("NAME", "UUID", "STATE", "HAS", "LABELS", "LAST REPORT", "PROBLEM")
    return terminal.table(columns, rows) if rows else "no nodes; `partita site token` lets one join"


def _act_node(
    context: typer.Context, node: str, verb: str, reason: str, site: str, *, as_json: bool, move: bool = False
) -> None:
    with open_client(context, site) as asked:
        found = asked.do_node(node, verb, reason, move=move)
    terminal.show(_value(found), f"{found.name}: {found.state.value}", as_json=as_json)


def _tell(event: "SiteEvent", *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(event.model_dump_json(exclude_none=True) + "\n")
        sys.stdout.flush()
        return
    at = event.at.astimezone(UTC)
    words = f"{event.number:>6}  {at:%Y-%m-%d %H:%M:%S}  {event.kind} {event.subject[:8]}  {event.what}"
    terminal.show(None, terminal.printable(words + (f": {event.reason}" if event.reason else "")), as_json=False)


def _value(document: Document) -> dict[str, Any]:
    return document.model_dump(mode="json", exclude_none=True)
