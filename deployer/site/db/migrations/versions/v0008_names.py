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
CLUSTER: Final = {"over": "finished"}

machines, clusters = (sa.table(name, sa.column("sequence"), sa.column("document")) for name in ("machines", "clusters"))


def upgrade() -> None:
    """Go to this revision."""
    _rename(dict)


def downgrade() -> None:
    """Go back; nothing is lost."""
    _rename(lambda names: {new: old for old, new in names.items()})


def _rename(turned: Callable[[Mapping[str, str]], dict[str, str]]) -> None:
    """Rename all; `turned` gives the names in the direction of the migration."""
    before = {table: turned(names) for table, names in COLUMNS.items()}
    old = [(table, names) for table, *names in INDEXES]
    new = [(table, [COLUMNS[table].get(name, name) for name in names]) for table, names in old]
    if before != COLUMNS:
        old, new = new, old
    for table, names in old:
        op.drop_index(f"ix_{table}_{'_'.join(names)}", table)
    for table, columns in before.items():
        for name, other in columns.items():
            op.execute(f'ALTER TABLE {table} RENAME COLUMN "{name}" TO "{other}"')  # in place on both databases
    for table, names in new:
        op.create_index(f"ix_{table}_{'_'.join(names)}", table, names)

    machine, migration, phases = turned(MACHINE), turned(MIGRATION), turned(PHASE)
    member = turned({"move": "migration"}).popitem()[1]
    for sequence, row in read_rows(machines, "document"):
        document = _named(json.loads(row["document"]), machine)
        if (found := document.get(member)) is not None:
            document[member] = _named(found, migration)
            if (phase := found.get("phase")) is not None:
                document[member]["phase"] = phases.get(phase, phase)
        write_row(machines, sequence, document=document)
    for sequence, row in read_rows(clusters, "document"):
        document = json.loads(row["document"])
        if state := document.get("state"):
            document["state"] = json.dumps(_named(json.loads(state), turned(CLUSTER)), separators=(",", ":"))
            write_row(clusters, sequence, document=document)


def _named(document: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in document.items()}
