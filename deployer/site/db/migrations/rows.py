"""Stored documents as migrations read and write them: JSON values, a bounded number of rows at a time."""

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

ROWS = 500
"""Documents that are held at once."""


def read_rows(table: sa.TableClause, *names: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """All rows by their sequence, some at a time."""
    query = sa.select(table.c.sequence, *(table.c[name] for name in names)).order_by(table.c.sequence).limit(ROWS)
    after = -1
    while found := op.get_bind().execute(query.where(table.c.sequence > after)).mappings().all():
        for row in found:
            yield row["sequence"], dict(row)
        after = found[-1]["sequence"]


def write_row(table: sa.TableClause, sequence: int, **documents: Any) -> None:
    """Replace some documents of a row."""
    values = {name: json.dumps(document, separators=(",", ":")) for name, document in documents.items()}
    op.get_bind().execute(sa.update(table).where(table.c.sequence == sequence).values(values))
