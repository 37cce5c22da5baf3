"""What a claim may take by the limits; a row over one is moved to its slot, out of the way.

In the claim's transaction: ``shut`` locks the transports' own limits, ``room`` tells which of them
are to be looked at, ``sift`` lets through what may go, ``close`` writes down what did.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, select

from flask_outbox.mail.rates import NO_LIMIT, NONE, Limit, Meter, Queue, Rates, Turn
from flask_outbox.mail.turns import give_turns
from flask_outbox.outbox.claimed import People
from flask_outbox.outbox.rates import (
    are_any,
    by,
    domain_named,
    domain_of,
    meters,
    sent_from,
    to,
    write,
)
from flask_outbox.outbox.schedule import Priority
from flask_outbox.outbox.settle import QUEUED
from flask_outbox.outbox.slots import MOVE, QUEUES, Line, move
from flask_outbox.outbox.statements import Terms
from flask_outbox.outbox.tables import LEASED, message, recipient

LATE = 60.0  # seconds after a slot that it counts for

_m, _r = message.c, recipient.c
# Counted here: to group them a database would sort.
_UNDER_WAY = select(_m.transport).where(LEASED)
_ON_THEIR_WAY_TO = (
    select(_m.id, _m.transport, _r.address)
    .join(recipient, _r.message == _m.id)
    .where(LEASED, _r.state == QUEUED, _r.due_at <= _m.claimed_at)
)


class Gate:
    """For one claim; ``now`` is the time of the whole transaction."""

    def __init__(self, connection: Connection, rates: Rates, transports: Iterable[str]) -> None:
        self._connection = connection
        self._rates = rates
        self._limits = {name: rates.of_transport(name) for name in transports}
        self._own: dict[str, Meter | None] = {}  # None: another claim has it
        self._meters: dict[str, Meter] = {}
        self._concerned: dict[str, set[str]] = {}  # by message: the names of its limits
        self._next_at: dict[str, float] = {}  # of these, before any was let through
        self._moved: list[dict[str, Any]] = []

    @property
    def moved(self) -> list[str]:
        """The ids of what it has moved."""
        return [each["row"] for each in self._moved]

    def shut(self, now: float) -> bool:
        """Lock the transports' own limits; tell whether there are any, so that time may pass.

        One that another claim has is not waited for: that takes what there is.
        """
        limits = {by(name): each for name, each in self._limits.items() if each != NONE}
        found = meters(self._connection, limits, now, wait=False) if limits else {}
        self._own = {name: found.get(by(name)) for name in self._limits if by(name) in limits}
        if any(each.limit.at_once for each in found.values()):
            under_way = Counter(self._connection.execute(_UNDER_WAY).scalars())
            for name, each in self._own.items():
                if each is not None:
                    each.under_way = under_way[name]
        return bool(found)

    def room(self, transport: str, now: float) -> int:
        """Tell how many may go by it now."""
        if transport not in self._own:
            return NO_LIMIT
        own = self._own[transport]
        return 0 if own is None else own.free(now)

    def sift(self, rows: Sequence[Terms], people: People, now: float) -> Iterator[Terms]:
        """Let through what may go, and move what may not; what is not asked for stays as it is."""
        self._look(rows, people, now)
        room = {name: self.room(name, now) for name in self._limits}
        for row in rows:
            if room[row["transport"]] < 1:
                continue
            if self._passes(row, now):
                room[row["transport"]] -= 1
                yield row

    def _look(self, rows: Sequence[Terms], people: People, now: float) -> None:
        """Find the limits of each row but its transport's own, with one small query."""
        if not are_any(self._connection, self._rates):
            return
        limits: dict[str, Limit] = {}
        warm_up = self._rates.warm_up
        for row in rows:
            by_ = row["transport"]
            its = {to(domain_of(each), by_) for each in people.get(row["id"], ())}
            for name in its - limits.keys():
                limits[name] = self._rates.to_domain(domain_named(name))
            if warm_up and (author := domain_of(row["sender"])) in warm_up:
                its.add(name := sent_from(author))
                limits[name] = self._rates.from_domain(author)
            self._concerned[row["id"]] = its
        self._meters = meters(self._connection, limits, now)
        for each in self._meters.values():
            if each.raised:
                Line(self._connection, each, (), now).close_up()
        self._next_at = {name: each.next_at for name, each in self._meters.items()}
        if any(each.limit.at_once for each in self._meters.values()):
            self._count()

    def _count(self) -> None:
        pairs = {
            (id_, to(domain_of(address), transport))
            for id_, transport, address in self._connection.execute(_ON_THEIR_WAY_TO)
        }
        for name, count in Counter(name for _, name in pairs).items():
            if name in self._meters:
                self._meters[name].under_way = count

    def _of(self, row: Terms) -> tuple[list[Meter], list[Meter]]:
        """Give the meters that may hold it up, and those that only count it.

        Urgent mail does not wait for a domain to be warm.
        """
        its = [self._meters[name] for name in self._concerned[row["id"]] if name in self._meters]
        if row["priority"] != Priority.URGENT.value:
            return its, []
        return (
            [each for each in its if each.limit.warm_since is None],
            [each for each in its if each.limit.warm_since is not None],
        )

    def _passes(self, row: Terms, now: float) -> bool:
        if not self._meters:
            return True
        may_hold, count = self._of(row)
        queue = QUEUES.get(row["priority"], Queue.NORMAL)
        turn = row["slot_at"]
        had_slot = turn is not None and turn >= row["due_at"] and now - turn < LATE
        waits_for = [each for each in may_hold if not each.passes(now, queue, had_slot=had_slot)]
        if not waits_for:
            for each in (*may_hold, *count):
                each.take(now)  # for now: close() gives the turns
            return True
        slots = {each.name: each.slot(now, queue, had_slot=had_slot) for each in waits_for}
        last = max(slots, key=slots.__getitem__)
        self._moved.append(move(row["id"], slots[last], last, now))
        return False

    def close(self, chosen: Sequence[Terms], now: float) -> dict[str, Turn]:
        """Write down what goes, and move what does not; give each its turn, in seconds from now.

        What has none goes as soon as can be.
        """
        for name, next_at in self._next_at.items():
            self._meters[name].next_at = next_at
        mails: list[tuple[str, Meter | None, list[Meter]]] = []
        for row in chosen if self._meters or self._own else ():
            may_hold, count = self._of(row)
            for each in count:
                each.take(now)
            mails.append((row["id"], self._own.get(row["transport"]), may_hold))
        turns = give_turns(mails, now)
        own_ones = filter(None, self._own.values())
        write(self._connection, [*own_ones, *self._meters.values()], now)
        if self._moved:
            MOVE.run(self._connection, self._moved)
        return {id_: turn.later_by(-now) for id_, turn in turns.items()}
