"""The migrations of the tables in `catalog.db.tables`."""

from pathlib import Path

from catalog.db.migrator import Migrator

HEAD = "0007"
"""The newest revision."""

MIGRATOR = Migrator(HEAD, Path(__file__).parent)
