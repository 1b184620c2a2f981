"""The first shape: VOs and keys, images and their endorsements, publications, blobs, received ranges."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Upgrade to this revision."""
    op.create_table(
        "vos",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("registered", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_vos"),
    )
    op.create_table(
        "keys",
        sa.Column("vo", sa.String(64), nullable=False),
        sa.Column("fingerprint", sa.String(40), nullable=False),
        sa.Column("role", sa.String(64), nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("registered", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("vo", "fingerprint", name="pk_keys"),
        sa.ForeignKeyConstraint(["vo"], ["vos.name"], name="fk_keys_vo"),
    )
    op.create_table(
        "images",
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("image_id", sa.String(71), nullable=False),
        sa.Column("vo", sa.String(64), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("architecture", sa.String(32), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("manifest", sa.LargeBinary, nullable=False),
        sa.Column("published", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_images"),
        sa.UniqueConstraint("image_id", name="uq_images_image_id"),
        sa.UniqueConstraint("vo", "name", "version", name="uq_images_vo_name_version"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "publications",
        sa.Column("image_id", sa.String(71), nullable=False),
        sa.Column("manifest", sa.LargeBinary, nullable=False),
        sa.Column("expires", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("image_id", name="pk_publications"),
    )
    op.create_table(
        "endorsements",
        sa.Column("image_id", sa.String(71), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("fingerprint", sa.String(40), nullable=False),
        sa.Column("statement", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.Column("received", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("image_id", "digest", name="pk_endorsements"),
    )
    op.create_table(
        "parts",
        sa.Column("image_id", sa.String(71), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("address", sa.String(80), nullable=False),
        sa.PrimaryKeyConstraint("image_id", "position", name="pk_parts"),
    )
    op.create_index("ix_parts_address", "parts", ["address"])
    op.create_table(
        "blobs",
        sa.Column("address", sa.String(80), nullable=False),
        sa.Column("data_bytes", sa.BigInteger, nullable=False),
        sa.Column("verified", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("address", name="pk_blobs"),
    )
    op.create_table(
        "received",
        sa.Column("image_id", sa.String(71), nullable=False),
        sa.Column("address", sa.String(80), nullable=False),
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("end", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("image_id", "address", "start", name="pk_received"),
    )


def downgrade() -> None:
    """Go back to an empty database."""
    for table in ("received", "blobs", "parts", "endorsements", "publications", "images", "keys", "vos"):
        op.drop_table(table)
