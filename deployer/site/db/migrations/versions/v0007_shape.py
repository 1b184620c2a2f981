"""The ceiling of a machine is called `max_memory` and `max_cores`, and its document has all that was settled about it.

Until now the columns `memory` and `cores`, and the same members of what a deployment asked placement for, meant the
ceiling, which documents called `granted_memory` and `granted_cores`. Blanks and `verify` stood in the deployment alone.
"""

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

ROWS = 500
"""Documents that are held at once."""

INDEXES = (
    ("told", "node", "{}cores", "{}memory", "disk"),
    *(("holds", who, "{}cores", "{}memory") for who in ("owner", "vo")),
)

machines = sa.table("machines", *map(sa.column, ("sequence", "deployment", "document")))
deployments = sa.table("deployments", *map(sa.column, ("sequence", "uuid", "document", "ask")))


def upgrade() -> None:
    """Go to this revision."""
    _rename("", "max_")
    options: dict[str, dict[str, Any]] = {}
    for sequence, row in _rows(deployments, "uuid", "document", "ask"):
        request, ask = json.loads(row["document"])["request"], json.loads(row["ask"])
        options[row["uuid"]] = {name: request[name] for name in ("blanks", "verify") if name in request}
        _write(deployments, sequence, ask={name: ask[name] for name in ("architecture", "most", "addresses")})
    for sequence, row in _rows(machines, "deployment", "document"):
        machine = json.loads(row["document"])
        for name in ("memory", "cores"):
            machine[f"max_{name}"] = machine.pop(f"granted_{name}")
        _write(machines, sequence, document=machine | options[row["deployment"]])


def downgrade() -> None:
    """Go back. What a deployment asked for is taken from one of its machines."""
    ceilings: dict[str, dict[str, Any]] = {}
    for sequence, row in _rows(machines, "deployment", "document"):
        machine = json.loads(row["document"])
        for name in ("memory", "cores"):
            machine[f"granted_{name}"] = machine.pop(f"max_{name}")
        ceilings[row["deployment"]] = {
            "memory": machine["granted_memory"],
            "cores": machine["granted_cores"],
            "disk": machine["disk"],
        }
        for name in ("blanks", "verify"):
            machine.pop(name, None)
        _write(machines, sequence, document=machine)
    for sequence, row in _rows(deployments, "uuid", "ask"):
        _write(deployments, sequence, ask=json.loads(row["ask"]) | ceilings[row["uuid"]])
    _rename("max_", "")


def _rename(before: str, after: str) -> None:
    for columns in INDEXES:
        op.drop_index(_index(columns, before), "machines")
    for name in ("cores", "memory"):
        op.execute(f"ALTER TABLE machines RENAME COLUMN {before}{name} TO {after}{name}")  # in place on both databases
    for columns in INDEXES:
        op.create_index(_index(columns, after), "machines", [column.format(after) for column in columns])


def _index(columns: tuple[str, ...], prefix: str) -> str:
    return f"ix_machines_{'_'.join(column.format(prefix) for column in columns)}"


def _rows(table: sa.TableClause, *names: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """All rows by their sequence, some at a time."""
    query = sa.select(table.c.sequence, *(table.c[name] for name in names)).order_by(table.c.sequence).limit(ROWS)
    after = -1
    while found := op.get_bind().execute(query.where(table.c.sequence > after)).mappings().all():
        for row in found:
            yield row["sequence"], dict(row)
        after = found[-1]["sequence"]


def _write(table: sa.TableClause, sequence: int, **documents: Any) -> None:
    values = {name: json.dumps(document, separators=(",", ":")) for name, document in documents.items()}
    op.get_bind().execute(sa.update(table).where(table.c.sequence == sequence).values(values))
