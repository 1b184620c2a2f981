"""The story says who did what; what was told before has nobody's name. It can be asked by time."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Go to this revision."""
    op.add_column("events", sa.Column("by", sa.String(2100), nullable=False, server_default=""))
    op.create_index("ix_events_by_number", "events", ["by", "number"])
    op.create_index("ix_events_at", "events", ["at"])


def downgrade() -> None:
    """Go back: who did what is forgotten, but for the words of the reasons."""
    op.drop_index("ix_events_at", "events")
    op.drop_index("ix_events_by_number", "events")
    with op.batch_alter_table("events") as events:
        events.drop_column("by")
