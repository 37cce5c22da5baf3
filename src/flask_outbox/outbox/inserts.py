"""INSERTs of whole messages, compiled once for each dialect and run by the driver itself.

The same statements as SQLAlchemy would run, without what ``Connection.execute`` does around them
each time, and with what is the same of every new message in their text; on PostgreSQL all of a
message in one, since there each costs a round trip (docs/decisions/0209).
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Insert,
    Table,
    bindparam,
    false,
    insert,
    literal_column,
)

from flask_outbox.mail.lifecycle import State
from flask_outbox.outbox.tables import content, message, recipient

Row = Mapping[str, Any]
AT_ONCE = 10  # recipients in one statement with their message

_NOTHING: ColumnElement[Any] = literal_column("''")
_NONE: ColumnElement[Any] = literal_column("0")
_IS_QUEUED: ColumnElement[Any] = literal_column(f"'{State.QUEUED.value}'")

# What is the same of every new message.
NEW_MESSAGE: Mapping[str, Any] = {
    "state": _IS_QUEUED,
    "route": _NOTHING,
    "worker": _NOTHING,
    "attempts": _NONE,
    "crashes": _NONE,
    "alone": false(),
    "unclear": false(),
    "reason": _NOTHING,
}
_NEW_RECIPIENT: Mapping[str, Any] = {
    "state": _IS_QUEUED,
    "attempts": _NONE,
    "unclear": _NONE,
    "reply": _NOTHING,
    "reference": _NOTHING,
}
_NEW: Mapping[str, Mapping[str, Any]] = {
    message.name: NEW_MESSAGE,
    recipient.name: _NEW_RECIPIENT,
    content.name: {},
}

_texts: dict[tuple[object, ...], tuple[str, Sequence[str] | None]] = {}


def insert_parts(
    connection: Connection, schema: str | None, row: Row, addresses: Sequence[str], stored: Row
) -> None:
    """Insert the recipients and the content of a message that is there."""
    driver: Any = connection.connection.dbapi_connection
    cursor = driver.cursor()
    try:
        _insert(connection, cursor, schema, recipient, _places(row, addresses))
        _insert(connection, cursor, schema, content, [stored])
    finally:
        cursor.close()


def insert_whole(
    connection: Connection, schema: str | None, row: Row, addresses: Sequence[str], stored: Row
) -> None:
    """Insert all of it; ``row`` has what is not the same of every new message."""
    driver: Any = connection.connection.dbapi_connection
    dialect = connection.dialect
    at_once = dialect.name == "postgresql" and not dialect.positional
    cursor = driver.cursor()
    try:
        if at_once and len(addresses) <= AT_ONCE:
            _insert_together(connection, cursor, schema, row, addresses, stored)
            return
        _insert(connection, cursor, schema, message, [row])
        _insert(connection, cursor, schema, recipient, _places(row, addresses))
        _insert(connection, cursor, schema, content, [stored])
    finally:
        cursor.close()


def _places(row: Row, addresses: Sequence[str]) -> list[Row]:
    return [
        {"message": row["id"], "position": position, "address": address, "due_at": row["due_at"]}
        for position, address in enumerate(addresses)
    ]


def _insert(
    connection: Connection, cursor: Any, schema: str | None, table: Table, rows: Sequence[Row]
) -> None:
    dialect = connection.dialect

    def compiled() -> tuple[str, Sequence[str] | None]:
        statement = insert(table).values({**_named(table, rows[0]), **_NEW[table.name]})
        return _text(connection, schema, statement)

    which = (dialect.name, dialect.driver, schema, table.name, *rows[0])
    sql, order = _compiled(which, compiled)
    values: list[Any] = [*rows]
    if order is not None:
        values = [[row[name] for name in order] for row in rows]
    if len(values) == 1:
        cursor.execute(sql, values[0])
    else:
        cursor.executemany(sql, values)


def _insert_together(  # noqa: PLR0913, PLR0917  the three tables of a message
    connection: Connection,
    cursor: Any,
    schema: str | None,
    row: Row,
    addresses: Sequence[str],
    stored: Row,
) -> None:
    """Insert it by one statement: foreign keys are looked at when that ends."""

    def compiled() -> tuple[str, Sequence[str] | None]:
        said = [
            _text(connection, schema, each)[0] for each in _together(row, len(addresses), stored)
        ]
        return f"WITH m AS ({said[0]}), r AS ({said[1]}) {said[2]}", None

    which = (connection.dialect.driver, schema, len(addresses), *row)
    sql, _ = _compiled(which, compiled)
    places = zip(map(_address, count()), addresses, strict=False)
    cursor.execute(sql, {**row, **dict(places), **stored})


def _together(row: Row, many: int, stored: Row) -> tuple[Insert, Insert, Insert]:
    known = _named(message, row)
    places: list[dict[str, Any]] = [
        {
            "message": known["id"],
            "position": literal_column(str(number)),
            "address": bindparam(_address(number), type_=recipient.c.address.type),
            "due_at": known["due_at"],
            **_NEW_RECIPIENT,
        }
        for number in range(many)
    ]
    return (
        insert(message).values({**known, **NEW_MESSAGE}),
        insert(recipient).values(places),
        insert(content).values({**_named(content, stored), "message": known["id"]}),
    )


def _address(number: int) -> str:
    return f"address_{number}"


def _named(table: Table, row: Row) -> dict[str, Any]:
    kinds: Any = table.c
    return {name: bindparam(name, type_=kinds[name].type) for name in row}


def _text(
    connection: Connection, schema: str | None, statement: Insert
) -> tuple[str, Sequence[str] | None]:
    found = statement.compile(
        dialect=connection.dialect,
        schema_translate_map={None: schema} if schema else None,
        render_schema_translate=schema is not None,
    )
    return str(found), found.positiontup


def _compiled(
    which: tuple[object, ...], make: Callable[[], tuple[str, Sequence[str] | None]]
) -> tuple[str, Sequence[str] | None]:
    found = _texts.get(which)
    if found is None:
        found = _texts[which] = make()
    return found
