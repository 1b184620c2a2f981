"""The first shape of a site's database."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

UUID = sa.String(36).with_variant(sa.String(36, collation="C"), "postgresql")
NAME = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")
OWNER = sa.String(2100)


def upgrade() -> None:
    """Go to this revision."""
    _nodes()
    _deployments()
    _machines()
    _rest()


def _nodes() -> None:
    op.create_table(
        "nodes",
        sa.Column("uuid", UUID, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("draining", sa.Boolean, nullable=False),
        sa.Column("joined", sa.DateTime, nullable=False),
        sa.Column("reported", sa.DateTime, nullable=True),
        sa.Column("capacity", sa.Text, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("architecture", sa.String(32), nullable=False),
        sa.Column("accelerator", sa.String(64), nullable=False),
        sa.Column("problem", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("seen", sa.BigInteger, nullable=False),
        sa.Column("contents", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("uuid", name="pk_nodes"),
        sa.UniqueConstraint("name", name="uq_nodes_name"),
    )
    op.create_table(
        "cached",
        sa.Column("address", sa.String(96), nullable=False),
        sa.Column("node", UUID, nullable=False),
        sa.PrimaryKeyConstraint("address", "node", name="pk_cached"),
        sa.ForeignKeyConstraint(["node"], ["nodes.uuid"], name="fk_cached_node"),
    )
    op.create_index("ix_cached_node", "cached", ["node"])
    op.create_table(
        "strays",
        sa.Column("node", UUID, nullable=False),
        sa.Column("machine", UUID, nullable=False),
        sa.PrimaryKeyConstraint("node", "machine", name="pk_strays"),
        sa.ForeignKeyConstraint(["node"], ["nodes.uuid"], name="fk_strays_node"),
    )
    op.create_table(
        "join_tokens",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("expires", sa.DateTime, nullable=False),
        sa.Column("used", sa.DateTime, nullable=True),
        sa.PrimaryKeyConstraint("digest", name="pk_join_tokens"),
    )


def _deployments() -> None:
    op.create_table(
        "deployments",
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("uuid", UUID, nullable=False),
        sa.Column("owner", OWNER, nullable=False),
        sa.Column("vo", sa.String(63), nullable=False),
        sa.Column("image_id", sa.String(71), nullable=False),
        sa.Column("cluster", UUID, nullable=True),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("ask", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_deployments"),
        sa.UniqueConstraint("uuid", name="uq_deployments_uuid"),
        sqlite_autoincrement=True,
    )
    for column in ("owner", "vo", "image_id", "cluster"):
        op.create_index(f"ix_deployments_{column}_sequence", "deployments", [column, "sequence"])
    op.create_table(
        "orders",
        sa.Column("owner", OWNER, nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("deployment", UUID, nullable=False),
        sa.PrimaryKeyConstraint("owner", "key", name="pk_orders"),
        sa.ForeignKeyConstraint(["deployment"], ["deployments.uuid"], name="fk_orders_deployment"),
    )


def _machines() -> None:
    op.create_table(
        "machines",
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("uuid", UUID, nullable=False),
        sa.Column("deployment", UUID, nullable=False),
        sa.Column("node", UUID, nullable=True),
        sa.Column("owner", OWNER, nullable=False),
        sa.Column("vo", sa.String(63), nullable=False),
        sa.Column("image_id", sa.String(71), nullable=False),
        sa.Column("cluster", UUID, nullable=True),
        sa.Column("hostname", NAME, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("want", sa.String(16), nullable=False),
        sa.Column("ends", sa.DateTime, nullable=False),
        sa.Column("warned", sa.Boolean, nullable=False),
        sa.Column("holds", sa.Boolean, nullable=False),
        sa.Column("told", sa.Boolean, nullable=False),
        sa.Column("over", sa.Boolean, nullable=False),
        sa.Column("cores", sa.Integer, nullable=False),
        sa.Column("memory", sa.BigInteger, nullable=False),
        sa.Column("disk", sa.BigInteger, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_machines"),
        sa.UniqueConstraint("uuid", name="uq_machines_uuid"),
        sa.ForeignKeyConstraint(["deployment"], ["deployments.uuid"], name="fk_machines_deployment"),
        sa.ForeignKeyConstraint(["node"], ["nodes.uuid"], name="fk_machines_node"),
        sqlite_autoincrement=True,
    )
    for columns in (
        *([name, "sequence"] for name in ("deployment", "node", "owner", "vo", "image_id", "cluster", "state")),
        ["hostname"],
        ["over", "ends"],
        ["told", "node", "cores", "memory", "disk"],
        ["holds", "owner", "cores", "memory"],
        ["holds", "vo", "cores", "memory"],
    ):
        op.create_index(f"ix_machines_{'_'.join(columns)}", "machines", columns)


def _rest() -> None:
    op.create_table(
        "clusters",
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("uuid", UUID, nullable=False),
        sa.Column("owner", OWNER, nullable=False),
        sa.Column("vo", sa.String(63), nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_clusters"),
        sa.UniqueConstraint("uuid", name="uq_clusters_uuid"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_clusters_owner_sequence", "clusters", ["owner", "sequence"])
    op.create_index("ix_clusters_active_sequence", "clusters", ["active", "sequence"])
    op.create_index("ix_clusters_name", "clusters", ["name"])
    op.create_table(
        "events",
        sa.Column("number", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("subject", UUID, nullable=False),
        sa.Column("deployment", UUID, nullable=True),
        sa.Column("what", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_events"),
    )
    op.create_index("ix_events_deployment_number", "events", ["deployment", "number"])
    op.create_index("ix_events_subject_number", "events", ["subject", "number"])
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_secrets"),
    )


def downgrade() -> None:
    """Go back to nothing."""
    for table in (
        "secrets",
        "events",
        "clusters",
        "machines",
        "orders",
        "deployments",
        "join_tokens",
        "strays",
        "cached",
        "nodes",
    ):
        op.drop_table(table)
