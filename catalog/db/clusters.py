"""Queries on cluster documents.

A document is opaque here: canonical JSON with a name, a version and a digest. Only sites interpret it.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select

from catalog.db.tables import clusters, newest_first


@dataclass(frozen=True)
class ClusterRow:
    """A published cluster document.

    Attributes:
        digest: `sha256:` and 64 hex digits, of the bytes.
        data: the bytes.
    """

    digest: str
    vo: str
    name: str
    version: str
    data: bytes
    published: datetime

    @property
    def title(self) -> str:
        """VO/name@version."""
        return f"{self.vo}/{self.name}@{self.version}"


def add_cluster(connection: Connection, row: ClusterRow) -> None:
    """Add a document, which makes it visible."""
    members = vars(row).copy()
    connection.execute(insert(clusters).values(document=members.pop("data"), **members))


def get_cluster(connection: Connection, digest: str) -> ClusterRow | None:
    """The document with that digest."""
    rows = _rows(connection, digest=digest)
    return rows[0][1] if rows else None


def find_cluster(connection: Connection, vo: str, name: str, version: str | None) -> ClusterRow | None:
    """The document of a name and version, or of the last published version of a name."""
    rows = _rows(connection, limit=1, vo=vo, name=name, version=version)
    return rows[0][1] if rows else None


def list_clusters(
    connection: Connection, vo: str | None, before: int | None, limit: int
) -> list[tuple[int, ClusterRow]]:
    """Up to `limit` documents, last published first, each with its sequence number; only those below `before`."""
    return _rows(connection, before, limit, vo=vo)


def all_clusters(connection: Connection) -> list[ClusterRow]:
    """All documents in the order of their publication."""
    return [row for _, row in reversed(_rows(connection))]


def _rows(
    connection: Connection, before: int | None = None, limit: int | None = None, **members: str | None
) -> list[tuple[int, ClusterRow]]:
    query = newest_first(select(clusters), clusters, before, limit, **members)
    return [
        (row.sequence, ClusterRow(row.digest, row.vo, row.name, row.version, row.document, row.published))
        for row in connection.execute(query)
    ]
