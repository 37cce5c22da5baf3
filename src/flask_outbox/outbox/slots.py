"""Slots that nobody waits for any more: who stands behind them comes sooner.

What is over a limit has a slot, and whoever comes later stands behind it. A mail that is cancelled,
erased or too old leaves its slot behind without a word: a word would have to lock the limit for as
long as an app's transaction takes; and where a limit is raised, slots are further apart than need
be. So a worker looks now and then whether there is room while somebody waits.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    Double,
    Executable,
    Row,
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
from flask_outbox.outbox.statements import Each
from flask_outbox.outbox.tables import message, rate
from flask_outbox.outbox.waiting import transports

EARLY = AHEAD / 2  # seconds before its slot that a mail is due
FAR = 60.0  # seconds ahead: who stands behind nearer slots is not helped
SOONER = 10.0  # seconds that make it worth while to move a mail
LIMITS_MOST = 100  # of one look
GLANCE = 100  # messages that are looked at to see whether any can be moved
MOVED_MOST = 1000  # of one queue at a time

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
_OF_QUEUE = (
    select(_m.id, _m.due_at, _m.reason)
    .where(
        _m.transport == bindparam("transport"),
        _m.priority == bindparam("priority"),
        _m.due_at > bindparam("now"),
    )
    .limit(bindparam("most"))
)
_FIRST = _OF_QUEUE.order_by(_m.due_at, _m.id)
_FIRST_LOCKED = _FIRST.with_for_update(skip_locked=True)
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


def bring_forward(outbox: Outbox) -> int:
    """Let who waits come sooner where there is room; tell how many were moved."""
    moved, after = 0, ""
    while True:
        with outbox.read() as connection:
            now = outbox.now(connection)
            terms = {"after": after, "far": now + FAR}
            rows = connection.execute(_FAR_AHEAD, terms).mappings().all()
            every = transports(connection) if rows else []
            limits = {row["name"]: limit_named(outbox.rates, row["name"]) for row in rows}
            found = [meter(row["name"], limits[row["name"]], row, now) for row in rows]
            to_do = [each.name for each in found if _Line(connection, each, every, now).has_room]
        for name in to_do:
            with suppress(Contended), outbox.begin() as connection:  # a claim goes first
                now = outbox.now(connection)
                ours = locked(connection, {name: limits[name]}, now, (), wait=False)
                for each in ours.values():
                    moved += _Line(connection, each, every, now).close_up()
        if len(rows) < LIMITS_MOST:
            return moved
        after = rows[-1]["name"]


class _Look(NamedTuple):
    """What was found of a queue."""

    queue: Queue
    moves: list[dict[str, Any]]
    last: float | None  # slot, after these moves; None: nobody waits


class _Line:
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
        if self._meter.beyond:
            return True
        return self._meter.next_one(self._now) <= self._now and any(
            moves or self._is_stale(queue, last)
            for queue, moves, last in self._look(_FIRST, GLANCE)
        )

    def close_up(self) -> int:
        """Move them, and stand whoever comes next behind them; tell how many."""
        moved, raised = 0, bool(self._meter.beyond)
        for queue, moves, last in list(self._look(_FIRST_LOCKED, MOVED_MOST)):
            if moves:
                MOVE.run(self._connection, moves)
                moved += len(moves)
            if self._is_stale(queue, last) or raised:
                self._meter.stand_behind(queue, last)
        write(self._connection, [self._meter], self._now)
        return moved

    def _latest(self, queue: Queue) -> float | None:
        return self._meter.beyond.get(queue, self._meter.latest.get(queue))

    def _is_stale(self, queue: Queue, last: float | None) -> bool:
        latest = self._latest(queue) or 0.0
        return latest > self._now + FAR and latest - (last or 0.0) > SOONER

    def _look(self, query: Executable, most: int) -> Iterator[_Look]:
        one, now = self._meter, self._now
        for queue in STANDING:
            rows, is_all = self._first(queue, query, most)
            at, last = max(one.next_one(now), now + AHEAD), None
            moves: list[dict[str, Any]] = []
            gain = 0.0
            for row in rows:
                slot = row.due_at + EARLY
                if slot > at:
                    gain = max(gain, slot - at)
                    moves.append(move(row.id, at, one.name, now))
                last, at = min(slot, at), at + 1 / one.slots_a_second(at)
            if gain <= SOONER:
                moves, last = [], rows[-1].due_at + EARLY if rows else None
            yield _Look(queue, moves, last if is_all else self._latest(queue))

    def _first(self, queue: Queue, query: Executable, most: int) -> tuple[list[Row[Any]], bool]:
        """Give the first who wait in it, in order, and whether these are all."""
        found: list[Row[Any]] = []
        is_all = True
        for transport in self._by:
            for priority in (name for name, its in QUEUES.items() if its is queue):
                terms = {"transport": transport, "priority": priority, "now": self._now}
                rows = self._connection.execute(query, {**terms, "most": most}).all()
                is_all = is_all and len(rows) < most
                found += [row for row in rows if row.reason == over(self._meter.name)]
        return sorted(found, key=_due), is_all


def _due(row: Row[Any]) -> float:
    return float(row.due_at)
