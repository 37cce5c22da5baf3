"""Whether there is anything to do, and when: what a worker asks before it sleeps."""

from collections.abc import Callable, Sequence

from sqlalchemy import bindparam, select

from flask_outbox.mail.route import Routing, open_from
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.routes import routes
from flask_outbox.outbox.schedule import Priority
from flask_outbox.outbox.tables import LEASED, message

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
# Each by its own index: asked for together they would be looked for in all rows.
_ANY_LEASED = select(_m.id).where(LEASED).limit(1)


def next_due(
    outbox: Outbox,
    transports: Sequence[str],
    routing: Callable[[str], Routing] = Routing.single,
) -> float | None:
    """Tell when the next message of these transports may go, by the database's clock; None: never.

    One whose routes are all paused may go when the first of the pauses is over.
    """
    routings = [routing(name) for name in transports]
    found: list[float] = []
    with outbox.read() as connection:
        now = outbox.now(connection)
        known = routes(connection, [name for each in routings for name in each.routes])
        for each in routings:
            earliest = open_from([known[name] for name in each.routes], now)
            for priority in Priority:
                terms = {"transport": each.transport, "priority": priority.value}
                due = connection.execute(_NEXT, terms).scalar_one_or_none()
                if due is not None:
                    found.append(max(due, earliest))
    return min(found, default=None)


def has_open(outbox: Outbox, transports: Sequence[str]) -> bool:
    """Tell whether anything is queued for these transports, or under way."""
    asked = [
        {"transport": name, "priority": priority.value}
        for name in transports
        for priority in Priority
    ]
    with outbox.read() as connection:
        return connection.execute(_ANY_LEASED).first() is not None or any(
            connection.execute(_NEXT, each).first() is not None for each in asked
        )
