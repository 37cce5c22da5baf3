"""What a doctor sees of an outbox, without making, migrating or writing anything."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from sqlalchemy import URL, Connection, func, make_url, select
from sqlalchemy.exc import ArgumentError

from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.kinds import place
from flask_outbox.outbox.schema import APPS, is_current, version
from flask_outbox.outbox.tables import REVISION, message, metadata, worker

_OLDEST_DUE = select(func.min(message.c.due_at)).where(message.c.due_at.is_not(None))
_LAST_HEARD = select(func.max(worker.c.beat_at))  # of drains, too
DROPPED = True, None  # what Alembic says of a table that is in the database, and in no model


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """An outbox that answers.

    ``revision``: its schema; None where it has none yet. ``upgrade``: the command that brings it
    up to date; "" where the first use does. ``weaknesses``: why mail that was acknowledged may
    be lost. ``ahead``: seconds by which its clock is ahead of this machine's. ``unheeded``: seconds
    for which mail has been due while no worker was heard of; 0.0 where none was.
    """

    revision: str | None
    current: bool
    upgrade: str
    weaknesses: tuple[str, ...]
    ahead: float
    unheeded: float


def cannot_be_made(file: Path) -> str:
    """Say why the file of an outbox could not be made; nothing where it could.

    Tried by a file without a name, in its folder, or in the one above it where that is to be made
    too: no mode of a folder tells of a full disk or one that is read only.
    """
    try:
        folder = file.parent if file.parent.exists() else file.parent.parent
        with TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return str(error.strerror)


def examine(outbox: Outbox, here: Callable[[], float]) -> Examined:
    """Look; raise OutboxUnavailable where it cannot be used, or its schema does not fit.

    ``here`` tells this machine's time, in seconds since 1970.
    """
    database = outbox.database
    engine = database.engine()
    try:
        with database.reading(engine) as connection:
            weaknesses = tuple(database.check(connection))
            # One beside the other: what the database took to answer is not its clock's fault.
            ahead = database.time(connection) - here()
            current = is_current(connection, database)
            kept_by_app = database.keeper == APPS
            unheeded = _unheeded(connection, database.time(connection)) if current else 0.0
            return Examined(
                revision=REVISION if kept_by_app else version(connection, database.schema),
                current=current,
                upgrade=database.keeper,
                weaknesses=weaknesses,
                ahead=ahead,
                unheeded=unheeded,
            )
    finally:
        database.close(engine)


def _unheeded(connection: Connection, now: float) -> float:
    oldest: float | None = connection.execute(_OLDEST_DUE).scalar_one()
    heard: float | None = connection.execute(_LAST_HEARD).scalar_one()
    return 0.0 if oldest is None else max(0.0, now - max(oldest, heard or 0.0))


def is_spared_by(include: Callable[..., object]) -> bool:
    """Tell whether an app's function for Alembic leaves out each table of ours that it finds.

    It is asked as ``flask db migrate`` would ask it of a table that is in no model. Raises what
    it does.
    """
    return not any(include(each, each.name, "table", *DROPPED) for each in metadata.sorted_tables)


def is_beside(outbox: Outbox, url: str | URL) -> bool:
    """Tell whether our tables stand among those of the database at ``url``."""
    try:
        return outbox.database.schema is None and place(outbox.database.url) == place(make_url(url))
    except ArgumentError:
        return False
