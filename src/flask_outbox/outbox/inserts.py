"""INSERTs of whole rows, compiled once for each dialect and run by the driver itself.

The same statements as SQLAlchemy would run, without what ``Connection.execute`` does around them
each time; and on PostgreSQL all of a message in one, since there each costs a round trip
(docs/decisions/0209).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Insert, Table, bindparam, insert

from flask_outbox.outbox.tables import content, message, recipient

Row = Mapping[str, Any]
AT_ONCE = 10  # recipients in one statement with their message

_texts: dict[tuple[object, ...], tuple[str, Sequence[str] | None]] = {}


def insert_message(connection: Connection, schema: str | None, row: Row) -> None:
    """Insert what a message is."""
    _insert(connection, schema, message, [row])


def insert_parts(
    connection: Connection, schema: str | None, recipients: Sequence[Row], stored: Row
) -> None:
    """Insert its recipients and its content."""
    _insert(connection, schema, recipient, recipients)
    _insert(connection, schema, content, [stored])


def insert_whole(
    connection: Connection, schema: str | None, row: Row, recipients: Sequence[Row], stored: Row
) -> None:
    """Insert all of it."""
    dialect = connection.dialect
    if dialect.name != "postgresql" or dialect.positional or len(recipients) > AT_ONCE:
        insert_message(connection, schema, row)
        insert_parts(connection, schema, recipients, stored)
        return
    which = (dialect.driver, schema, len(recipients))
    sql, _ = _compiled(which, lambda: (_together(connection, schema, row, recipients), None))
    values = {**row, **{f"c_{name}": value for name, value in stored.items()}}
    for number, each in enumerate(recipients):
        values.update({f"r{number}_{name}": value for name, value in each.items()})
    _run(connection, sql, [values])


def _together(
    connection: Connection, schema: str | None, row: Row, recipients: Sequence[Row]
) -> str:
    """Write one statement: foreign keys are looked at when it ends."""
    their = [_named(recipient, f"r{number}_", each) for number, each in enumerate(recipients)]
    parts = (
        insert(message).values(_named(message, "", row)),
        insert(recipient).values(their),
        insert(content).values(_named(content, "c_", content.c.keys())),
    )
    said = [_text(connection, schema, each) for each in parts]
    return f"WITH m AS ({said[0]}), r AS ({said[1]}) {said[2]}"


def _named(table: Table, prefix: str, names: Iterable[str]) -> dict[str, Any]:
    kinds: Any = table.c
    return {name: bindparam(f"{prefix}{name}", type_=kinds[name].type) for name in names}


def _insert(connection: Connection, schema: str | None, table: Table, rows: Sequence[Row]) -> None:
    dialect = connection.dialect
    names = list(rows[0])

    def compiled() -> tuple[str, Sequence[str] | None]:
        found = insert(table).compile(
            dialect=dialect,
            column_keys=names,
            schema_translate_map={None: schema} if schema else None,
            render_schema_translate=schema is not None,
        )
        return str(found), found.positiontup

    sql, order = _compiled((dialect.name, dialect.driver, schema, table.name), compiled)
    _run(
        connection, sql, rows if order is None else [[row[name] for name in order] for row in rows]
    )


def _text(connection: Connection, schema: str | None, statement: Insert) -> str:
    return str(
        statement.compile(
            dialect=connection.dialect,
            schema_translate_map={None: schema} if schema else None,
            render_schema_translate=schema is not None,
        )
    )


def _compiled(
    which: tuple[object, ...], make: Callable[[], tuple[str, Sequence[str] | None]]
) -> tuple[str, Sequence[str] | None]:
    found = _texts.get(which)
    if found is None:
        found = _texts[which] = make()
    return found


def _run(connection: Connection, sql: str, values: Sequence[Any]) -> None:
    driver: Any = connection.connection.dbapi_connection
    cursor = driver.cursor()
    try:
        if len(values) == 1:
            cursor.execute(sql, values[0])
        else:
            cursor.executemany(sql, values)
    finally:
        cursor.close()
