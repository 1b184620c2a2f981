"""The commands `partita site serve|status|nodes|drain|events|audit|...`. Wiring only; the site's service does the work."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catalog.errors import Misused
from deployer.cli.arguments import ReadyFile, RootFile, counts_text, pin_trust_root, to_json
from deployer.cli.site.grants import rights_app
from deployer.cli.site.machine import site_machine_app
from deployer.cli.site.maintenance import maintenance_app
from deployer.cli.site.options import NodeName, ReasonOption, SiteOption, open_client
from deployer.ec2.settings import Ec2Settings
from deployer.site.settings import SiteSettings
from signer.documents import validate
from signer.runtime import files, terminal
from signer.runtime.log_config import LogSettings, configure_logging

if TYPE_CHECKING:
    from deployer.site.model.records import SiteEvent

site_app = typer.Typer(
    name="site", no_args_is_help=True, help="Run and manage a site: its service, nodes and machines."
)
site_app.add_typer(site_machine_app, name="machine")
site_app.add_typer(rights_app)
site_app.add_typer(maintenance_app)


@site_app.command("serve")
def site_serve(context: typer.Context, ready_file: ReadyFile = None) -> None:
    """Run the site's service until it gets SIGTERM or SIGINT. Machines keep running without it."""
    from deployer.ec2.site.extension import AccountSupervisor  # loads the server, the database and all four packages
    from deployer.site.daemon import serve_site

    configure_logging(terminal.section(context, LogSettings))

    def ready(url: str, socket: Path, site: Any) -> None:
        status = site.status()
        text = f"site ready at {url}; its CA: SHA-256 {status.fingerprint}; operator's socket {socket}"
        text += "".join(f"\n{problem}" for problem in status.problems)
        terminal.show({"socket": str(socket)} | to_json(status), text)
        if ready_file is not None:
            files.write(ready_file, f"{url}\n", sync=None)

    accounts = AccountSupervisor(terminal.section(context, Ec2Settings))
    serve_site(terminal.section(context, SiteSettings), ready, accounts)


@site_app.command("trust-root")
def site_trust_root(context: typer.Context, file: RootFile) -> None:
    """Pin the TUF root that the catalog's metadata is verified with."""
    pin_trust_root(file, terminal.section(context, SiteSettings).pinned_root)


@site_app.command("status")
def site_status(context: typer.Context, site: SiteOption = "") -> None:
    """Show a site's policy, nodes, machines and problems."""
    with open_client(context, site) as client:
        status = client.status()
    rows = [
        ("url", status.url),
        ("CA", f"SHA-256 {status.fingerprint}"),
        ("catalog", status.catalog),
        ("policy", status.policy_digest or "no policy is in force"),
        ("nodes", counts_text(status.nodes)),
        ("machines", counts_text(status.machines)),
        ("events", str(status.events)),
        *(("problem", problem) for problem in status.problems),
    ]
    terminal.show(to_json(status), terminal.table(("WHAT", "IS"), rows))


@site_app.command("token")
def site_token(
    context: typer.Context,
    name: Annotated[str, typer.Option(help="The node's name; by default the node chooses it.")] = "",
    minutes: Annotated[int, typer.Option(min=1, max=1440, help="Validity of the token in minutes.")] = 60,
    site: SiteOption = "",
) -> None:
    """Get a token with which one node may join, once."""
    from deployer.site.schema.messages import JoinTokenRequest

    wanted = validate(JoinTokenRequest, {"name": name, "minutes": minutes}, "request for a token")
    with open_client(context, site) as client:
        made = client.token(wanted)
    text = f"run on the node, until {made.expires:%H:%M} UTC: partita node join {made.url} {made.token}"
    terminal.show(to_json(made), text)


@site_app.command("nodes")
def site_nodes(context: typer.Context, site: SiteOption = "") -> None:
    """List the site's nodes."""
    with open_client(context, site) as client:
        nodes = client.nodes()
    size = terminal.format_size
    rows = [
        (
            one.name,
            one.uuid[:8],
            one.state.value,
            f"{one.capacity.cores} cores, {size(one.capacity.memory)}, {size(one.capacity.disk)} disk",
            ", ".join(f"{name}={value}" for name, value in sorted(one.labels.items())),
            one.reported.strftime("%Y-%m-%d %H:%M:%S UTC") if one.reported else "never",
            one.problem,
        )
        for one in nodes
    ]
    columns = ("NAME", "UUID", "STATE", "HAS", "LABELS", "LAST REPORT", "PROBLEM")
    shown = terminal.table(columns, rows) if rows else "no nodes; get a token for one with `partita site token`"
    terminal.show([to_json(one) for one in nodes], shown)


