"""How long each node's machines run without the site: what the node has said."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Go to this revision: nobody has promised anything yet."""
    op.add_column("nodes", sa.Column("lease", sa.Integer, nullable=True))


def downgrade() -> None:
    """Go back: promises are forgotten."""
    op.drop_column("nodes", "lease")
