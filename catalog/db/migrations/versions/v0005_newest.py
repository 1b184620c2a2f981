"""The newest version of a name is found without reading all of them."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Upgrade to this revision."""
    op.create_index("ix_images_vo_name_sequence", "images", ["vo", "name", "sequence"])


def downgrade() -> None:
    """Downgrade to the previous revision."""
    op.drop_index("ix_images_vo_name_sequence", "images")