@site_app.command("node")
def site_node(context: typer.Context, node: NodeName, site: SiteOption = "") -> None:
    """Show the site's full record of a node."""
    with open_client(context, site) as client:
        value = to_json(client.node(node))
    terminal.show(value, terminal.table(("FIELD", "VALUE"), list(value.items())))


@site_app.command("drain")
def site_drain(
    context: typer.Context,
    node: NodeName,
    migrate: Annotated[bool, typer.Option("--migrate", help="Migrate its stopped and suspended machines.")] = False,
    reason: ReasonOption = "",
    site: SiteOption = "",
) -> None:
    """Place no more machines on a node; those that it has keep running."""
    _change_node(context, node, "drain", reason, site, migrate=migrate)


def _add_node_verb(verb: str, about: str) -> None:
    def command(context: typer.Context, node: NodeName, reason: ReasonOption = "", site: SiteOption = "") -> None:
        _change_node(context, node, verb, reason, site)

    site_app.command(verb, help=about)(command)


_add_node_verb("undrain", "Place machines on a drained node again.")
_add_node_verb("remove", "Remove a node for good; its certificate is refused from then on.")


def _change_node(
    context: typer.Context, node: str, verb: str, reason: str, site: str, *, migrate: bool = False
) -> None:
    with open_client(context, site) as client:
        found = client.do_node(node, verb, reason, migrate=migrate)
    terminal.show(to_json(found), f"{found.name}: {found.state.value}")


@site_app.command("login")
def site_login(context: typer.Context) -> None:
    """Print a link with which this site's operator logs in on the console, valid once, for a minute."""
    with open_client(context) as client:
        made = client.login_link()
    terminal.show(to_json(made), f"open this until {made.expires:%H:%M:%S} UTC: {made.url}")


@site_app.command("events")
def site_events(
    context: typer.Context,
    after: Annotated[int, typer.Option(min=0, help="Only events after the one with this number.")] = 0,
    deployment: Annotated[str, typer.Option(help="Only events of this deployment.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue with new events.")] = False,
    site: SiteOption = "",
) -> None:
    """Show the event log. With --json, print a line for each event."""
    with open_client(context, site) as client:
        while True:
            page = client.events(after, deployment=deployment)
            for one in page.items:
                _print_event(one)
            after = page.last
            if not page.more:
                break
        if follow:
            for one in client.follow(after, deployment):
                _print_event(one)


@site_app.command("audit")
def site_audit(
    context: typer.Context,
    by: Annotated[str, typer.Option(help="Only actions of this person: ISSUER SUBJECT.")] = "",
    owner: Annotated[str, typer.Option(help="Only entries about this person's objects: ISSUER SUBJECT.")] = "",
    vo: Annotated[str, typer.Option(help="Only entries about objects of this VO's members.")] = "",
    machine: Annotated[str, typer.Option(help="Only entries about this machine.")] = "",
    since: Annotated[str, typer.Option(help="Only entries since then, such as 2026-11-22T12:00:00Z.")] = "",
    until: Annotated[str, typer.Option(help="Only entries until then.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Most entries to show, from the last one.")] = 100,
    site: SiteOption = "",
) -> None:
    """Show a site's audit log, the last entry first. Needs the action `audit`."""
    wanted = {"by": by, "owner": owner, "vo": vo, "machine": machine}
    for name, text in (("since", since), ("until", until)):
        try:
            wanted[name] = datetime.fromisoformat(text).isoformat() if text else ""
        except ValueError as exc:
            raise Misused(f"--{name} {text}: write it as 2026-11-22T12:00:00Z") from exc
    with open_client(context, site) as client:
        found = list(client.audit(limit, **wanted))
    rows = [
        (
            one.event.number,
            f"{one.event.at:%Y-%m-%d %H:%M:%S}",
            one.by.rpartition(" ")[2] or "the site",
            f"{one.event.kind} {one.event.subject[:8]}",
            one.event.what,
            f"{one.owner.rpartition(' ')[2]} {f'({one.vo})' if one.vo else ''}".strip(),
            one.event.reason,
        )
        for one in found
    ]
    columns = ("NO.", "AT (UTC)", "BY", "TO", "WHAT", "OF", "WHY")
    table = terminal.table(columns, rows) if rows else "no entries"
    terminal.show([to_json(one) for one in found], table)


def _print_event(event: "SiteEvent") -> None:
    if terminal.options.json:
        sys.stdout.write(event.model_dump_json(exclude_none=True) + "\n")
        sys.stdout.flush()
        return
    at = event.at.astimezone(UTC)
    words = f"{event.number:>6}  {at:%Y-%m-%d %H:%M:%S}  {event.kind} {event.subject[:8]}  {event.what}"
    terminal.show_text(terminal.printable(words + (f": {event.reason}" if event.reason else "")))
