"""The outbox within an app's own transaction: its tables among the app's, its rows by its session.

What is told when the transaction is over (a worker is woken, a signal is sent) waits for the
outermost commit, and is forgotten at its rollback. What was said within a savepoint that is rolled
back alone is forgotten with it.
"""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, MetaData, Table, event
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session, SessionTransaction

from flask_outbox.mail.errors import ConfigurationError, MessageError
from flask_outbox.mail.say import Say
from flask_outbox.outbox.database import Outbox, place
from flask_outbox.outbox.sqlite import WRITING
from flask_outbox.outbox.tables import VERSION_TABLE, message, metadata

log = Say("flask_outbox.outbox")

WAITING = "flask_outbox_waiting"  # in a session's info: what is told after its commit
OURS = frozenset(metadata.tables)


def join(theirs: MetaData) -> None:
    """Put our tables among the app's, for its migrations and ``create_all``."""
    for table in metadata.sorted_tables:
        if table.name not in theirs.tables and table.name != VERSION_TABLE:
            table.to_metadata(theirs)


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


def connection_of(outbox: Outbox, session: Session, table: Table | None) -> Connection:
    """Give the session's connection to where the outbox is.

    ``table``: ours among the app's, by which its session finds the bind.
    """
    outbox.open()  # sees to it that our tables are there
    terms: dict[str, Any] = {"bind_arguments": {"clause": message if table is None else table}}
    if not session.in_transaction():  # what begins with us is about to write
        terms["execution_options"] = WRITING
    try:
        connection = session.connection(**terms)
    except UnboundExecutionError:
        raise MessageError("session is bound to no database.") from None
    if place(connection.engine.url) != place(outbox.open().url):
        raise ConfigurationError(
            f"The session is bound to another database than the outbox, {outbox.database}: what is"
            " written to two databases is not committed as one. Set MAIL_OUTBOX_URL to the database"
            " of the session, or leave session= out."
        )
    return connection


def after_commit(session: Session, told: Callable[[], None]) -> None:
    """Have something told when the session's transaction is committed, and not if it is undone."""
    session.info.setdefault(WAITING, []).append((_within(session), told))


def _within(session: Session) -> list[SessionTransaction]:
    """List the transaction that is open, and those around it."""
    open_ = session.get_nested_transaction() or session.get_transaction()
    found: list[SessionTransaction] = []
    while open_ is not None:
        found.append(open_)
        open_ = open_.parent
    return found


@event.listens_for(Session, "after_commit")
def _committed(session: Session) -> None:
    if WAITING not in session.info or session.in_nested_transaction():
        return
    for _, told in session.info.pop(WAITING):
        try:
            told()
        except Exception as error:  # noqa: BLE001  what is committed stays so
            log.error("What follows a commit failed: %s", type(error).__name__)  # noqa: TRY400  quotes nothing


@event.listens_for(Session, "after_soft_rollback")
def _rolled_back(session: Session, undone: SessionTransaction) -> None:
    if waiting := session.info.get(WAITING):
        waiting[:] = [each for each in waiting if undone not in each[0]]
