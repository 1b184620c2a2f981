"""The site's database: SQLite, or PostgreSQL by setting."""

from catalog.db.engine import Database, DatabaseKind, Transaction
from deployer.errors import SiteUnavailable
from deployer.site.db.migrations import MIGRATOR

__all__ = ["SITE", "SiteDatabase", "Transaction"]

SITE = DatabaseKind("site", MIGRATOR, SiteUnavailable, 0x7061727469746173)
"""The lock is "partitas"."""


class SiteDatabase(Database):
    """A site's database; its URL is as for `Database`."""

    def __init__(self, url: str) -> None:
        super().__init__(url, SITE)
