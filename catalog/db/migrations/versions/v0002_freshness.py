"""Freshness: the TUF metadata that the catalog publishes, and the targets that it lists."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Upgrade to this revision."""
    op.create_table(
        "tuf_epochs",
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("bits", sa.Integer, nullable=False),
        sa.Column("begun", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("epoch", name="pk_tuf_epochs"),
    )
    op.create_table(
        "tuf_metadata",
        sa.Column("role", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("made", sa.DateTime, nullable=False),
        sa.Column("expires", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("role", "version", name="pk_tuf_metadata"),
    )
    op.create_table(
        "tuf_targets",
        sa.Column("path", sa.String(400), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("bin", sa.Integer, nullable=False),
        sa.Column("length", sa.Integer, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=True),
        sa.Column("replaced", sa.DateTime, nullable=True),
        sa.PrimaryKeyConstraint("path", "digest", name="pk_tuf_targets"),
    )
    op.create_index("ix_tuf_targets_bin", "tuf_targets", ["bin"])


def downgrade() -> None:
    """Downgrade to the previous revision."""
    for table in ("tuf_targets", "tuf_metadata", "tuf_epochs"):
        op.drop_table(table)
