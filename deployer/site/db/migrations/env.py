"""How Alembic runs the scripts: on the connection, and in the transaction, that `upgrade` was given."""

from alembic import context

from deployer.site.db.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter most of a table in place
)
context.run_migrations()
