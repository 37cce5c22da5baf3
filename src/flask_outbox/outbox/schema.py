"""Whether a database has the tables that this code was written for, and how it gets them.

A new database is made from the tables as they are; an old one is migrated. Both come to the same,
which a test holds. Alembic is imported only for the second.
"""

from sqlalchemy import Connection, insert, inspect, select

from flask_outbox.mail.errors import OutboxUnavailable
from flask_outbox.mail.say import Say
from flask_outbox.outbox.sqlite import Sqlite
from flask_outbox.outbox.tables import REVISION, VERSION_TABLE, metadata, schema_version

log = Say("flask_outbox.outbox")


def version(connection: Connection) -> str | None:
    """Read the version of the schema; None where there is none yet, "" before the first."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(select(schema_version.c.version_num)).scalar_one_or_none() or ""


def is_current(connection: Connection, database: Sqlite) -> bool:
    """Tell whether the schema is ours; raises OutboxUnavailable where it is newer."""
    found = version(connection)
    if found is not None and found > REVISION:
        raise OutboxUnavailable(
            f"The outbox {database} has schema {found}, made by a newer Flask-Outbox; this one "
            f"knows {REVISION}. Install the version that ran `flask outbox upgrade` on it."
        )
    return found == REVISION


def must_be_current(database: Sqlite) -> None:
    """Stop the start where the schema is kept by somebody: a server, or the app's migrations."""
    if not database.migrates_itself:
        raise OutboxUnavailable(
            f"The outbox {database} is not at schema {REVISION}: run `flask outbox upgrade`."
        )


def brought_up_to_date(connection: Connection, database: Sqlite) -> None:
    """Make or migrate the tables, in the transaction of the connection.

    Looks again first: another process may have done it while this one waited for the lock.
    """
    if is_current(connection, database):
        return
    if version(connection) is None:
        metadata.create_all(connection)
        connection.execute(insert(schema_version), {"version_num": REVISION})
    else:
        from flask_outbox.outbox.migrations import migrate  # noqa: PLC0415  Alembic, only now

        migrate(connection)
        log.info("The outbox %s was brought to schema %s.", database, REVISION)
