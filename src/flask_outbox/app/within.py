"""What an app does with its mail in the transaction of a session: its own (``session=``) or db's.

Who is told of it is told after the outermost commit. In a rehearsal the database is left alone, and
the session decides all the same: what it rolls back was never queued.
"""

import time
from typing import TYPE_CHECKING, Any

from flask_outbox.app.preparing import own_copy
from flask_outbox.app.signals import message_queued
from flask_outbox.app.telling import tell_queued
from flask_outbox.mail.message import Message
from flask_outbox.mail.submission import Submission
from flask_outbox.outbox import joined
from flask_outbox.outbox.schedule import Schedule

if TYPE_CHECKING:
    from flask_outbox.app.runtime import Runtime
    from flask_outbox.outbox.status import Status


def enqueue(
    runtime: "Runtime", given: Any, message: Message, submission: Submission, schedule: Schedule
) -> str:
    """Write it down and give its id."""
    session = joined.session_of(given)
    rehearsed = runtime.suppressed
    if rehearsed:
        engine = None
        row, is_new = runtime.rehearsal.add(message, submission, schedule, held=True)
    else:
        engine = runtime.ready()  # first, so that what it refuses is not written down
        row, is_new = joined.put_within(
            runtime.outbox, session, runtime.table, submission, schedule
        )

    if rehearsed or message_queued.receivers:
        message = own_copy(message)  # as it is now, whatever its app does with it

    def kept() -> None:
        if rehearsed:
            runtime.rehearsal.keep(row)
        if engine is not None:
            engine.wake(schedule.due(time.time()))
        tell_queued(runtime.app, message, row, rehearsed=rehearsed)
        if not rehearsed:
            runtime.outbox.open()  # last, as it may fail: by now its tables are there to stay

    if is_new:
        joined.follow(session, kept, lambda: runtime.rehearsal.forget(row))
    return row


def cancel(runtime: "Runtime", given: Any, row: str) -> bool:
    """Take back what is queued."""
    if runtime.rehearsal.knows(row):
        is_taken = runtime.rehearsal.cancel(row)
        if is_taken:
            session = joined.session_of(given)
            joined.follow(session, lambda: None, lambda: runtime.rehearsal.restore(row))
        return is_taken
    return joined.cancel_within(runtime.outbox, joined.session_of(given), runtime.table, row)


def status(runtime: "Runtime", given: Any, row: str) -> "Status | None":
    """Tell how far it came, as the transaction sees it."""
    return joined.status_within(runtime.outbox, joined.session_of(given), runtime.table, row)
