"""An INSERT that leaves a row alone which is there already, in the words of each database."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Insert, Table
from sqlalchemy.dialects import mysql, postgresql, sqlite


def insert_unless(table: Table, **conflict: Any) -> Mapping[str, Insert]:
    """Build it for each dialect, by name; how many rows it inserted is told alike by none.

    MySQL's INSERT IGNORE would ignore all else that is wrong with a row, too. What it says here
    locks the place before the row as well, and two that wait for a third are a deadlock when that
    rolls back: not for what apps write in their own transactions.
    """
    first = next(iter(table.primary_key))
    same = mysql.insert(table).on_duplicate_key_update({first.name: first})
    return {
        "sqlite": sqlite.insert(table).on_conflict_do_nothing(**conflict),
        "postgresql": postgresql.insert(table).on_conflict_do_nothing(**conflict),
        "mysql": same,
        "mariadb": same,
    }
