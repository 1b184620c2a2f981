"""The shapes that the tables in `catalog.db.tables` have had."""

from pathlib import Path

from catalog.db.migrator import Migrator

HEAD = "0007"
"""The newest revision."""

MIGRATOR = Migrator(HEAD, Path(__file__).parent)
