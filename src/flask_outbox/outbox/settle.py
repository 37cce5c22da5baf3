"""From rows to what is held of them, and back: what moves messages and recipients between states.

A ``Held`` is a row and its recipients, read in the transaction at hand; ``settle`` writes what
became of all of them with a fixed number of statements. The message's UPDATE carries the fence and
the state that were read: no row, no overwrite. ``accept.py`` is the only other code that does so.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, delete, insert, select, update

from flask_outbox.mail.errors import OutboxUnavailable
from flask_outbox.mail.lifecycle import OPEN, State
from flask_outbox.outbox.held import Held, Place
from flask_outbox.outbox.statements import Each, Statement, by_key
from flask_outbox.outbox.stored import is_sensitive
from flask_outbox.outbox.tables import content, event, message, recipient

WIPED = frozenset({State.ACCEPTED, State.CANCELLED, State.EXPIRED})  # of a sensitive message
KNOWN = frozenset(state.value for state in State)
QUEUED = State.QUEUED.value

ROWS = (
    by_key(select(message))
    .where(message.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(message.c.id)  # all who lock several do it in this order
    .with_for_update()
)
_FREE = Statement(
    lambda among: (
        by_key(select(message.c.id))
        .where(among(message.c.id))
        .order_by(message.c.id)
        .with_for_update(skip_locked=True)
    )
)
# Sorted by us: for its order a planner without statistics would read the whole of an index.
_PLACES = select(recipient).where(recipient.c.message.in_(bindparam("ids", expanding=True)))
NOBODYS = dict.fromkeys(
    ("started_at", "left_at", "claimed_at", "leased_at", "lease_until", "fence")
)
_MOVE_MESSAGE = by_key(update(message)).where(
    message.c.id == bindparam("b_id"),
    message.c.state == bindparam("b_state"),
    message.c.fence.is_not_distinct_from(bindparam("b_fence")),
)
_MOVE_RECIPIENT = update(recipient).where(
    recipient.c.message == bindparam("b_message"),
    recipient.c.position == bindparam("b_position"),
)
EVENTS = Each(
    {each.name: each.type for each in event.c if each is not event.c.number},
    lambda given: insert(event).values(given),
)
# One by one: to delete several, MySQL reads a small table whole, and no hint prevents that.
WIPE = Each(
    {"message": content.c.message.type},
    lambda given: delete(content).where(content.c.message == given["message"]),
)


def lock_free(connection: Connection, ids: Collection[str]) -> set[str]:
    """Lock those of these messages that nobody has; give what is locked now, or was by us."""
    if connection.dialect.name == "sqlite":  # who writes has the whole file
        return set(ids)
    return {row[0] for row in _FREE.found(connection, ids=sorted(ids))}


def hold(connection: Connection, rows: Iterable[RowMapping], now: float) -> list[Held]:
    """Read the recipients of these rows; those of an attempt under way are sending.

    A row in a state that this version does not know is a newer one's, and left alone.
    """
    held = {
        row.id: Held(row, [], now, row.attempts, row.crashes, row.alone, row.first_due, row.reason)
        for row in rows
        if row.state in KNOWN
    }
    if held:
        for each in connection.execute(_PLACES, {"ids": list(held)}):
            if each.state not in KNOWN:
                held.pop(each.message, None)
            elif each.message in held:
                until = held[each.message].row["claimed_at"]
                under_way = each.state == QUEUED and is_in_it(each.due_at, until)
                held[each.message].places.append(
                    Place(
                        each.position,
                        each.address,
                        State.SENDING if under_way else State(each.state),
                        each.due_at,
                        each.attempts,
                        each.unclear,
                        each.reply,
                        each.reference,
                    )
                )
    for one in held.values():
        one.places.sort(key=_position)
    return list(held.values())


def is_in_it(due_at: float | None, claimed_at: float | None) -> bool:
    """Tell whether a queued recipient is in the attempt that was claimed then."""
    return claimed_at is not None and due_at is not None and due_at <= claimed_at


def _position(place: Place) -> int:
    return place.position


def settle(connection: Connection, held: Sequence[Held]) -> None:
    """Write what became of them; wipe what is sensitive and will not be sent again.

    Raises OutboxUnavailable, and so undoes all of it, where a row has changed since it was read.
    """
    if not held:
        return
    moved = connection.execute(_MOVE_MESSAGE, [_message(each) for each in held]).rowcount
    if moved != len(held):
        raise OutboxUnavailable("The outbox changed while it was written to: nothing was changed.")
    places = [_place(each, place) for each in held for place in each.places if place.moved]
    if places:
        connection.execute(_MOVE_RECIPIENT, places)
    if events := [each for one in held for each in one.events]:
        EVENTS.run(connection, events)
    over = [each.row for each in held if each.state in WIPED]
    if wipe := [{"message": row["id"]} for row in over if is_sensitive(row["extra"])]:
        WIPE.run(connection, wipe)


def _message(held: Held) -> dict[str, Any]:
    waiting = [place for place in held.places if place.state is State.QUEUED]
    queued = held.state is State.QUEUED
    due = min(place.due_at or held.now for place in waiting) if queued else None
    return {
        "b_id": held.row["id"],
        "b_state": held.row["state"],
        "b_fence": held.row["fence"],
        "state": held.state.value,
        "due_at": due,
        **_place_in_line(held, due),
        "first_due": held.first_due,
        "attempts": held.attempts,
        "crashes": held.crashes,
        "alone": held.alone,
        "unclear": any(place.unclear for place in waiting),
        "reason": held.reason,
        "ended_at": None if held.state in OPEN else held.now,
        **NOBODYS,
    }


def _place_in_line(held: Held, due: float | None) -> dict[str, Any]:
    """Tell since when it waits, and for which turn: as before, where it waited already."""
    row = held.row
    if due is None:
        return {"slot_at": row["slot_at"], "due_from": None}
    if row["state"] == QUEUED and held.waits_until is None:  # it only loses one of its recipients
        return {"slot_at": row["slot_at"], "due_from": row["due_from"]}
    # Whoever comes again does not stand behind all that came since.
    return {"slot_at": max(due, held.now), "due_from": held.now}


def _place(held: Held, place: Place) -> dict[str, Any]:
    return {
        "b_message": held.row["id"],
        "b_position": place.position,
        "state": place.state.value,
        "due_at": place.due_at,
        "attempts": place.attempts,
        "unclear": place.unclear,
        "reply": place.reply,
        "reference": place.reference,
    }
