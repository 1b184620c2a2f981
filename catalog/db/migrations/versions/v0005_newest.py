"""The newest version of a name is found without reading all of them."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision."""
    op.create_index("ix_images_vo_name_sequence", "images", ["vo", "name", "sequence"])


def downgrade() -> None:
    """Go back to the revision before."""
    op.drop_index("ix_images_vo_name_sequence", "images")
