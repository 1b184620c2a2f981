"""`partita catalog backup` and `restore`: what cannot be had again of a catalog. Contents are copied beside, by any tool."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from catalog.errors import NotFound
from catalog.service.backup import dump_sqlite, restore_backup, restore_sqlite, write_backup
from catalog.settings import CatalogSettings
from signer.runtime import terminal
from signer.runtime.terminal import Json

Directory = Annotated[Path | None, typer.Option("--directory", help="The catalog's directory, instead of the setting.")]
DATABASE = "catalog.db"


def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The tar to write. It holds private keys.")],
    directory: Directory = None,
    json: Json = False,
) -> None:
    """Back a catalog up: its database, online keys and history. Contents never change: copy DIR/blobs by any tool."""
    root = directory or terminal.section(context, CatalogSettings).directory
    if not (root / DATABASE).exists():
        raise NotFound(f"{root}: there is no catalog; name its directory with --directory")
    files = [*sorted((root / "tuf" / "keys").glob("*.pem")), root / "tuf" / "root.json", root / "audit.jsonl"]
    made = write_backup(
        file, "catalog", "sqlite", dump_sqlite(root / DATABASE), files, root, datetime.now(UTC).replace(microsecond=0)
    )
    terminal.show(
        {"file": str(file), "members": sorted(made.members)},
        f"{file}: {len(made.members)} members; copy {root / 'blobs'} too, and keep both where keys belong",
        as_json=json,
    )


def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="What `partita catalog backup` wrote.")],
    directory: Directory = None,
    json: Json = False,
) -> None:
    """Restore a catalog into a directory that holds none; then put its contents into DIR/blobs, and check."""
    root = directory or terminal.section(context, CatalogSettings).directory
    with restore_backup(file, "catalog", root) as (found, database):
        restore_sqlite(database, root / DATABASE)
    terminal.show(
        {"directory": str(root), "made": found.made.isoformat()},
        f"{root}: as it was at {found.made:%Y-%m-%d %H:%M} UTC; next: copy the contents to {root / 'blobs'}, then "
        f"partita catalog check --directory {root}",
        as_json=json,
    )
