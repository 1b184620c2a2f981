"""Revocations; and room for the subjects of certificates where fingerprints stand."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Upgrade to this revision."""
    op.create_table(
        "revocations",
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("statement", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.Column("received", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_revocations"),
        sa.UniqueConstraint("digest", name="uq_revocations_digest"),
        sqlite_autoincrement=True,
    )
    _resize(40, 1024)


def downgrade() -> None:
    """Downgrade to the previous revision."""
    op.drop_table("revocations")
    _resize(1024, 40)


def _resize(before: int, after: int) -> None:
    for table in ("keys", "endorsements"):
        with op.batch_alter_table(table) as batch:
            batch.alter_column("fingerprint", existing_type=sa.String(before), type_=sa.String(after), nullable=False)
