"""The outbox within an app's own transaction: its tables among the app's, its rows by its session.

What is told when the transaction is over (a worker is woken, a signal is sent) waits for the
outermost commit. What was said within a savepoint that is rolled back alone is undone with it.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, String, Table, event
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import StatementError, UnboundExecutionError
from sqlalchemy.orm import Session, SessionTransaction

from flask_outbox.mail.errors import (
    ConfigurationError,
    Contended,
    MessageError,
    OutboxUnavailable,
)
from flask_outbox.mail.say import Say
from flask_outbox.mail.submission import Submission
from flask_outbox.outbox import status
from flask_outbox.outbox.begin import (
    about_to_write,
    begin_for_real,
    begin_late,
    commits_by_itself,
    is_autocommit,
)
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.enqueue import write
from flask_outbox.outbox.kinds import place
from flask_outbox.outbox.schedule import Schedule
from flask_outbox.outbox.tables import VERSION_TABLE, Exact, message, metadata

log = Say("flask_outbox.outbox")

OURS = frozenset(metadata.tables)
# What an app's migrations say of a key: a type of their own dialects, which needs no import of us.
KEY = String(255).with_variant(mysql.VARBINARY(1020), "mysql", "mariadb")
REAL_BEGIN = (
    "Transactions of %s begin with a real BEGIN from now on, so that a savepoint's RELEASE does not"
    " commit."
)
BY_ITSELF = (
    "{what} commits each statement by itself (AUTOCOMMIT), so an order and its mail would not be"
    " committed as one. Take isolation_level out of {where}; what needs it can have"
    ' engine.execution_options(isolation_level="AUTOCOMMIT").'
)
UNDONE = (
    "The database has undone the session's transaction for the sake of another one, so there is"
    " nothing to commit. Roll it back, and begin it anew."
)

_WAITING = "flask_outbox_waiting"  # in a session's info: what hangs on its transaction
_COMMITTED = "flask_outbox_committed"  # the same: the transaction that was committed just now
_UNDONE = "flask_outbox_undone"  # the same: the transaction that gave way to another


# The tables


def join(theirs: MetaData) -> None:
    """Put our tables among the app's, for its migrations and ``create_all``."""
    for table in metadata.sorted_tables:
        if _of(theirs, table) is None and table.name != VERSION_TABLE:
            for column in table.to_metadata(theirs).columns:
                if isinstance(column.type, Exact):
                    column.type = KEY


def _of(theirs: MetaData, table: Table) -> Table | None:
    schema = theirs.schema
    return theirs.tables.get(f"{schema}.{table.name}" if schema else table.name)


def include_object(
    _object: object,
    name: str | None,
    kind: str,
    reflected: bool,  # noqa: FBT001  Alembic's
    compared_with: object,
) -> bool:
    """Tell Alembic's autogenerate to leave tables alone that are ours, and not the app's to drop.

    For ``context.configure(include_object=flask_outbox.include_object)`` in an env.py, where the
    outbox shares a database with an app that does not have our tables in its metadata.
    """
    is_table_of_ours = kind == "table" and name in OURS
    return not (is_table_of_ours and reflected and compared_with is None)


# The rows


def session_of(given: Any) -> Session:
    """Find the session itself behind what an app calls its session."""
    if hasattr(given, "sync_session"):
        raise MessageError(
            "session= is an AsyncSession, which cannot be waited for here: call"
            " `await session.run_sync(lambda session: mail.send_later(message, session=session))`."
        )
    own = given.registry() if hasattr(given, "registry") else given
    if not isinstance(own, Session):
        raise MessageError(f"session must be an SQLAlchemy session, not {type(given).__name__}.")
    return own


def put_within(
    outbox: Outbox,
    session: Session,
    table: Table | None,
    submission: Submission,
    schedule: Schedule,
) -> tuple[str, bool]:
    """Write it down in the session's transaction; return the id of its row, and if that is new.

    ``table``: ours among the app's, by which its session finds the bind.
    """
    with _connection(outbox, session, table) as connection:
        return write(connection, outbox, submission, schedule)


def cancel_within(outbox: Outbox, session: Session, table: Table | None, row: str) -> bool:
    """Keep a queued message from being sent, once the session's transaction is committed."""
    with _connection(outbox, session, table) as connection:
        return status.cancel_within(connection, outbox, row)


def status_within(
    outbox: Outbox, session: Session, table: Table | None, row: str
) -> status.Status | None:
    """Look a message up, as the session's transaction sees it."""
    with _connection(outbox, session, table) as connection:
        return status.status_within(connection, row)


