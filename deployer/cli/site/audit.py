"""The command for whoever looks at what was done at a site. Wiring only."""

from datetime import datetime
from typing import Annotated

import typer

from catalog.errors import Misused
from deployer.cli.site.site import SiteOption, open_client, site_app
from signer.runtime import terminal
from signer.runtime.terminal import Json


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
