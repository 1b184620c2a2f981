"""Where Alembic begins."""

from catalog.db.migrator import run_scripts

run_scripts()
