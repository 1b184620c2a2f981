"""Rights: sites with their credentials, who may read what, and the catalog's own secrets."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Upgrade to this revision."""
    op.create_table(
        "sites",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("vos", sa.String, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("registered", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_sites"),
    )
    op.create_table(
        "restrictions",
        sa.Column("vo", sa.String(64), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("sites", sa.String, nullable=False),
        sa.Column("for_vos", sa.String, nullable=False),
        sa.Column("since", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("vo", "name", "version", name="pk_restrictions"),
    )
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_secrets"),
    )


def downgrade() -> None:
    """Downgrade to the previous revision."""
    for table in ("secrets", "restrictions", "sites"):
        op.drop_table(table)
