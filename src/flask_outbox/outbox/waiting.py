"""Whether there is anything to do, and when: what a worker asks before it sleeps."""

from collections.abc import Sequence

from sqlalchemy import bindparam, select, text

from flask_outbox.mail.lifecycle import State
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.routes import routes
from flask_outbox.outbox.schedule import Priority
from flask_outbox.outbox.tables import message

_m = message.c
_NEXT = (
    select(_m.due_at)
    .where(
        _m.transport == bindparam("transport"),
        _m.priority == bindparam("priority"),
        _m.due_at.is_not(None),
    )
    .order_by(_m.due_at)
    .limit(1)
)
_ANY_OPEN = select(
    select(_m.id)
    .where(
        _m.state.in_([State.QUEUED.value, State.SENDING.value]),
        text("state <> 'accepted'"),
    )
    .exists()
)


def next_due(outbox: Outbox, transports: Sequence[str]) -> float | None:
    """Tell when the next message of these transports may go, by the database's clock; None: never.

    One whose route is paused may go when the pause is over.
    """
    with outbox.read() as connection:
        now = outbox.now(connection)
        found: list[float] = []
        for each in routes(connection, transports).values():
            earliest = each.paused_until if each.paused(now) else None
            for priority in Priority:
                terms = {"transport": each.name, "priority": priority.value}
                due = connection.execute(_NEXT, terms).scalar_one_or_none()
                if due is not None:
                    found.append(max(due, earliest) if earliest is not None else due)
    return min(found, default=None)


def has_open(outbox: Outbox) -> bool:
    """Tell whether anything is queued or under way."""
    with outbox.read() as connection:
        return bool(connection.execute(_ANY_OPEN).scalar_one())
