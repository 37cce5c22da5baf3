"""Steps of a revision, each left out where it was taken before.

MariaDB and MySQL commit each of them, so a revision that was broken off begins again with some of
them done. Elsewhere all of it is one transaction, and nothing is looked for.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op


def add_column(table: str, column: "sa.Column[Any]") -> None:
    """Add it."""
    there = _there()
    if there is None or not any(each["name"] == column.name for each in there.get_columns(table)):
        op.add_column(table, column)


def create_table(table: str, *parts: Any, **options: Any) -> None:
    """Make it."""
    there = _there()
    if there is None or not there.has_table(table):
        op.create_table(table, *parts, **options)


def create_index(name: str, table: str, columns: list[str], **options: Any) -> None:
    """Make it."""
    there = _there()
    if there is None or not there.has_index(table, name):
        op.create_index(name, table, columns, **options)


def drop_index(name: str, table: str) -> None:
    """Take it away."""
    there = _there()
    if there is None or there.has_index(table, name):
        op.drop_index(name, table)


def _there() -> sa.Inspector | None:
    """Give what is there, looked at anew; None where nothing has to be looked for."""
    context = op.get_context()
    if context.dialect.name not in {"mysql", "mariadb"} or context.as_sql:
        return None
    return sa.inspect(op.get_bind())
