"""A submission becomes rows, in the transaction of the caller: no commit, no mail.

A request waits for this: see inserts.py.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, Executable, Insert, bindparam, insert, select, text
from sqlalchemy.exc import IntegrityError

from flask_outbox.mail.errors import (
    Contended,
    InDoubt,
    KeyConflict,
    MissingFieldError,
    OutboxUnavailable,
)
from flask_outbox.mail.submission import Submission
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.encryption import FERNET
from flask_outbox.outbox.inserts import NEW_MESSAGE, insert_parts, insert_whole
from flask_outbox.outbox.schedule import Priority, Schedule
from flask_outbox.outbox.stored import pack
from flask_outbox.outbox.tables import message
from flask_outbox.outbox.unless import insert_unless

__all__ = ["Priority", "Schedule", "enqueue", "put", "uuid7"]

NOW = Schedule()

TRIES = 3  # of a key whose holder goes while it is looked for, or where another was given way to
_UNLESS = insert_unless(
    message, index_elements=[message.c.key], index_where=text("key IS NOT NULL")
)
_BY_ID = select(message.c.id).where(message.c.id == bindparam("id"))
_BY_KEY = select(message.c.id, message.c.fingerprint).where(message.c.key == bindparam("key"))
# What another has committed since this transaction began, too; it holds up who sends that mail.
_BY_KEY_NOW = _BY_KEY.with_for_update(read=True)
_MESSAGE = insert(message).values(NEW_MESSAGE)
_MESSAGE_UNLESS_KEY: Mapping[str, Insert] = {
    "sqlite": _UNLESS["sqlite"].values(NEW_MESSAGE),
    "postgresql": _UNLESS["postgresql"].values(NEW_MESSAGE),
}


def uuid7(now: float, serial: int, random: bytes) -> str:
    """Make a UUIDv7 (RFC 9562) as 32 hex digits, from 8 random bytes.

    The serial keeps those of one millisecond in order.
    """
    milliseconds = int(now * 1000) & (1 << 48) - 1
    tail = int.from_bytes(random[:8]) & (1 << 62) - 1
    return f"{milliseconds << 80 | 7 << 76 | (serial & 0xFFF) << 64 | 2 << 62 | tail:032x}"


def enqueue(
    connection: Connection, outbox: Outbox, submission: Submission, schedule: Schedule = NOW
) -> str:
    """Write it down and return the id of its row.

    A ``key`` that is there already gives the id of the message that has it, or raises KeyConflict
    where the fingerprint is another; neither disturbs the caller's transaction. A message that has
    none, or lost it when it was erased, is compared with nothing.
    """
    return write(connection, outbox, submission, schedule)[0]


def write(
    connection: Connection, outbox: Outbox, submission: Submission, schedule: Schedule
) -> tuple[str, bool]:
    """Do so, and tell besides whether the row is a new one."""
    if not submission.recipients:
        raise MissingFieldError("A message needs at least one recipient.")
    if not connection.in_transaction():
        connection.begin()  # as its own execute() would, which the driver's does not
    now = outbox.about_now(connection)
    due = schedule.due(now)
    row = uuid7(now, next(outbox.serial), outbox.random(8))
    stored: bytes = submission.content
    cipher, marks = None, [schedule.fingerprint]
    if submission.sensitive:  # first, so that nothing is written down where it cannot be
        stored, cipher = outbox.keyring.encrypt(stored, now), FERNET
        marks = outbox.keyring.marks(schedule.fingerprint)
    outbox.database.must_fit(stored)
    values: dict[str, Any] = {
        "id": row,
        "message_id": submission.message_id,
        "transport": submission.transport,
        "priority": schedule.priority.value,
        "due_at": due,
        "created_at": now,
        "first_due": due,
        "expires_at": schedule.end(due),
        "sender": submission.sender,
        "size": len(submission.content),
        "extra": pack(submission),
        "key": schedule.key,
        "fingerprint": marks[0],
    }
    if schedule.delay is not None:  # counted by a clock that may be set back, as at= is not
        values["due_from"] = now
    addresses = list(dict.fromkeys(submission.recipients))
    kept = {"message": row, "content": stored, "cipher": cipher}
    schema = outbox.database.schema
    if schedule.key is None:
        insert_whole(connection, schema, values, addresses, kept)
        return row, True
    for _ in range(TRIES):
        holder = _insert_unless_key(connection, outbox, values, marks)
        if holder == row:
            insert_parts(connection, schema, values, addresses, kept)
            return row, True
        if holder is not None:
            return holder, False
    raise OutboxUnavailable("Whoever had the key= was forgotten again and again. Try once more.")


def _insert_unless_key(
    connection: Connection, outbox: Outbox, values: Mapping[str, Any], marks: Sequence[str]
) -> str | None:
    """Give the id of the message that has the key, which may be this one by now; None: it is gone.

    On PostgreSQL and SQLite an INSERT that meets the key locks nothing. On MariaDB it does, so that
    is looked first, and only one at a time may meet it (docs/decisions/0224).
    """
    known, options = {"key": values["key"]}, outbox.options
    unless = _MESSAGE_UNLESS_KEY.get(connection.dialect.name)
    if unless is not None:
        connection.execute(unless, values, execution_options=options)
    else:
        with outbox.database.alone(connection, values["key"]):
            holder = _found(connection, outbox, _BY_KEY, known, marks)
            if holder is not None:
                return holder
            if _inserted(connection, outbox, values):
                return str(values["id"])
    holder = _found(connection, outbox, _BY_KEY, known, marks)
    return holder or _found(connection, outbox, _BY_KEY_NOW, known, marks)


def _inserted(connection: Connection, outbox: Outbox, values: Mapping[str, Any]) -> bool:
    """Insert it, or tell that its key is there, which ends on MariaDB no more than the statement.

    A long key takes the name of the index out of the error, so it is known by what it is not.
    """
    try:
        connection.execute(_MESSAGE, values, execution_options=outbox.options)
    except IntegrityError as error:
        if not outbox.database.is_duplicate(error.orig) or values["id"] in str(error.orig):
            raise
        return False
    return True


def put(outbox: Outbox, submission: Submission, schedule: Schedule = NOW) -> tuple[str, bool]:
    """Write it down in a transaction of its own; return the id of its row, and if that is new."""
    for _ in range(TRIES - 1):
        with suppress(Contended):
            return _put(outbox, submission, schedule)
    return _put(outbox, submission, schedule)


def _put(outbox: Outbox, submission: Submission, schedule: Schedule) -> tuple[str, bool]:
    row, is_new = "", False
    try:
        with outbox.begin() as connection:
            row, is_new = write(connection, outbox, submission, schedule)
    except InDoubt:
        if not _is_there(outbox, row):
            raise
    return row, is_new


def _is_there(outbox: Outbox, row: str) -> bool:
    """Look, where that is possible."""
    with suppress(OutboxUnavailable), outbox.read() as connection:
        return connection.execute(_BY_ID, {"id": row}).first() is not None
    return False


def _found(
    connection: Connection,
    outbox: Outbox,
    query: Executable,
    known: Mapping[str, str],
    marks: Sequence[str],
) -> str | None:
    """Find the message that has the key, and see that it is the same one."""
    there = connection.execute(query, known, execution_options=outbox.options).first()
    if there is None:  # or pruned, or erased, since it kept ours from being written
        return None
    if there.fingerprint and there.fingerprint not in marks:
        raise KeyConflict(
            "This key= was used before, for a message with other content, or for a sensitive one "
            "that was encrypted with a key that is not here. Use another key= for another message; "
            "the same one only to repeat the same call."
        )
    found: str = there.id
    return found
