"""The schema's way from version to version, by Alembic; expand first, contract later.

``migrate`` is what ``flask outbox upgrade`` and the first use of an older SQLite file call.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection


def config(connection: Connection | None = None, schema: str | None = None) -> Config:
    """Give Alembic our scripts, and the connection to use."""
    found = Config()
    found.set_main_option("script_location", str(Path(__file__).parent))
    found.attributes["connection"] = connection
    found.attributes["schema"] = schema
    return found


def migrate(connection: Connection, to: str = "head", schema: str | None = None) -> None:
    """Bring the tables to a version, in the transaction of the connection."""
    command.upgrade(config(connection, schema), to)
