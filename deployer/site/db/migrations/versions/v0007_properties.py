"""A machine's ceiling is called `max_memory` and `max_cores`, it `expires`, and its document has all that was settled about it.

Until now the columns `memory` and `cores`, and the same members of what a deployment asked placement for, meant the
ceiling, which documents called `granted_memory` and `granted_cores`. Blanks and `verify` stood in the deployment alone. When
machines, deployments and clusters expire was called `ends`.
"""

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

from deployer.site.db.migrations.rows import read_rows, write_row

revision = "0007"
down_revision = "0006"

COLUMNS = {"cores": "max_cores", "memory": "max_memory", "ends": "expires"}
INDEXES = (
    ("told", "node", "cores", "memory", "disk"),
    ("holds", "owner", "cores", "memory"),
    ("holds", "vo", "cores", "memory"),
    ("over", "ends"),
)
MEMBERS = {"granted_memory": "max_memory", "granted_cores": "max_cores", "ends": "expires"}

machines = sa.table("machines", *map(sa.column, ("sequence", "deployment", "document")))
deployments = sa.table("deployments", *map(sa.column, ("sequence", "uuid", "document", "ask")))
clusters = sa.table("clusters", *map(sa.column, ("sequence", "document")))


def upgrade() -> None:
    """Go to this revision."""
    _rename_columns(COLUMNS)
    options: dict[str, dict[str, Any]] = {}
    for sequence, row in read_rows(deployments, "uuid", "document", "ask"):
        deployment, ask = json.loads(row["document"]), json.loads(row["ask"])
        request = deployment["request"]
        options[row["uuid"]] = {name: request[name] for name in ("blanks", "verify") if name in request}
        kept = {name: ask[name] for name in ("architecture", "most", "addresses")}
        write_row(deployments, sequence, document=_renamed(deployment, MEMBERS), ask=kept)
    for sequence, row in read_rows(machines, "deployment", "document"):
        machine = _renamed(json.loads(row["document"]), MEMBERS)
        write_row(machines, sequence, document=machine | options[row["deployment"]])
    _rename_in_clusters(MEMBERS)


def downgrade() -> None:
    """Go back. What a deployment asked for is taken from one of its machines."""
    members = {new: old for old, new in MEMBERS.items()}
    ceilings: dict[str, dict[str, Any]] = {}
    for sequence, row in read_rows(machines, "deployment", "document"):
        machine = _renamed(json.loads(row["document"]), members)
        ceilings[row["deployment"]] = {
            "memory": machine["granted_memory"],
            "cores": machine["granted_cores"],
            "disk": machine["disk"],
        }
        kept = {name: value for name, value in machine.items() if name not in {"blanks", "verify", "description"}}
        write_row(machines, sequence, document=kept)
    for sequence, row in read_rows(deployments, "uuid", "document", "ask"):
        deployment, ask = _renamed(json.loads(row["document"]), members), json.loads(row["ask"])
        deployment["request"].pop("description", None)
        write_row(deployments, sequence, document=deployment, ask=ask | ceilings[row["uuid"]])
    _rename_in_clusters(members)
    _rename_columns({new: old for old, new in COLUMNS.items()})


def _rename_columns(names: Mapping[str, str]) -> None:
    old = {index: index if "ends" in names else tuple(COLUMNS.get(name, name) for name in index) for index in INDEXES}
    for columns in old.values():
        op.drop_index(f"ix_machines_{'_'.join(columns)}", "machines")
    for before, after in names.items():
        op.execute(f"ALTER TABLE machines RENAME COLUMN {before} TO {after}")  # in place on both databases
    for columns in old.values():
        new = [names.get(name, name) for name in columns]
        op.create_index(f"ix_machines_{'_'.join(new)}", "machines", new)


def _rename_in_clusters(names: Mapping[str, str]) -> None:
    """A cluster's state is a document within its document."""
    for sequence, row in read_rows(clusters, "document"):
        cluster = json.loads(row["document"])
        cluster["state"] = json.dumps(_renamed(json.loads(cluster["state"]), names), separators=(",", ":"))
        write_row(clusters, sequence, document=cluster)


def _renamed(document: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in document.items()}
