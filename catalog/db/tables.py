"""The catalog's tables. `migrations` brings a database to this schema; a test compares the two."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
)

from catalog.image.address import Address

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware UTC datetime. SQLite stores no time zone; UTC is added on reading."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """To the database."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """From the database."""
        return None if value is None else value.replace(tzinfo=UTC)


class AddressText(TypeDecorator[Address]):
    """An Address in its text form."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: Address | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's signature
        """To the database."""
        return None if value is None else str(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Address | None:  # noqa: ARG002 - SQLAlchemy's signature
        """From the database."""
        return None if value is None else Address.parse(value)


vos = Table(
    "vos",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("registered", UtcDateTime, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("vo", ForeignKey("vos.name"), primary_key=True),
    Column("fingerprint", String(1024), primary_key=True),
    Column("role", String(64), nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("registered", UtcDateTime, nullable=False),
)

images = Table(
    "images",
    metadata,
    Column("sequence", Integer, primary_key=True),  # the order of publication; never used again
    Column("image_id", String(71), nullable=False, unique=True),
    Column("vo", String(64), nullable=False),
    Column("name", String(128), nullable=False),
    Column("version", String(64), nullable=False),
    Column("architecture", String(32), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("manifest", LargeBinary, nullable=False),
    Column("published", UtcDateTime, nullable=False),
    UniqueConstraint("vo", "name", "version"),
    Index(None, "vo", "name", "sequence"),  # the newest of a name, however many versions it has
    sqlite_autoincrement=True,
)

clusters = Table(
    "clusters",  # published cluster documents; their endorsements are kept beside those of images
    metadata,
    Column("sequence", Integer, primary_key=True),  # the order of publication; never used again
    Column("digest", String(71), nullable=False, unique=True),
    Column("vo", String(64), nullable=False),
    Column("name", String(128), nullable=False),
    Column("version", String(64), nullable=False),
    Column("document", LargeBinary, nullable=False),
    Column("published", UtcDateTime, nullable=False),
    UniqueConstraint("vo", "name", "version"),
    sqlite_autoincrement=True,
)

publications = Table(
    "publications",
    metadata,
    Column("image_id", String(71), primary_key=True),
    Column("manifest", LargeBinary, nullable=False),
    Column("expires", UtcDateTime, nullable=False),
)

endorsements = Table(
    "endorsements",
    metadata,
    Column("image_id", String(71), primary_key=True),
    Column("digest", String(64), primary_key=True),  # SHA-256 of statement and signature
    Column("fingerprint", String(1024), nullable=False),
    Column("statement", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("received", UtcDateTime, nullable=False),
)

image_contents = Table(
    "image_contents",  # which contents an image, pending or published, consists of
    metadata,
    Column("image_id", String(71), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("address", AddressText(80), nullable=False),
    Index(None, "address"),
)

contents = Table(
    "contents",  # contents that are here, verified
    metadata,
    Column("address", AddressText(80), primary_key=True),
    Column("data_bytes", BigInteger, nullable=False),
    Column("verified", UtcDateTime, nullable=False),
)

received = Table(
    "received",  # ranges of uploads that are safely stored: apart from each other, end exclusive
    metadata,
    Column("image_id", String(71), primary_key=True),
    Column("address", AddressText(80), primary_key=True),
    Column("start", BigInteger, primary_key=True),
    Column("end", BigInteger, nullable=False),
)

tuf_epochs = Table(
    "tuf_epochs",  # the hash bins as they were last laid out: bins that hold nothing are made of this when asked for
    metadata,
    Column("epoch", Integer, primary_key=True),
    Column("bits", Integer, nullable=False),
    Column("begun", UtcDateTime, nullable=False),
)

tuf_metadata = Table(
    "tuf_metadata",  # signed metadata, byte for byte as served
    metadata,
    Column("role", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("data", LargeBinary, nullable=False),
    Column("made", UtcDateTime, nullable=False),
    Column("expires", UtcDateTime, nullable=False),
)

tuf_targets = Table(
    "tuf_targets",  # what the metadata lists, and for a while what it listed before
    metadata,
    Column("path", String(400), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("bin", Integer, nullable=False),
    Column("length", Integer, nullable=False),
    Column("data", LargeBinary, nullable=True),  # none for manifests, which `images` has
    Column("replaced", UtcDateTime, nullable=True),
    Index(None, "bin"),
)

sites = Table(
    "sites",  # resource providers whose nodes may show a credential; of its secret, the SHA-256
    metadata,
    Column("name", String(63), primary_key=True),
    Column("vos", String, nullable=False),  # a JSON list: the VOs whose members it serves
    Column("digest", String(64), nullable=False),
    Column("registered", UtcDateTime, nullable=False),
)

restrictions = Table(
    "restrictions",  # who may read what; an empty name or version stands for all
    metadata,
    Column("vo", String(64), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("version", String(64), primary_key=True),
    Column("sites", String, nullable=False),  # JSON lists
    Column("for_vos", String, nullable=False),
    Column("since", UtcDateTime, nullable=False),
)

secrets = Table(
    "secrets",  # the catalog's own: of announce keys, and of the certificates of restricted swarms
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

revocations = Table(
    "revocations",  # in the order in which they came; none is ever removed
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),  # SHA-256 of statement and signature
    Column("statement", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("received", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,
)


def newest_first(
    query: Select[Any], table: Table, before: int | None = None, limit: int | None = None, **members: str | None
) -> Select[Any]:
    """A query on a table with a sequence, last published first.

    Args:
        query: of rows of the table.
        before: only rows with a lower sequence number.
        limit: number of rows, at most.
        members: the values of columns; None for any.
    """
    conditions = [table.c[name] == value for name, value in members.items() if value is not None]
    if before is not None:
        conditions.append(table.c.sequence < before)
    return query.where(*conditions).order_by(table.c.sequence.desc()).limit(limit)