@contextmanager
def _connection(outbox: Outbox, session: Session, table: Table | None) -> Generator[Connection]:
    """Give the session's connection, for that while with what our statements need."""
    outbox.mind_fork()
    bind = _same_database(outbox, session, message if table is None else table)
    with _noted(session, bind), outbox.database.explained():
        with about_to_write():  # what begins with us
            connection = session.connection(bind_arguments={"bind": bind})
            if commits_by_itself(connection):
                raise ConfigurationError(BY_ITSELF.format(what="The session", where="its engine"))
            if connection.dialect.name == "sqlite":
                begin_late(connection)
        try:
            with _options(connection, outbox.options):
                outbox.look_by(connection)
                yield connection
        except StatementError as error:
            error.hide_parameters = True  # it must not quote a mail, whatever the app's engine says
            raise
        except Exception as error:
            _let_go_of_a_lost_line(connection, error)
            raise


def _let_go_of_a_lost_line(connection: Connection, error: Exception) -> None:
    """Do what SQLAlchemy does where it runs a statement itself, which ours are not.

    Else the session's rollback would be said to nobody, and raise.
    """
    if connection.invalidated:
        return
    dialect: Any = connection.dialect
    if dialect.is_disconnect(error, connection.connection.dbapi_connection, None):
        connection.invalidate(error)


@contextmanager
def _noted(session: Session, bind: Engine | Connection) -> Generator[None]:
    """Keep in mind what the database has undone, whose COMMIT would say nothing of it."""
    try:
        yield
    except Contended:
        undone = session.get_transaction()
        if bind.dialect.name == "postgresql":  # elsewhere the savepoints are undone, too
            undone = session.get_nested_transaction() or undone
        if undone is not None:
            session.info[_UNDONE] = undone
        raise


@event.listens_for(Session, "before_commit")
def _is_not_undone(session: Session) -> None:
    if _UNDONE in session.info:
        raise OutboxUnavailable(UNDONE)


@contextmanager
def _options(connection: Connection, wanted: Mapping[str, Any]) -> Generator[None]:
    if not wanted:
        yield
        return
    before = connection.get_execution_options()
    connection.execution_options(**wanted)
    try:
        yield
    finally:
        connection.execution_options(**{name: before.get(name) for name in wanted})


def _same_database(outbox: Outbox, session: Session, table: Table) -> Engine | Connection:
    """Find what the session is bound to for our tables, and see that it is our database."""
    try:
        bind = session.get_bind(clause=table)
    except UnboundExecutionError:
        raise MessageError("session is bound to no database.") from None
    theirs = bind.engine
    if is_autocommit(bind):
        raise ConfigurationError(BY_ITSELF.format(what="The session", where="its engine"))
    if theirs.url is outbox.database.url:  # the same engine, as with Mail(db=db)
        return bind
    if place(theirs.url) != place(outbox.database.url):
        raise ConfigurationError(
            f"The session is bound to another database than the outbox, {outbox.database}: what is"
            " written to two databases is not committed as one. Set MAIL_OUTBOX_URL to the database"
            " of the session, or leave session= out."
        )
    if theirs.dialect.name == "sqlite" and begin_for_real(theirs):
        log.info(REAL_BEGIN, theirs.url.database)
    return bind


# What waits for the commit


@dataclass(frozen=True, slots=True)
class _Waiting:
    within: tuple[SessionTransaction, ...]
    kept: Callable[[], None]
    undone: Callable[[], None]


def follow(
    session: Session, kept: Callable[[], None], undone: Callable[[], None] = lambda: None
) -> None:
    """Have one called once the session's outermost transaction is committed, or else the other."""
    if not session.in_transaction():
        session.begin()
    open_ = session.get_nested_transaction() or session.get_transaction()
    within: list[SessionTransaction] = []
    while open_ is not None:
        within.append(open_)
        open_ = open_.parent
    session.info.setdefault(_WAITING, []).append(_Waiting(tuple(within), kept, undone))


@event.listens_for(Session, "after_commit")
def _committed(session: Session) -> None:
    if _WAITING in session.info:
        session.info[_COMMITTED] = session.get_nested_transaction() or session.get_transaction()


@event.listens_for(Session, "after_transaction_end")
def _ended(session: Session, transaction: SessionTransaction) -> None:
    if session.info.get(_UNDONE) is transaction:
        del session.info[_UNDONE]
    waiting: list[_Waiting] | None = session.info.get(_WAITING)
    is_outermost = transaction.parent is None
    if waiting is None or not (is_outermost or transaction.nested):  # a flush's own has none
        return
    kept = session.info.get(_COMMITTED) is transaction
    if kept:
        del session.info[_COMMITTED]
    if kept and not is_outermost:
        return  # released: it hangs on what is around it
    over = [each for each in waiting if transaction in each.within]
    waiting[:] = [each for each in waiting if transaction not in each.within]
    if not waiting:
        del session.info[_WAITING]
    for each in over:
        try:
            (each.kept if kept else each.undone)()
        except Exception as error:  # noqa: BLE001  what is committed stays so
            log.error("What follows a commit failed: %s", type(error).__name__)  # noqa: TRY400  quotes nothing
