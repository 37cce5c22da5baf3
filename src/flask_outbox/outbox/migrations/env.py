"""Alembic runs this: our tables, our version table, the caller's transaction."""

from alembic import context

from flask_outbox.outbox.tables import VERSION_TABLE, metadata

connection = context.config.attributes["connection"]
schema = context.config.attributes["schema"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    version_table_schema=schema,
    render_as_batch=True,  # SQLite changes a table by making it anew
)
if schema is not None:  # ALTER TABLE would look for our tables among the app's
    connection.exec_driver_sql(f'SET LOCAL search_path TO "{schema}"')
with context.begin_transaction():
    context.run_migrations()
