"""The command `partita site prune`. Wiring only."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from deployer.site.settings import SiteSettings
from signer.runtime import terminal
from signer.runtime.terminal import Json

KINDS = ("deployments", "machines", "keys", "clusters", "events", "tokens")


def prune(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be removed.")] = False,
    json: Json = False,
) -> None:
    """Remove what has been over for long from a site's database now, as its service does by itself; it may run meanwhile."""
    from deployer.site.db.engine import SiteDatabase  # loads SQLAlchemy: only here
    from deployer.site.operations.retention import Pruner, retention_periods

    settings = terminal.section(context, SiteSettings)
    database = SiteDatabase(settings.database_url)
    try:
        found = Pruner(database, retention_periods(settings), dry=dry_run).everything(
            datetime.now(UTC).replace(microsecond=0)
        )
    finally:
        database.close()
    shown = ", ".join(f"{found[kind]} {kind}" for kind in KINDS if found[kind]) or "nothing"
    value = {kind: found[kind] for kind in KINDS} | {"dry_run": dry_run}
    terminal.show(value, f"{'to be removed' if dry_run else 'removed'}: {shown}", as_json=json)
