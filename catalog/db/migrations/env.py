"""Alembic's environment."""

from catalog.db.migrator import run_scripts

run_scripts()
