"""Database migrations (Alembic): from any earlier shape to the one in `catalog.db.tables`, inside one transaction."""

import logging
from pathlib import Path

from sqlalchemy import Connection, inspect, text

HEAD = "0006"
"""The newest revision; a test compares it with the scripts."""


def upgrade(connection: Connection) -> bool:
    """Bring the database to HEAD within the connection's transaction; returns whether anything was done."""
    if _revision(connection) == HEAD:
        return False
    # Imported only now: a service that starts on an up-to-date database, which is nearly always, does not pay for it.
    from alembic import command
    from alembic.config import Config

    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return True


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)
