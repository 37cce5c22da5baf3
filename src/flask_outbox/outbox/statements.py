"""Statements about a batch of messages, compiled once for each dialect.

They are the same as SQLAlchemy would run. But a list of a hundred ids is one value where a database
can read one, and not written out anew into the text each time; and what goes in and comes out is
what the driver takes and gives (text, numbers, octets), with nothing in between that looks at each
value. Both cost more than the statements themselves (docs/decisions/0214), and so does what
``Connection.execute`` does around a statement: the driver runs them (docs/decisions/0215).
"""

from collections.abc import Callable, Mapping, Sequence
from json import JSONEncoder
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar, overload

from sqlalchemy import (
    ARRAY,
    JSON,
    ClauseElement,
    ColumnElement,
    Connection,
    Double,
    Insert,
    Select,
    String,
    Text,
    Update,
    any_,
    bindparam,
    cast,
    column,
    func,
    insert,
    literal_column,
    select,
    text,
)
from sqlalchemy.sql.compiler import SQLCompiler

from flask_outbox.outbox.tables import MYSQL

Terms = dict[str, Any]
Among = Callable[[ColumnElement[Any]], ColumnElement[bool]]
Values = Mapping[str, ColumnElement[Any]]
Worded = ClauseElement
# A list is one value, as JSON: psycopg looks at each text of an array by itself, and at length.
_written = JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
# Not MySQL's own idea of a text, which may be the connection's, or the database's.
_MYSQLS = {
    Double: "DOUBLE",
    String: "TEXT CHARACTER SET utf8mb4",
    Text: "TEXT CHARACTER SET utf8mb4",
}
# Rows that are one value on MySQL: with the longest texts in each (TEXT_MOST), less than a
# mebibyte, which is the smallest packet that somebody may have set.
PIECE = 100
_FORCE = "FORCE INDEX (PRIMARY)"
T = TypeVar("T")  # what is wanted of the driver's cursor
Q = TypeVar("Q", bound="Select[*tuple[Any, ...]]")


class _Text(NamedTuple):
    """What the driver is told."""

    sql: str
    order: Sequence[str] | None  # of values that have no names
    constant: Terms


@overload
def by_key(worded: Update) -> Update: ...
@overload
def by_key(worded: Q) -> Q: ...
def by_key(worded: Any) -> Any:
    """Have MySQL find by the primary key what this changes or locks.

    It would go by another index, or read all of a small table: and so wait for rows that are
    somebody else's, or lock rows in another order than everybody.
    """
    for name in MYSQL:
        if isinstance(worded, Update):
            worded = worded.with_hint(_FORCE, dialect_name=name)
        else:
            (table,) = worded.get_final_froms()
            worded = worded.with_hint(table, _FORCE, name)
    return worded


class Statement:
    """``wording`` says it, given how to say that a column is one of ``ids``."""

    def __init__(self, wording: Callable[[Among], Worded]) -> None:
        self._wording = wording
        self._texts = _Texts()

    def run(self, connection: Connection, **terms: Any) -> int:
        """Run it; tell how many rows it was about."""
        return self._run(connection, terms, _count) if terms["ids"] else 0

    def rows(self, connection: Connection, **terms: Any) -> list[Terms]:
        """Run it, and give what it finds, by the names of the columns."""
        return self._run(connection, terms, _by_name) if terms["ids"] else []

    def found(self, connection: Connection, **terms: Any) -> Sequence[Any]:
        """Run it, and give what it finds, in the order of its columns."""
        return self._run(connection, terms, _all) if terms["ids"] else ()

    def _run(self, connection: Connection, terms: Terms, fetch: Callable[[Any], T]) -> T:
        ids: Sequence[str] = terms["ids"]
        name = connection.dialect.name
        if name in _AMONG:
            terms["ids"] = _written(ids)
        else:
            terms.update((_name(number), each) for number, each in enumerate(terms.pop("ids")))
        among = _AMONG.get(name) or _listed(len(ids))
        size = 0 if name in _AMONG else len(ids)
        return self._texts.run(connection, size, lambda: self._wording(among), [terms], fetch)


class Query:
    """Asks for what is known by no id yet."""

    def __init__(self, worded: Worded) -> None:
        self._worded = worded
        self._texts = _Texts()

    def rows(self, connection: Connection, terms: Terms) -> list[Terms]:
        """Ask, and give what it finds, by the names of the columns."""
        return self._texts.run(connection, 0, lambda: self._worded, [terms], _by_name)


