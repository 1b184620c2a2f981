"""The commands `partita site`: its service, and whoever looks at it. Wiring only; the work is done by the service."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catalog.errors import Misused
from deployer.cli.site.grants import rights_app
from deployer.cli.site.machine import site_machine_app
from deployer.cli.site.maintenance import maintenance_app
from deployer.cli.site.node import site_node_app
from deployer.cli.site.options import SiteOption, open_client, to_json
from deployer.ec2.settings import Ec2Settings
from deployer.site.settings import SiteSettings
from signer.documents import validate
from signer.runtime import files, terminal
from signer.runtime.log_config import LogSettings, configure_logging
from signer.runtime.terminal import Json

if TYPE_CHECKING:  # it loads httpx and cryptography: only whoever asks a site pays for that
    from deployer.site.model.records import SiteEvent

site_app = typer.Typer(
    name="site", no_args_is_help=True, help="A site: its service, its nodes and machines, and what runs there."
)
site_app.add_typer(site_machine_app, name="machine")
site_app.add_typer(rights_app)
site_app.add_typer(site_node_app)
site_app.add_typer(maintenance_app)


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
    terminal.show(to_json(status), terminal.table(("WHAT", "IS"), rows), as_json=json)


@site_app.command("token")
def site_token(
    context: typer.Context,
    name: Annotated[str, typer.Option(help="The node's name; by default the node chooses it.")] = "",
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
    terminal.show(to_json(made), text, as_json=json)


@site_app.command("login")
def site_login(context: typer.Context, json: Json = False) -> None:
    """Print a link by which this site's operator logs in on the console: good once, for a minute."""
    with open_client(context) as asked:
        made = asked.login_link()
    terminal.show(to_json(made), f"open this until {made.expires:%H:%M:%S} UTC: {made.url}", as_json=json)


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


@site_app.command("audit")
def site_audit(
    context: typer.Context,
    by: Annotated[str, typer.Option(help="Only what this person did: ISSUER SUBJECT.")] = "",
    owner: Annotated[str, typer.Option(help="Only what was done to this person's things: ISSUER SUBJECT.")] = "",
    vo: Annotated[str, typer.Option(help="Only what was done to things of people of this VO.")] = "",
    machine: Annotated[str, typer.Option(help="Only of this machine.")] = "",
    since: Annotated[str, typer.Option(help="Not before, such as 2026-11-22T12:00:00Z.")] = "",
    until: Annotated[str, typer.Option(help="Not after.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="SiteOption most so many, the last ones.")] = 100,
    site: SiteOption = "",
    json: Json = False,
) -> None:
    """Tell what was done at a site, by whom, and to whose things; the last first. For those with the action `audit`."""
    wanted = {"by": by, "owner": owner, "vo": vo, "machine": machine}
    for name, text in (("since", since), ("until", until)):
        try:
            wanted[name] = datetime.fromisoformat(text).isoformat() if text else ""
        except ValueError as exc:
            raise Misused(f"--{name} {text}: write it as 2026-11-22T12:00:00Z") from exc
    with open_client(context, site) as asked:
        found = list(asked.audit(limit, **wanted))
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
    table = terminal.table(columns, rows) if rows else "nothing was done"
    terminal.show([one.model_dump(mode="json", exclude_none=True) for one in found], table, as_json=json)


def _tell(event: "SiteEvent", *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(event.model_dump_json(exclude_none=True) + "\n")
        sys.stdout.flush()
        return
    at = event.at.astimezone(UTC)
    words = f"{event.number:>6}  {at:%Y-%m-%d %H:%M:%S}  {event.kind} {event.subject[:8]}  {event.what}"
    terminal.show(None, terminal.printable(words + (f": {event.reason}" if event.reason else "")), as_json=False)
