"""Slots that nobody waits for any more: who stands behind them comes sooner.

What is over a limit has a slot, and whoever comes later stands behind it. A mail that is cancelled,
erased or too old leaves its slot behind without a word: a word would have to lock the limit for as
long as an app's transaction takes; and where a limit is raised, slots are further apart than need
be. So a worker looks now and then whether there is room while somebody waits.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    Double,
    String,
    Text,
    bindparam,
    case,
    or_,
    select,
    update,
)

from flask_outbox.mail.errors import Contended
from flask_outbox.mail.rates import AHEAD, Meter, Queue
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.rates import SLOTS, limit_named, locked, meter, transport_named, write
from flask_outbox.outbox.schedule import Priority
from flask_outbox.outbox.statements import Each, Statement, by_key
from flask_outbox.outbox.tables import message, rate
from flask_outbox.outbox.waiting import transports

EARLY = AHEAD / 2  # seconds before its slot that a mail is due
FAR = 60.0  # seconds ahead: who stands behind nearer slots is not helped
SOONER = 10.0  # seconds that make it worth while to move a mail
LOOKS_FOR = 0.25  # seconds: the worker does nothing else meanwhile
LIMITS_MOST = 100  # of one look
TRANSPORTS_MOST = 20  # that one limit of a sending domain is looked for in
LOOKED_AT = 5000  # messages of a queue, of which some may wait for something else
MOVED_MOST = 1000  # of them at a time

QUEUES: Mapping[str, Queue] = {
    Priority.URGENT.value: Queue.NOW,
    Priority.HIGH.value: Queue.NEXT,
    Priority.NORMAL.value: Queue.NORMAL,
    Priority.BULK.value: Queue.BULK,
}

STANDING = [each for each in dict.fromkeys(QUEUES.values()) if each in SLOTS]

_m = message.c
_FAR_AHEAD = (
    select(rate)
    .where(
        rate.c.name > bindparam("after"),
        or_(*(rate.c[SLOTS[each]] > bindparam("far") for each in STANDING)),
    )
    .order_by(rate.c.name)
    .limit(LIMITS_MOST)
)
_FIRST = (
    select(_m.id, _m.due_at, _m.reason)
    .where(
        _m.transport == bindparam("transport"),
        _m.priority == bindparam("priority"),
        _m.due_at > bindparam("now"),
    )
    .order_by(_m.due_at, _m.id)
    .limit(LOOKED_AT)
)
_LOCK = Statement(
    lambda among: (
        by_key(select(_m.id))
        .where(among(_m.id), _m.due_at > bindparam("now"))
        .with_for_update(skip_locked=True)
    )
)
MOVE = Each(
    {"row": String(), "slot": Double(), "now": Double(), "why": Text()},
    lambda given: (
        update(message)
        .where(_m.id == given["row"], _m.due_at.is_not(None))
        .ordered_values(  # MySQL reads what it has just set
            # Patience is counted from when it could first have gone, and not while it waits for us.
            (
                _m.first_due,
                case(
                    (_m.attempts == 0, given["slot"]),
                    (_m.due_at > given["now"], _m.first_due + given["slot"] - _m.due_at),
                    else_=_m.first_due + given["slot"] - given["now"],
                ),
            ),
            (_m.due_at, given["slot"]),
            (_m.slot_at, given["slot"]),
            (_m.due_from, given["now"]),
            (_m.reason, given["why"]),
        )
    ),
)


def move(row: str, slot: float, limit: str, now: float) -> dict[str, Any]:
    """Give what MOVE is told of a mail that waits for its slot."""
    return {"row": row, "slot": slot - EARLY, "now": now, "why": over(limit)}


def over(limit: str) -> str:
    """Say why it waits."""
    return f"over the limit {limit}"


class Looked(NamedTuple):
    """How many mails were moved, and after which limit to go on next time."""

    moved: int
    after: str = ""


def bring_forward(outbox: Outbox, after: str = "") -> Looked:
    """Let who waits come sooner where there is room, for a moment only."""
    moved, end = 0, time.monotonic() + LOOKS_FOR
    with outbox.read() as connection:
        now = outbox.now(connection)
        terms = {"after": after, "far": now + FAR}
        rows = connection.execute(_FAR_AHEAD, terms).mappings().all()
        every = transports(connection)[:TRANSPORTS_MOST] if rows else []
    for row in rows:
        name = row["name"]
        limit = limit_named(outbox.rates, name)
        with outbox.read() as connection:
            found = meter(name, limit, row, now)
            has_room = Line(connection, found, every, now).has_room
        if has_room:
            with suppress(Contended), outbox.begin() as connection:  # a claim goes first
                now = outbox.now(connection)
                for each in locked(connection, {name: limit}, now, (), wait=False).values():
                    moved += Line(connection, each, every, now).close_up()
        after = name
        if time.monotonic() > end:  # one at least, or it would begin anew each time
            return Looked(moved, after)
    return Looked(moved, after if len(rows) == LIMITS_MOST else "")


class _Look(NamedTuple):
    """What was found of a queue."""

    queue: Queue
    moves: list[dict[str, Any]]
    last: float | None  # slot, after these moves; None: nobody waits


class Line:
    """Those who wait for one limit, in its queues."""

    def __init__(
        self, connection: Connection, one: Meter, every: Sequence[str], now: float
    ) -> None:
        by = transport_named(one.name)
        self._connection = connection
        self._meter = one
        self._by = every if by is None else [by]
        self._now = now

    @property
    def has_room(self) -> bool:
        """Tell whether anybody may come sooner: it lets go less than it could."""
        if self._meter.raised:
            return True
        return self._meter.next_one(self._now) <= self._now and any(
            moves or self._is_stale(queue, last) for queue, moves, last in map(self._look, STANDING)
        )

    def close_up(self) -> int:
        """Move them, and stand whoever comes next behind them; tell how many."""
        moved = 0
        for queue, moves, last in list(map(self._look, STANDING)):
            ids = sorted(each["row"] for each in moves)
            ours = {row["id"] for row in _LOCK.rows(self._connection, ids=ids, now=self._now)}
            if its := [each for each in moves if each["row"] in ours]:
                MOVE.run(self._connection, its)
                moved += len(its)
            if self._is_stale(queue, last):
                self._meter.stand_behind(queue, last)
        write(self._connection, [self._meter], self._now)
        return moved

    def _is_stale(self, queue: Queue, last: float | None) -> bool:
        latest = self._meter.latest.get(queue, 0.0)
        return latest > self._now + FAR and latest - (last or 0.0) > SOONER

    def _look(self, queue: Queue) -> _Look:
        one, now = self._meter, self._now
        rows, is_all = self._first(queue)
        at = max(one.next_one(now), now + AHEAD)
        moves: list[dict[str, Any]] = []
        gain, last = 0.0, None
        for row in rows:
            slot = row.due_at + EARLY
            if slot > at:
                gain = max(gain, slot - at)
                moves.append(move(row.id, at, one.name, now))
            last, at = min(slot, at), at + 1 / one.slots_a_second(at)
        if gain <= SOONER:
            moves, last = [], rows[-1].due_at + EARLY if rows else None
        return _Look(queue, moves, last if is_all else one.latest.get(queue))

    def _first(self, queue: Queue) -> tuple[list[Any], bool]:
        """Give the first who wait in it, in order, and whether these are all."""
        found: list[Any] = []
        is_all = len(self._by) < TRANSPORTS_MOST
        for transport in self._by:
            for priority in (name for name, its in QUEUES.items() if its is queue):
                terms = {"transport": transport, "priority": priority, "now": self._now}
                rows = self._connection.execute(_FIRST, terms).all()
                is_all = is_all and len(rows) < LOOKED_AT
                found += [row for row in rows if row.reason == over(self._meter.name)]
        found.sort(key=_due)
        return found[:MOVED_MOST], is_all and len(found) <= MOVED_MOST


def _due(row: Any) -> float:
    return float(row.due_at)
