"""Whether a database has the tables that this code was written for, and how it gets them.

A new database is made from the tables as they are; an old one is migrated. Both come to the same,
which a test holds. Alembic is imported only for the second.

A revision takes nothing away that the one before it used, so code of one revision works with the
schema of the next: workers may be replaced one by one while the schema is ahead.
"""

from typing import TYPE_CHECKING

from sqlalchemy import Connection, insert, inspect, select
from sqlalchemy.schema import CreateSchema

from flask_outbox.mail.errors import OutboxUnavailable
from flask_outbox.mail.say import Say
from flask_outbox.outbox.tables import REVISION, VERSION_TABLE, metadata, schema_version

if TYPE_CHECKING:
    from flask_outbox.outbox.kinds import Database

log = Say("flask_outbox.outbox")

UPGRADE = "flask outbox upgrade"
APPS = "flask db upgrade"  # who keeps our tables among its own


def version(connection: Connection, schema: str | None = None) -> str | None:
    """Read the version of the schema; None where there is none yet, "" before the first."""
    if not inspect(connection).has_table(VERSION_TABLE, schema=schema):
        return None
    return connection.execute(select(schema_version.c.version_num)).scalar_one_or_none() or ""


def is_current(connection: Connection, database: "Database") -> bool:
    """Tell whether this code can work with it.

    Raises OutboxUnavailable where it is too new, or the app's own migrations have to come first.
    """
    if database.keeper == APPS:
        if lacking := missing(connection, database.schema):
            raise OutboxUnavailable(
                f"The outbox {database} has no {', '.join(lacking)}, and its tables are kept by the"
                f" migrations of your app: make one with `flask db migrate`, and run `{APPS}`."
            )
        return True
    found = version(connection, database.schema)
    if found is not None and found > _next(REVISION):
        raise OutboxUnavailable(
            f"The outbox {database} has schema {found}, made by a newer Flask-Outbox; this one "
            f"knows {REVISION}. Install the version that ran `{UPGRADE}` on it."
        )
    return found is not None and found >= REVISION


def _next(revision: str) -> str:
    return f"{int(revision) + 1:04}"


def missing(connection: Connection, schema: str | None = None) -> list[str]:
    """List the tables and columns that are not there, among those of the app."""
    inspector = inspect(connection)
    there = set(inspector.get_table_names(schema))
    found: list[str] = []
    for table in metadata.sorted_tables:
        if table.name == VERSION_TABLE:
            continue
        if table.name not in there:
            found.append(table.name)
            continue
        columns = {each["name"] for each in inspector.get_columns(table.name, schema)}
        found += [f"{table.name}.{each}" for each in table.c.keys() if each not in columns]  # noqa: SIM118  not a dict
    return found


def must_be_current(database: "Database") -> None:
    """Stop the start where the schema is changed by a command alone."""
    if database.keeper:
        raise OutboxUnavailable(
            f"The outbox {database} is not at schema {REVISION}: run `{database.keeper}`."
        )


def brought_up_to_date(connection: Connection, database: "Database") -> None:
    """Make or migrate the tables, in the transaction of the connection.

    Looks again first: another process may have done it while this one waited for the lock.
    """
    schema = database.schema
    if database.keeper == APPS and is_current(connection, database):
        return
    if schema is not None and not inspect(connection).has_schema(schema):
        connection.execute(CreateSchema(schema, if_not_exists=True))
    found = version(connection, schema)
    if found == REVISION or (found is not None and is_current(connection, database)):
        return
    if found is None or (not found and not missing(connection, schema)):  # all but the version
        metadata.create_all(connection)
        for table in metadata.sorted_tables:  # where each step is committed, one may have been last
            for index in table.indexes:
                index.create(connection, checkfirst=True)
        connection.execute(insert(schema_version), {"version_num": REVISION})
    else:
        from flask_outbox.outbox.migrations import migrate  # noqa: PLC0415  Alembic, only now

        migrate(connection, schema=schema)
        log.info("The outbox %s was brought to schema %s.", database, REVISION)
