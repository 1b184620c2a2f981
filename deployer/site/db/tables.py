"""The site's tables, and nothing else. `migrations` brings a database to this shape; a test compares the two.

What is asked about often has a column and an index; all else of a machine or deployment is one document. The columns of
machines follow from the document alone (`db.machines.machine_columns`).
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

from catalog.db.tables import UtcDateTime

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

Uuid = String(36).with_variant(String(36, collation="C"), "postgresql")
"""In the order of its bytes, so that a prefix is a range on both databases."""

Name = String(255).with_variant(String(255, collation="C"), "postgresql")

nodes = Table(
    "nodes",
    metadata,
    Column("uuid", Uuid, primary_key=True),
    Column("name", Name, nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("draining", Boolean, nullable=False, default=False),
    Column("joined", UtcDateTime, nullable=False),
    Column("reported", UtcDateTime, nullable=True),
    Column("capacity", Text, nullable=False),
    Column("labels", Text, nullable=False),
    Column("architecture", String(32), nullable=False, default=""),
    Column("accelerator", String(64), nullable=False, default=""),
    Column("problem", Text, nullable=False, default=""),
    Column("revision", BigInteger, nullable=False, default=0),
    Column("seen", BigInteger, nullable=False, default=0),
    Column("contents", String(64), nullable=False),  # SHA-256 of the list of addresses in `cached`
    Column("lease", Integer, nullable=True),  # seconds that its machines run without contact to the site
    Column("migration_support", Text, nullable=False, default=""),  # as it reported, or empty
)

cached = Table(
    "cached",  # which contents are whole in which node's cache
    metadata,
    Column("address", String(96), primary_key=True),
    Column("node", ForeignKey("nodes.uuid"), primary_key=True),
    Index(None, "node"),
)

swarms = Table(
    "swarms",  # who feeds a node, as it last reported; apart from nodes, which every admission reads
    metadata,
    Column("node", ForeignKey("nodes.uuid"), primary_key=True),
    Column("document", Text, nullable=False),
)

join_tokens = Table(
    "join_tokens",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("expires", UtcDateTime, nullable=False),
    Column("used", UtcDateTime, nullable=True),
)

deployments = Table(
    "deployments",
    metadata,
    Column("sequence", Integer, primary_key=True),  # the order of admission
    Column("uuid", Uuid, nullable=False, unique=True),
    Column("owner", String(2100), nullable=False),
    Column("vo", String(63), nullable=False),
    Column("image_id", String(71), nullable=False),
    Column("cluster", Uuid, nullable=True),
    Column("document", Text, nullable=False),
    Column("placement_request", Text, nullable=False),  # what its machines' documents lack, to place one again
    Index(None, "owner", "sequence"),
    Index(None, "vo", "sequence"),
    Index(None, "image_id", "sequence"),
    Index(None, "cluster", "sequence"),
    sqlite_autoincrement=True,
)

orders = Table(
    "orders",  # idempotency: what a key of an owner's has asked for, and the answer
    metadata,
    Column("owner", String(2100), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("deployment", ForeignKey("deployments.uuid"), nullable=False),
)

machines = Table(
    "machines",
    metadata,
    Column("sequence", Integer, primary_key=True),  # the order of admission
    Column("uuid", Uuid, nullable=False, unique=True),
    Column("deployment", ForeignKey("deployments.uuid"), nullable=False),
    Column("node", ForeignKey("nodes.uuid"), nullable=True),
    Column("owner", String(2100), nullable=False),
    Column("vo", String(63), nullable=False),
    Column("image_id", String(71), nullable=False),
    Column("cluster", Uuid, nullable=True),
    Column("hostname", Name, nullable=False),
    Column("state", String(16), nullable=False),
    Column("desired", String(16), nullable=False),
    Column("expires", UtcDateTime, nullable=False),
    Column("warned", Boolean, nullable=False),
    Column("counts_for_quota", Boolean, nullable=False),  # it counts against its owner's quotas
    Column("reserved", Boolean, nullable=False),  # its node has it, or should, or may: capacity is kept for it there
    Column("finished", Boolean, nullable=False),  # it needs no check of its expiry any more
    Column("max_cores", Integer, nullable=False),
    Column("max_memory", BigInteger, nullable=False),
    Column("disk", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
    Column("other_node", Uuid, nullable=True),  # another node that has, or may come to have, something of it
    Index(None, "other_node"),
    Index(None, "deployment", "sequence"),
    Index(None, "node", "sequence"),
    Index(None, "owner", "sequence"),
    Index(None, "vo", "sequence"),
    Index(None, "image_id", "sequence"),
    Index(None, "cluster", "sequence"),
    Index(None, "state", "sequence"),
    Index(None, "hostname"),
    Index(None, "finished", "expires"),
    Index(None, "reserved", "node", "max_cores", "max_memory", "disk"),
    Index(None, "counts_for_quota", "owner", "max_cores", "max_memory"),
    Index(None, "counts_for_quota", "vo", "max_cores", "max_memory"),
    sqlite_autoincrement=True,
)

strays = Table(
    "strays",  # machines that a node reports and should not have; kept until it reports them no more, so that each has one event
    metadata,
    Column("node", ForeignKey("nodes.uuid"), primary_key=True),
    Column("machine", Uuid, primary_key=True),
)

clusters = Table(
    "clusters",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("uuid", Uuid, nullable=False, unique=True),
    Column("owner", String(2100), nullable=False),
    Column("vo", String(63), nullable=False),
    Column("name", Name, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("document", Text, nullable=False),
    Index(None, "owner", "sequence"),
    Index(None, "active", "sequence"),
    Index(None, "name"),
    sqlite_autoincrement=True,
)

events = Table(
    "events",  # numbered without a gap, in the order in which they become visible
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("subject", Uuid, nullable=False),
    Column("deployment", Uuid, nullable=True),
    Column("what", String(64), nullable=False),
    Column("reason", Text, nullable=False),
    Column("by", String(2100), nullable=False, server_default=""),  # who did it: an identity; empty for the site itself
    Index(None, "deployment", "number"),
    Index(None, "subject", "number"),
    Index(None, "by", "number"),
    Index(None, "at"),
)

secrets = Table(
    "secrets",  # the site's own: its CA's key, and what it signs with
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

contexts = Table(
    "contexts",  # of each machine that the context broker speaks with; of secrets and sessions, SHA-256
    metadata,
    Column("machine", Uuid, primary_key=True),
    Column("node", Uuid, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("secret", String(64), nullable=False),
    Column("used", UtcDateTime, nullable=True),
    Column("nonce", String(64), nullable=False),
    Column("session", String(64), nullable=False),
    Column("expires", UtcDateTime, nullable=True),
    Column("alarmed", UtcDateTime, nullable=True),
    Column("forget_after", UtcDateTime, nullable=False),  # when it may be forgotten
    Index(None, "forget_after"),
)

published = Table(
    "published",  # by guests, for their peers
    metadata,
    Column("machine", Uuid, primary_key=True),
    Column("key", String(64), primary_key=True),
    Column("value", LargeBinary, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)
