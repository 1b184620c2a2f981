"""Machines that go from one node to another: what a node says of that, and which other node has something of a machine."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

UUID = sa.String(36).with_variant(sa.String(36, collation="C"), "postgresql")


def upgrade() -> None:
    """Go to this revision."""
    op.add_column("nodes", sa.Column("movable", sa.Text, nullable=False, server_default=""))
    op.add_column("machines", sa.Column("beside", UUID, nullable=True))
    op.create_index("ix_machines_beside", "machines", ["beside"])


def downgrade() -> None:
    """Go back: a machine that is on its way to another node rests where it is."""
    op.drop_index("ix_machines_beside", "machines")
    with op.batch_alter_table("machines") as machines:
        machines.drop_column("beside")
    with op.batch_alter_table("nodes") as nodes:
        nodes.drop_column("movable")
