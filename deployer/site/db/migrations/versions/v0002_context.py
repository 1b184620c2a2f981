"""What the context broker remembers: of each machine its contact, and what it published."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

UUID = sa.String(36).with_variant(sa.String(36, collation="C"), "postgresql")


def upgrade() -> None:
    """Go to this revision."""
    op.create_table(
        "contexts",
        sa.Column("machine", UUID, nullable=False),
        sa.Column("node", UUID, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("secret", sa.String(64), nullable=False),
        sa.Column("used", sa.DateTime, nullable=True),
        sa.Column("nonce", sa.String(64), nullable=False),
        sa.Column("session", sa.String(64), nullable=False),
        sa.Column("expires", sa.DateTime, nullable=True),
        sa.Column("alarmed", sa.DateTime, nullable=True),
        sa.Column("ends", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("machine", name="pk_contexts"),
    )
    op.create_index("ix_contexts_ends", "contexts", ["ends"])
    op.create_table(
        "published",
        sa.Column("machine", UUID, nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("machine", "key", name="pk_published"),
    )


def downgrade() -> None:
    """Go back: what guests published is forgotten."""
    op.drop_table("published")
    op.drop_table("contexts")
