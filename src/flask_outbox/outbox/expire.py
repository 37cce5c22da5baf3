"""What is past its ``expires`` is not sent: a reset link older than its lifetime helps nobody.

Neither a claim nor a start takes it. What was started before that goes on: it may be on the line.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, RowMapping, bindparam, select

from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.submission import Receipt, Submission
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.held import Held
from flask_outbox.outbox.reclaim import read_back, remains
from flask_outbox.outbox.record import Recorded
from flask_outbox.outbox.settle import hold, settle
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
_WHOLE = select(message, content.c.content, content.c.cipher).join(
    content, content.c.message == _m.id, isouter=True
)
_OLD = (
    _WHOLE.where(*_IS_OLD)
    .order_by(_m.expires_at)
    .limit(EXPIRED_MOST)
    .with_for_update(skip_locked=True, of=message)
)
_OLD_OF_OURS = (
    _WHOLE.where(
        _m.id.in_(bindparam("ids", expanding=True)),
        _m.started_at.is_(None),
        _m.expires_at <= bindparam("now"),
    )
    .order_by(_m.id)  # all who lock several do it in this order
    .with_for_update(of=message)
)


def expire(outbox: Outbox) -> list[Recorded]:
    """End what is too old, a hundred at most, and give what became of it."""
    with outbox.read() as connection:
        if connection.execute(_ANY_OLD, {"now": outbox.now(connection)}).first() is None:
            return []
    with outbox.begin() as connection:
        now = outbox.now(connection)
        return _end_all(outbox, connection, _old(connection, now), now)


def expire_leased(outbox: Outbox, submissions: Sequence[Submission]) -> list[Recorded]:
    """End what got too old since we claimed it and was not started; give what became of it."""
    fences = {each.id: each.fence for each in submissions}
    with outbox.begin() as connection:
        now = outbox.now(connection)
        rows = connection.execute(_OLD_OF_OURS, {"ids": list(fences), "now": now}).mappings()
        ours = [row for row in rows if row["fence"] == fences[row["id"]]]
        return _end_all(outbox, connection, ours, now)


def _old(connection: Connection, now: float) -> list[RowMapping]:
    return list(connection.execute(_OLD, {"now": now}).mappings())


def _end_all(
    outbox: Outbox, connection: Connection, rows: Iterable[RowMapping], now: float
) -> list[Recorded]:
    held = hold(connection, rows, now)
    recorded = [_end(outbox, each) for each in held]
    settle(connection, held)
    return recorded


def _end(outbox: Outbox, held: Held) -> Recorded:
    receipt = Receipt(held.expire(TOO_LATE))
    try:
        submission = read_back(outbox, held, [*receipt])
    except Unreadable:
        submission = remains(held, [*receipt])
    return Recorded(submission=submission, receipt=receipt, state=held.state, reason=held.reason)
