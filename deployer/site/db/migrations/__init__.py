"""The shapes that the tables in `deployer.site.db.tables` have had."""

from pathlib import Path

from catalog.db.migrator import Migrator

HEAD = "0008"
"""The newest revision."""

MIGRATOR = Migrator(HEAD, Path(__file__).parent)
