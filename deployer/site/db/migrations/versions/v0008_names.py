"""Columns and members of documents have the names of docs/glossary.md."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import sqlalchemy as sa
from alembic import op

from deployer.site.db.migrations.rows import read_rows, write_row

revision = "0008"
down_revision = "0007"

COLUMNS: Final = {
    "nodes": {"movable": "migration_support"},
    "deployments": {"ask": "placement_request"},
    "machines": {
        "want": "desired",
        "holds": "counts_for_quota",
        "told": "reserved",
        "over": "finished",
        "beside": "other_node",
    },
    "contexts": {"ends": "forget_after"},
}

INDEXES: Final = (
    ("machines", "beside"),
    ("machines", "over", "expires"),
    ("machines", "told", "node", "max_cores", "max_memory", "disk"),
    *(("machines", "holds", who, "max_cores", "max_memory") for who in ("owner", "vo")),
    ("contexts", "ends"),
)
"""Those that name such a column, by their table and the columns' earlier names."""

MACHINE: Final = {
    "want": "desired",
    "want_reason": "desired_reason",
    "said": "guest_addresses",
    "gone": "removed_from_node",
    "promise": "reserved_cost",
    "move": "migration",
    "moves": "migrations",
    "moved": "migrated",
}
MIGRATION: Final = {"then": "desired"}
PHASE: Final = {"moving": "migrating"}
REQUEST: Final = {"wishes": "placement_options"}
CLUSTER: Final = {"over": "finished"}
EVENTS: Final = {"moving": "migrating", "moved": "migrated", "move-failed": "migration-failed"}

machines, deployments, clusters = (
    sa.table(name, sa.column("sequence"), sa.column("document")) for name in ("machines", "deployments", "clusters")
)

events = sa.table("events", sa.column("kind"), sa.column("what"))


def upgrade() -> None:
    """Go to this revision."""
    _rename(dict)


def downgrade() -> None:
    """Go back; nothing is lost."""
    _rename(lambda names: {new: old for old, new in names.items()})


def _rename(turned: Callable[[Mapping[str, str]], dict[str, str]]) -> None:
    """Rename all; `turned` gives the names in the direction of the migration."""
    _rename_columns({table: turned(names) for table, names in COLUMNS.items()})
    for what, other in turned(EVENTS).items():
        op.execute(sa.update(events).where(events.c.kind == "machine", events.c.what == what).values(what=other))
    for sequence, row in read_rows(machines, "document"):
        document = _named(json.loads(row["document"]), turned(MACHINE))
        for member in ("move", "migration"):
            if document.get(member) is not None:
                migration = _named(document[member], turned(MIGRATION))
                document[member] = migration | {"phase": turned(PHASE).get(migration["phase"], migration["phase"])}
        write_row(machines, sequence, document=document)
    for sequence, row in read_rows(deployments, "document"):
        document = json.loads(row["document"])
        request = _named(document["request"], turned(REQUEST))
        write_row(deployments, sequence, document=document | {"request": request})
    for sequence, row in read_rows(clusters, "document"):
        document = json.loads(row["document"])
        if state := document.get("state"):
            document["state"] = json.dumps(_named(json.loads(state), turned(CLUSTER)), separators=(",", ":"))
            write_row(clusters, sequence, document=document)


def _rename_columns(names: Mapping[str, Mapping[str, str]]) -> None:
    """Rename columns of tables, and the indexes of these columns with them."""
    old = [(table, columns) for table, *columns in INDEXES]
    new = [(table, [COLUMNS[table].get(name, name) for name in columns]) for table, columns in old]
    if names != COLUMNS:
        old, new = new, old
    for table, columns in old:
        op.drop_index(f"ix_{table}_{'_'.join(columns)}", table)
    for table, renamed in names.items():
        for name, other in renamed.items():
            op.execute(f'ALTER TABLE {table} RENAME COLUMN "{name}" TO "{other}"')  # in place on both databases
    for table, columns in new:
        op.create_index(f"ix_{table}_{'_'.join(columns)}", table, columns)


def _named(document: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in document.items()}
