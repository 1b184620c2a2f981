"""`partita catalog backup` and `restore`: the irreplaceable part of a catalog. Contents are copied by any other tool."""

from pathlib import Path
from typing import Annotated

import typer

from catalog.cli.options import Directory, catalog_settings
from catalog.errors import NotFound
from catalog.service.backup import dump_sqlite, restore_backup, restore_sqlite, write_backup
from signer.runtime import terminal
from signer.runtime.clock import current_second

DATABASE = "catalog.db"


def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The tar to write. It holds private keys.")],
    directory: Directory = None,
) -> None:
    """Back up a catalog: its database, online keys and history. Contents never change: copy DIR/blobs with any tool."""
    root = catalog_settings(context, directory).directory
    if not (root / DATABASE).exists():
        raise NotFound(f"{root}: no catalog found; name its directory with --directory")
    files = [*sorted((root / "tuf" / "keys").glob("*.pem")), root / "tuf" / "root.json", root / "audit.jsonl"]
    made = write_backup(file, "catalog", "sqlite", dump_sqlite(root / DATABASE), files, root, current_second())
    terminal.show(
        {"file": str(file), "members": sorted(made.members)},
        f"{file}: {len(made.members)} files; copy {root / 'blobs'} too, and store both as safely as keys",
    )


def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The tar that `partita catalog backup` wrote.")],
    directory: Directory = None,
) -> None:
    """Restore a catalog into a new directory. Then copy its contents to DIR/blobs, and run `partita catalog check`."""
    root = catalog_settings(context, directory).directory
    with restore_backup(file, "catalog", root) as (found, database):
        restore_sqlite(database, root / DATABASE)
    terminal.show(
        {"directory": str(root), "made": found.made.isoformat()},
        f"{root}: restored as of {found.made:%Y-%m-%d %H:%M} UTC; next: copy the contents to {root / 'blobs'}, then "
        f"partita catalog check --directory {root}",
    )
