"""Who feeds whom: of each node what it last reported."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

UUID = sa.String(36).with_variant(sa.String(36, collation="C"), "postgresql")


def upgrade() -> None:
    """Go to this revision."""
    op.create_table(
        "swarms",
        sa.Column("node", UUID, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["node"], ["nodes.uuid"], name="fk_swarms_node"),
        sa.PrimaryKeyConstraint("node", name="pk_swarms"),
    )


def downgrade() -> None:
    """Go back: nodes report it again."""
    op.drop_table("swarms")
