"""The commands `partita site backup|restore|prune`: the site's database, with its CA's key."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from catalog.errors import Conflict, Misused
from catalog.service.backup import dump_sqlite, restore_backup, restore_sqlite, write_backup
from deployer.cli.arguments import minute
from deployer.errors import SiteUnavailable
from deployer.site.settings import SiteSettings
from signer.runtime import terminal
from signer.runtime.clock import current_second

SECONDS = 3600
"""Time limit of PostgreSQL's tools."""

SQLITE = "sqlite:///"

KINDS = ("deployments", "machines", "keys", "clusters", "events", "tokens")
"""What pruning removes."""

maintenance_app = typer.Typer()


@maintenance_app.command("backup")
def site_backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The tar to write. It contains the site's private keys.")],
) -> None:
    """Back up a site, running or not: its database, keys and certificates."""
    settings = terminal.section(context, SiteSettings)
    root, url = settings.directory, settings.database_url
    engine: Literal["sqlite", "postgresql"] = "sqlite" if url.startswith(SQLITE) else "postgresql"
    if engine == "sqlite" and not Path(url.removeprefix(SQLITE)).exists():
        raise Misused(f"{url.removeprefix(SQLITE)}: no site database there; set site.directory or site.database")
    dump = dump_sqlite(Path(url.removeprefix(SQLITE))) if engine == "sqlite" else _pg_dump(url)
    files = [root / "tls.pem", root / "broker.key", *sorted((root / "freshness").rglob("*.json"))]
    made = write_backup(file, "site", engine, dump, files, root, current_second())
    terminal.show(
        {"file": str(file), "members": sorted(made.members)},
        f"{file}: {len(made.members)} members, private keys included; the settings, policy and rights files are not",
    )


@maintenance_app.command("restore")
def site_restore(
    context: typer.Context, file: Annotated[Path, typer.Argument(help="A file that `partita site backup` wrote.")]
) -> None:
    """Restore a site into an empty directory and database. Its nodes trust it as before."""
    settings = terminal.section(context, SiteSettings)
    url = settings.database_url
    with restore_backup(file, "site", settings.directory) as (found, dumped):
        if found.engine == "sqlite" and url.startswith(SQLITE):
            restore_sqlite(dumped, Path(url.removeprefix(SQLITE)))
        elif found.engine == "postgresql" and not url.startswith(SQLITE):
            _pg_restore(url, dumped)
        else:
            raise Misused(f"{file}: the backup is of a {found.engine} database; set site.database to one of that kind")
    terminal.show(
        {"directory": str(settings.directory), "made": found.made.isoformat()},
        f"{settings.directory}: restored as of {minute(found.made)}; start it with partita site serve",
    )


@maintenance_app.command("prune")
def site_prune(
    context: typer.Context, dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count the objects.")] = False
) -> None:
    """Remove objects that ended long ago from a site's database now, as its service does regularly; it may be running."""
    from deployer.site.db.engine import SiteDatabase  # loads SQLAlchemy: only here
    from deployer.site.operations.retention import Pruner, retention_periods

    settings = terminal.section(context, SiteSettings)
    database = SiteDatabase(settings.database_url)
    try:
        found = Pruner(database, retention_periods(settings), dry=dry_run).everything(current_second())
    finally:
        database.close()
    shown = ", ".join(f"{found[kind]} {kind}" for kind in KINDS if found[kind]) or "nothing"
    value = {kind: found[kind] for kind in KINDS} | {"dry_run": dry_run}
    terminal.show(value, f"{'to be removed' if dry_run else 'removed'}: {shown}")


def _pg_dump(url: str) -> Callable[[Path], None]:
    def dump(target: Path) -> None:
        _run(["pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={target}"], url)

    return dump


def _pg_restore(url: str, dumped: Path) -> None:
    listed = _run(
        [
            "psql",
            "--tuples-only",
            "--no-align",
            "--command",
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'",
        ],
        url,
    )
    if listed.strip() != "0":
        raise Conflict("the database in site.database is not empty; restore into an empty one")
    _run(["pg_restore", "--exit-on-error", "--single-transaction", "--no-owner", str(dumped)], url, named=True)


def _run(command: list[str], url: str, *, named: bool = False) -> str:
    """Run one of PostgreSQL's tools; the password goes by the environment, never by the command line."""
    from catalog.db.engine import libpq_environment  # loads SQLAlchemy: only here
    from deployer.site.db.engine import SITE

    environment = libpq_environment(url, SITE)
    if named:
        command = [command[0], f"--dbname={environment['PGDATABASE']}", *command[1:]]
    try:
        ended = subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except FileNotFoundError as exc:
        raise SiteUnavailable(f"{command[0]} is not installed here; it comes with postgresql-client") from exc
    if ended.returncode:
        raise SiteUnavailable(f"{command[0]} failed: {ended.stderr.strip()[-500:]}")
    return ended.stdout
