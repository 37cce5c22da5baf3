"""Every statement that an outbox says, whether SQLAlchemy runs it or the driver itself."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import event

from flask_outbox.outbox import statements
from flask_outbox.outbox.database import Outbox

Hear = Callable[[str, Any], object]  # the statement, and its terms, or the first of several


class Overheard:
    """A driver's cursor, somebody listening."""

    def __init__(self, cursor: Any, hear: Hear) -> None:
        self._cursor = cursor
        self._hear = hear

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, statement: str, terms: Any) -> None:
        self._hear(statement, terms)
        self._cursor.execute(statement, terms)

    def executemany(self, statement: str, terms: Any) -> None:
        self._hear(statement, terms[0])
        self._cursor.executemany(statement, terms)


@contextlib.contextmanager
def heard(outbox: Outbox, hear: Hear) -> Iterator[None]:
    """Tell of each before it is run."""
    engine, real = outbox.open(), statements.cursor_of

    def of_sqlalchemy(_connection, _cursor, statement, terms, _context, many):
        hear(statement, terms[0] if many else terms)

    event.listen(engine, "before_cursor_execute", of_sqlalchemy)
    statements.cursor_of = lambda connection: Overheard(real(connection), hear)
    try:
        yield
    finally:
        statements.cursor_of = real
        event.remove(engine, "before_cursor_execute", of_sqlalchemy)
