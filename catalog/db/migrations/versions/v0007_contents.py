"""Tables are named for contents: `parts` of images become `image_contents`, `blobs` become `contents`."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Go to this revision."""
    op.drop_index("ix_parts_address", "parts")
    op.rename_table("parts", "image_contents")
    op.create_index("ix_image_contents_address", "image_contents", ["address"])
    op.rename_table("blobs", "contents")


def downgrade() -> None:
    """Go back to the revision before."""
    op.rename_table("contents", "blobs")
    op.drop_index("ix_image_contents_address", "image_contents")
    op.rename_table("image_contents", "parts")
    op.create_index("ix_parts_address", "parts", ["address"])
