"""What is past its ``expires`` is not sent: a reset link older than its lifetime helps nobody."""

from sqlalchemy import Connection, RowMapping, bindparam, select

from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.outcome import Refused
from flask_outbox.mail.submission import Receipt
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.reclaim import read_back
from flask_outbox.outbox.record import Recorded
from flask_outbox.outbox.settle import Held, Kind, hold, settle
from flask_outbox.outbox.stored import Unreadable
from flask_outbox.outbox.tables import content, message

EXPIRED_MOST = 100  # at once
TOO_LATE = "expired before it could be sent"

_m = message.c
_IS_OLD = (
    _m.state == State.QUEUED.value,
    _m.expires_at <= bindparam("now"),
    _m.due_at.is_not(None),
)
_ANY_OLD = select(_m.id).where(*_IS_OLD).limit(1)
_OLD = (
    select(message, content.c.content, content.c.cipher)
    .join(content, content.c.message == _m.id, isouter=True)
    .where(*_IS_OLD)
    .order_by(_m.expires_at)
    .limit(EXPIRED_MOST)
    .with_for_update(skip_locked=True, of=message)
)


def expire(outbox: Outbox) -> list[Recorded]:
    """End what is too old, a hundred at most, and give what became of it."""
    with outbox.read() as connection:
        if connection.execute(_ANY_OLD, {"now": outbox.now(connection)}).first() is None:
            return []
    with outbox.begin() as connection:
        now = outbox.now(connection)
        held = hold(connection, _old(connection, now), now)
        recorded = [one for each in held if (one := _end(outbox, each)) is not None]
        settle(connection, held)
    return recorded


def _old(connection: Connection, now: float) -> list[RowMapping]:
    return list(connection.execute(_OLD, {"now": now}).mappings())


def _end(outbox: Outbox, held: Held) -> Recorded | None:
    addresses = [place.address for place in held.places if place.state is State.QUEUED]
    held.move(State.QUEUED, State.EXPIRED, Kind.EXPIRED, TOO_LATE)
    try:
        submission = read_back(outbox, held, addresses)
    except Unreadable:
        return None
    receipt = Receipt.same(submission, Refused(TOO_LATE))
    return Recorded(submission=submission, receipt=receipt, state=held.state, reason=held.reason)
