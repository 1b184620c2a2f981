"""`partita catalog`: serve a catalog, migrate and check its state, show its history."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catalog.cli.access import site_app
from catalog.cli.options import Directory, Url, catalog_settings, open_client
from catalog.errors import ContentMismatch, Misused
from catalog.settings import CatalogSettings
from signer.documents import validate
from signer.errors import DocumentError
from signer.runtime import files, terminal
from signer.runtime.log_config import LogSettings, configure_logging
from signer.statements.endorsement import write_instant

if TYPE_CHECKING:
    from catalog.publication.state_directory import RecoveryReport

catalog_app = typer.Typer(
    name="catalog", help="Run a catalog: the service that images are published to.", no_args_is_help=True
)
catalog_app.add_typer(site_app, name="site")

Listen = Annotated[
    str | None, typer.Option(help="ADDRESS:PORT; port 0 takes a free one. Else the setting catalog.listen.")
]
ReadyFile = Annotated[Path | None, typer.Option(help="Write the URL to this file when requests are answered.")]


@catalog_app.command("serve")
def serve(
    context: typer.Context, directory: Directory = None, listen: Listen = None, ready_file: ReadyFile = None
) -> None:
    """Serve the catalog until interrupted. Migrates the database and recovers from a crash first."""
    # The service is imported where it runs: publishers and nodes do not need its libraries.
    from catalog.service.daemon import serve

    settings = _listening(context, directory, listen)

    def ready(url: str, recovery: "RecoveryReport") -> None:
        found = {name: len(items) for name, items in dataclasses.asdict(recovery).items() if items}
        report = "".join(f"; {name} {count}" for name, count in found.items())
        value = {"url": url, "directory": str(settings.directory)} | found
        terminal.show(value, f"catalog ready at {url}{report}")
        if ready_file is not None:
            files.write(ready_file, f"{url}\n", sync=None)

    serve(settings, ready)


@catalog_app.command("mirror")
def mirror(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="The catalog to mirror.")],
    directory: Directory = None,
    listen: Listen = None,
    every: Annotated[float, typer.Option(min=1, help="Seconds between two polls of the catalog.")] = 60.0,
    ready_file: ReadyFile = None,
) -> None:
    """Keep and serve a read-only copy of a catalog, for a site. It can withhold, but cannot forge."""
    from catalog.service.daemon import serve

    settings = _listening(context, directory, listen)

    def ready(here: str, _recovery: "RecoveryReport") -> None:
        terminal.show({"url": here, "of": url}, f"mirror of {url} ready at {here}")
        if ready_file is not None:
            files.write(ready_file, f"{here}\n", sync=None)

    serve(settings, ready, mirror_of=url, every=every)


def _listening(context: typer.Context, directory: Path | None, listen: str | None) -> CatalogSettings:
    """Configure logging; returns the settings of a service, with the address that an option names."""
    settings = catalog_settings(context, directory)
    if listen is not None:
        try:
            settings = validate(CatalogSettings, settings.model_dump() | {"listen": listen}, "--listen")
        except DocumentError as exc:
            raise Misused(f"--listen {listen}: write it as ADDRESS:PORT, such as 127.0.0.1:7070") from exc
    configure_logging(terminal.section(context, LogSettings))
    return settings


@catalog_app.command("migrate")
def migrate(context: typer.Context, directory: Directory = None) -> None:
    """Migrate the database to the newest schema; `serve` does the same when it starts."""
    from catalog.db.migrations import HEAD
    from catalog.publication.state_directory import open_database

    database = open_database(catalog_settings(context, directory).directory)
    database.close()
    done = "migrated to" if database.migrated else "is already at"
    terminal.show({"revision": HEAD, "migrated": database.migrated}, f"{database.path} {done} {HEAD}")


@catalog_app.command("check")
def check(context: typer.Context, directory: Directory = None) -> None:
    """Read every content again and compare it with its address. Changes nothing, and may run while the service runs."""
    from catalog.publication.state_directory import check_contents

    settings = catalog_settings(context, directory)
    with terminal.progress("checking", None) as advance:
        report = check_contents(settings.directory, advance)
    rows = [[name, item] for name in ("lost", "quarantined") for item in getattr(report, name)]
    summary = f"{len(report.checked)} contents are intact"
    terminal.show(dataclasses.asdict(report), terminal.table(["PROBLEM", "ITEM"], rows) if rows else summary)
    if rows:
        raise ContentMismatch(
            f"{settings.directory}: {len(report.lost)} contents are lost or altered and {len(report.quarantined)} files are "
            "unexplained; restart the service, which quarantines them, and publish the lost images again"
        )


@catalog_app.command("history")
def history(context: typer.Context, catalog: Url = None) -> None:
    """List every publication, endorsement and revocation that a catalog ever accepted, and verify the hash chain."""
    with open_client(context, catalog) as client:
        found = list(client.history())
    rows = [
        (
            entry.seq,
            write_instant(entry.at),
            entry.kind,
            *(entry.data.get(key, "") for key in ("title", "endorser", "role")),
        )
        for entry in found
    ]
    terminal.show(
        [entry.model_dump(mode="json") for entry in found],
        terminal.table(["ENTRY", "TIME", "EVENT", "IMAGE", "BY", "ROLE"], rows),
    )
