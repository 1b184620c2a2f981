"""Published cluster documents."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Upgrade to this revision."""
    op.create_table(
        "clusters",
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("vo", sa.String(64), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
        sa.Column("published", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_clusters"),
        sa.UniqueConstraint("digest", name="uq_clusters_digest"),
        sa.UniqueConstraint("vo", "name", "version", name="uq_clusters_vo_name_version"),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    """Downgrade to the previous revision."""
    op.drop_table("clusters")
