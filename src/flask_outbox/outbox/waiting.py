"""Whether there is anything to do, and when: what a worker asks before it sleeps."""

from collections.abc import Callable, Container, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    bindparam,
    func,
    literal_column,
    select,
    true,
)

from flask_outbox.mail.route import Routing, open_from
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.rates import opens_at
from flask_outbox.outbox.routes import routes
from flask_outbox.outbox.schedule import Priority
from flask_outbox.outbox.tables import LEASED, MYSQL, message

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


def _earliest(among: ColumnElement[bool]) -> Select[Any]:
    """Say it of each transport that any row has; one step of an index for one name.

    ``among``: the rows of the index that is stepped through.
    """
    first = select(func.min(_m.transport).label("name")).where(among).cte("named", recursive=True)
    named = first.union_all(
        select(
            select(func.min(_m.transport))
            .where(among, _m.transport > first.c.name)
            .scalar_subquery()
        ).where(first.c.name.is_not(None))
    )
    earliest = [
        select(_m.due_at)
        .where(
            _m.transport == named.c.name,
            _m.priority == literal_column(f"'{priority.value}'"),
            _m.due_at.is_not(None),
        )
        .order_by(_m.due_at)
        .limit(1)
        .scalar_subquery()
        for priority in Priority
    ]
    return select(named.c.name, *earliest).where(named.c.name.is_not(None))


# On MySQL the index has all rows, elsewhere those alone that are due some time.
_EARLIEST = {True: _earliest(true()), False: _earliest(_m.due_at.is_not(None))}


def _dues(connection: Connection, besides: Container[str]) -> dict[str, float]:
    """Tell when the first message of each transport is due, but for these."""
    rows = connection.execute(_EARLIEST[connection.dialect.name in MYSQL]).all()
    dues = {
        name: [each for each in dues if each is not None]
        for name, *dues in rows
        if name not in besides
    }
    return {name: min(each) for name, each in dues.items() if each}


def transports(connection: Connection) -> list[str]:
    """Name those that have mail which waits."""
    return [*_dues(connection, ())]


def due_besides(outbox: Outbox, transports: Container[str]) -> list[str]:
    """Name the other transports that have mail which may go now, each by a route of its name."""
    with outbox.read() as connection:
        now = outbox.now(connection)
        due = [name for name, at in _dues(connection, transports).items() if at <= now]
        known = routes(connection, due)
        opens = opens_at(connection, outbox.rates, due, now)
    return [name for name in due if not known[name].paused(now) and opens.get(name, 0.0) <= now]


def next_due(
    outbox: Outbox,
    transports: Sequence[str],
    routing: Callable[[str], Routing] = Routing.single,
    *,
    besides: bool = False,
) -> float | None:
    """Tell when the next message of these transports may go, by the database's clock; None: never.

    One whose routes are all paused may go when the first of the pauses is over, one that is over
    the rate of its transport when there is room again. ``besides``: also of all other transports
    that there are.
    """
    with outbox.read() as connection:
        now = outbox.now(connection)
        dues = _dues(connection, transports) if besides else {}
        for name in transports:
            terms = [{"transport": name, "priority": priority.value} for priority in Priority]
            found = [connection.execute(_NEXT, each).scalar_one_or_none() for each in terms]
            if due := [each for each in found if each is not None]:
                dues[name] = min(due)
        names = {name: routing(name).routes for name in dues}
        known = routes(connection, [each for several in names.values() for each in several])
        opens = opens_at(connection, outbox.rates, dues, now)
        return min(
            (
                max(
                    due, opens.get(name, 0.0), open_from([known[each] for each in names[name]], now)
                )
                for name, due in dues.items()
            ),
            default=None,
        )


def has_open(outbox: Outbox, transports: Sequence[str], *, besides: bool = False) -> bool:
    """Tell whether anything is queued for these transports, or all, or under way."""
    asked = [
        {"transport": name, "priority": priority.value}
        for name in transports
        for priority in Priority
    ]
    with outbox.read() as connection:
        return (
            connection.execute(_ANY_LEASED).first() is not None
            or any(connection.execute(_NEXT, each).first() is not None for each in asked)
            or (besides and bool(_dues(connection, transports)))
        )
