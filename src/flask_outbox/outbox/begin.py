"""A real BEGIN on an app's own SQLite engine, which Python's driver has not.

It begins by itself, and late: before the first INSERT, not before a SAVEPOINT. So a savepoint that
is released before the first write commits, and what a request wrote stays there though it was
rolled back.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

from sqlalchemy import Connection, Dialect, Engine, event
from sqlalchemy.pool import PoolProxiedConnection

_REAL: WeakSet[Dialect] = WeakSet()
_WRITES: ContextVar[bool] = ContextVar("flask_outbox_writes", default=False)
_AUTOCOMMIT = "outbox_autocommit"


def begin_for_real(engine: Engine) -> bool:
    """Put a real BEGIN on an app's own engine; tell whether it had none. Its PRAGMAs stay its own.

    It comes after all listeners of "begin": an app may have one of its own, whenever it put it on.
    """
    if engine.dialect in _REAL:
        return False
    _REAL.add(engine.dialect)
    event.listen(engine, "connect", _leave_it_to_us)
    event.listen(engine, "checkout", _leave_it_to_us)
    event.listen(engine, "begin", _note)
    setattr(engine.dialect, "do_begin", _begin)  # noqa: B010  a method, as no type checker wants it
    return True


def begin_late(connection: Connection) -> None:
    """Begin for real where SQLAlchemy did before its engine had a BEGIN, and nothing was written.

    Else the driver would commit each CREATE TABLE by itself, whatever becomes of the transaction.
    """
    _note(connection)
    _begin(connection.connection)


@contextmanager
def about_to_write() -> Generator[None]:
    """Let a transaction that begins meanwhile, on an app's engine, take the write lock at once."""
    token = _WRITES.set(True)
    try:
        yield
    finally:
        _WRITES.reset(token)


def _leave_it_to_us(connection: Any, record: Any, *_: object) -> None:
    # A pool of one connection gives it away again in the middle of a transaction, which changing
    # this would commit.
    if connection.isolation_level is not None and not record.driver_connection.in_transaction:
        connection.isolation_level = None


def is_autocommit(theirs: Engine | Connection) -> bool:
    """Tell whether each statement is committed by itself, as far as SQLAlchemy was told so."""
    by_option = theirs.get_execution_options().get("isolation_level")
    by_engine = getattr(theirs.dialect, "_on_connect_isolation_level", None)  # of create_engine
    return (by_option or by_engine) == "AUTOCOMMIT"


def commits_by_itself(connection: Connection) -> bool:
    """Tell the same of a connection; the driver may have been told besides."""
    driver: Any = connection.connection.dbapi_connection
    of_driver = getattr(driver, "get_autocommit", lambda: getattr(driver, "autocommit", False))
    return is_autocommit(connection) or of_driver() is True


def _note(connection: Connection) -> None:
    connection.info[_AUTOCOMMIT] = is_autocommit(connection)


def _begin(connection: PoolProxiedConnection) -> None:
    driver: Any = connection.driver_connection
    if not driver.in_transaction and not connection.info.get(_AUTOCOMMIT):
        cursor = connection.cursor()
        cursor.execute("BEGIN IMMEDIATE" if _WRITES.get() else "BEGIN")
        cursor.close()