class Each:
    """``wording`` says it of one row, given its values; a server reads all rows as one value.

    There every row would be sent and planned by itself, which takes longer than what it is about.
    An UPDATE is to find its row by the primary key.
    """

    def __init__(self, columns: Mapping[str, Any], wording: Callable[[Values], Worded]) -> None:
        self._columns = columns
        self._wording = wording
        self._one = wording({name: bindparam(name, type_=kind) for name, kind in columns.items()})
        self._texts = _Texts()

    def run(self, connection: Connection, rows: Sequence[Terms]) -> int:
        """Run it for each row; tell how many rows it was about."""
        name = connection.dialect.name
        if name == "postgresql":
            return self._texts.run(connection, 0, self._at_once, [{"rows": _written(rows)}], _count)
        if name in MYSQL and isinstance(self._one, Update):
            return self._in_pieces(connection, rows)
        # PyMySQL writes the rows of an INSERT into one; of a DELETE it says each by itself.
        return self._texts.run(connection, 0, lambda: self._one, rows, _count)

    def _in_pieces(self, connection: Connection, rows: Sequence[Terms]) -> int:
        worded = [_in_words(row) for row in rows]
        pieces = (worded[first : first + PIECE] for first in range(0, len(rows), PIECE))
        return sum(
            self._texts.run(connection, 0, self._joined, [{"rows": _written(piece)}], _count)
            for piece in pieces
        )

    def _joined(self) -> Worded:
        """Say it to MySQL.

        The rows are looked up one after another as they were given: a planner that began with the
        table, or read all of a small one, would wait for rows that are somebody else's.
        """
        columns = (
            f"given_{name} {_MYSQLS[type(kind)]} PATH '$.{name}'"
            for name, kind in self._columns.items()
        )
        given = f"JSON_TABLE(:rows, '$[*]' COLUMNS ({', '.join(columns)})) AS given"
        worded = self._wording({name: literal_column(f"given_{name}") for name in self._columns})
        assert isinstance(worded, Update)  # noqa: S101  run() has seen it
        return by_key(worded.prefix_with(text(f"{given} STRAIGHT_JOIN")))

    def _at_once(self) -> Worded:
        columns = [column(name, kind) for name, kind in self._columns.items()]
        rows = func.json_to_recordset(_given("rows")).table_valued(*columns, name="given")
        given = rows.render_derived(with_types=True)
        worded = self._wording({name: given.c[name] for name in self._columns})
        if isinstance(worded, Insert):
            return insert(worded.table).from_select([*self._columns], select(given))
        return worded


class _Texts:
    """What drivers are told, for each dialect, schema and number of ids."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], _Text] = {}

    def run(
        self,
        connection: Connection,
        size: int,
        word: Callable[[], Worded],
        rows: Sequence[Terms],
        fetch: Callable[[Any], T],
    ) -> T:
        dialect = connection.dialect
        translated = connection.get_execution_options().get("schema_translate_map")
        schema = translated and translated.get(None)
        which = (dialect.name, dialect.driver, schema, size)
        told = self._known.get(which)
        if told is None:
            compiled = word().compile(
                dialect=dialect,
                schema_translate_map=translated,
                render_schema_translate=bool(schema),
            )
            assert isinstance(compiled, SQLCompiler)  # noqa: S101  what statements are compiled to
            constant = {name: value for name, value in compiled.params.items() if value is not None}
            told = self._known[which] = _Text(str(compiled), compiled.positiontup, constant)
        values: list[Any] = [told.constant | row for row in rows] if told.constant else [*rows]
        if told.order is not None:
            values = list(map(itemgetter(*told.order), values))
            values = values if len(told.order) > 1 else [(each,) for each in values]
        if not connection.in_transaction():
            connection.begin()  # as its own execute() would, which the driver's does not
        cursor = cursor_of(connection)
        try:
            if len(values) > 1:
                cursor.executemany(told.sql, values)
            else:
                cursor.execute(told.sql, values[0])
            return fetch(cursor)
        finally:
            cursor.close()


def cursor_of(connection: Connection) -> Any:
    """Open the driver's own; psycopg else writes octets out as twice as many digits."""
    driver: Any = connection.connection.dbapi_connection
    dialect = connection.dialect
    if dialect.driver == "psycopg" and not dialect.is_async:  # whose wrapper knows no `binary`
        return driver.cursor(binary=True)
    return driver.cursor()


def _count(cursor: Any) -> int:
    count: int = cursor.rowcount
    return count


def _all(cursor: Any) -> Sequence[Any]:
    found: Sequence[Any] = cursor.fetchall()
    return found


def _by_name(cursor: Any) -> list[Terms]:
    names = [each[0] for each in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _in_words(row: Terms) -> Terms:
    """Have numbers as texts: MySQL reads those exactly, and JSON's own to within some bits."""
    return {name: repr(it) if isinstance(it, float) else it for name, it in row.items()}


def _name(number: int) -> str:
    return f"ids_{number}"


def _listed(size: int) -> Among:
    return lambda each: each.in_([bindparam(_name(number)) for number in range(size)])


def _sqlites(each: ColumnElement[Any]) -> ColumnElement[bool]:
    listed = func.json_each(bindparam("ids", type_=String)).table_valued(column("value", String))
    return each.in_(select(listed.c.value))


def _postgresqls(each: ColumnElement[Any]) -> ColumnElement[bool]:
    listed = select(func.json_array_elements_text(_given("ids"))).scalar_subquery()
    return each == any_(func.array(listed, type_=ARRAY(String)))


def _given(name: str) -> ColumnElement[Any]:
    return cast(bindparam(name, type_=Text), JSON)


_AMONG: Mapping[str, Among] = {"sqlite": _sqlites, "postgresql": _postgresqls}
