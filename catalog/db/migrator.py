"""Database migrations (Alembic): from any earlier schema to the newest, inside one transaction."""

import logging
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, inspect, text


@dataclass(frozen=True)
class Migrator:
    """The migrations of one kind of database.

    Attributes:
        head: the newest revision, four digits; a test compares it with the scripts.
        scripts: the directory of `env.py` and `versions`.
    """

    head: str
    scripts: Path

    def upgrade(self, connection: Connection) -> bool:
        """Upgrade the database to `head` within the connection's transaction; returns whether it was changed."""
        if self.revision(connection) == self.head:
            return False
        # Imported only here, as services nearly always start on an up-to-date database.
        from alembic import command
        from alembic.config import Config

        logging.getLogger("alembic").setLevel(logging.WARNING)
        config = Config()
        config.set_main_option("script_location", str(self.scripts).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return True

    def revision(self, connection: Connection) -> str | None:
        """The revision of the database; None for an empty one."""
        if not inspect(connection).has_table("alembic_version"):
            return None
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        return None if found is None else str(found)


def run_scripts() -> None:
    """Run the scripts, as `env.py`, on the connection and in the transaction of `upgrade`."""
    from alembic import context

    # Batches: SQLite cannot alter most of a table in place.
    context.configure(connection=context.config.attributes["connection"], render_as_batch=True)
    context.run_migrations()
