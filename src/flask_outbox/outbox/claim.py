"""Due rows become submissions that are ours until their lease ends; a start marks the first byte.

Every step that a worker takes with a row carries the fence that its claim gave it, so what another
worker took over in the meantime is left alone.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice, zip_longest

from sqlalchemy import (
    BindParameter,
    Connection,
    bindparam,
    case,
    func,
    null,
    or_,
    select,
    update,
)

from flask_outbox.mail.errors import Contended, InDoubt
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.rates import Turn
from flask_outbox.mail.route import Routing
from flask_outbox.mail.submission import Submission
from flask_outbox.outbox.claimed import Read, addressed, opened, paced, read
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.gate import Gate
from flask_outbox.outbox.keyless import hold_back_due
from flask_outbox.outbox.reclaim import reclaim
from flask_outbox.outbox.record import Recorded
from flask_outbox.outbox.routes import Open, allot, open_routes
from flask_outbox.outbox.schedule import Priority
from flask_outbox.outbox.settle import ROWS, hold, lock_free, settle
from flask_outbox.outbox.statements import Query, Statement, Terms, by_key
from flask_outbox.outbox.tables import FORMAT, message
from flask_outbox.outbox.waiting import has_open, next_due

__all__ = [
    "claim", "extend", "has_open", "leave", "next_due", "reclaim", "release", "start",
]  # fmt: skip

ROUNDS_MOST = 20  # of one claim, while it gives way, or finds nothing that can be read or may go
LOOKS_ON_FOR = 1.0  # seconds that one claim does so past what it holds back
WIDE = 1000  # rows that a round looks at, after one in which nothing might go
OCTETS_MOST = 32 * 1024 * 1024  # content that one claim brings, or one message if it has more

_m = message.c
_DUE = (
    select(
        *(_m.id, _m.size, _m.alone, _m.due_at, _m.transport, _m.unclear, _m.route),
        *(_m.priority, _m.sender, _m.slot_at),
    )
    .where(
        _m.transport == bindparam("transport"),
        _m.priority == bindparam("priority"),
        _m.due_at <= bindparam("now"),
        _m.format <= FORMAT,
        or_(_m.expires_at.is_(None), _m.expires_at > bindparam("now")),
    )
    .order_by(_m.due_at, _m.id)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_FIND_DUE = Query(_DUE)
_FIND_SURELY_NOT_SENT = Query(_DUE.where(_m.unclear.is_(False)))
_LEASE = Statement(
    lambda among: (
        by_key(update(message))
        .where(among(_m.id), _m.due_at.is_not(None))
        .values(
            state=State.SENDING.value,
            due_at=null(),
            due_from=null(),
            route=bindparam("b_route"),
            fence=bindparam("b_fence"),
            worker=bindparam("b_worker"),
            claimed_at=bindparam("now"),
            leased_at=bindparam("now"),
            lease_until=bindparam("until"),
        )
    )
)
_NOW: BindParameter[float] = bindparam("now")
_UNTIL: BindParameter[float] = bindparam("until")
_WAIT = Statement(
    lambda among: (
        by_key(update(message))
        .where(among(_m.id), _m.due_at.is_not(None))
        .values(due_at=_UNTIL, slot_at=_UNTIL, due_from=_NOW)
    )
)
_START = Statement(
    lambda among: (
        by_key(update(message))
        .where(
            among(_m.id),
            _m.fence == bindparam("b_fence"),
            # A start whose commit was in doubt may be said again: what has begun stays begun.
            or_(_m.expires_at.is_(None), _m.expires_at > _NOW, _m.started_at.is_not(None)),
        )
        .ordered_values(  # MySQL reads what it has just set
            (_m.attempts, _m.attempts + case((_m.started_at.is_(None), 1), else_=0)),
            (_m.started_at, func.coalesce(_m.started_at, bindparam("now"))),
            (_m.leased_at, _NOW),
            (_m.lease_until, _UNTIL),
        )
    )
)
_STARTED = Statement(
    lambda among: select(_m.id).where(
        among(_m.id), _m.fence == bindparam("b_fence"), _m.started_at.is_not(None)
    )
)
_EXTEND = Statement(
    lambda among: (
        by_key(update(message))
        .where(among(_m.id), _m.fence == bindparam("b_fence"))
        .values(leased_at=bindparam("now"), lease_until=bindparam("until"))
    )
)
_LEAVE = (
    by_key(update(message))
    .where(
        _m.id == bindparam("b_id"),
        _m.fence == bindparam("b_fence"),
        _m.started_at.is_not(None),
    )
    .values(left_at=bindparam("now"))
)


def claim(  # noqa: PLR0913  each is named
    outbox: Outbox,
    *,
    transports: Sequence[str],
    limit: int,
    worker: str,
    routing: Callable[[str], Routing] = Routing.single,
    full: Collection[str] = (),
    failed: list[Recorded] | None = None,
    held_back: list[str] | None = None,
    moved: list[str] | None = None,
    takes: float = 0.0,
) -> list[Submission]:
    """Take what is due, most urgent first, and of equal urgency by turns of the transports.

    Commits state, lease, fence and route; charges nothing. What is past its expiry is left alone. A
    transport whose routes are all paused is not looked at; a route that comes back gives one
    message to try it with, and none more while that is under way. A row that was on the line when a
    worker died comes alone in its list. What cannot be decrypted, and what is over a limit, is held
    back, and does not stand in the way. ``routing`` tells the routes of a transport; those that are
    ``full`` get none, while the others of their tier do, and no other tier instead. ``failed`` gets
    what became of rows that cannot be read, ``held_back`` the ids of what cannot be decrypted, and
    ``moved`` of what is over a limit: then there may be more to be had, since a claim looks on for
    a while only. ``takes``: seconds that a claim takes about, so that no turn is given that would
    be over before its end.
    """
    routings = [routing(name) for name in transports]
    held_back = [] if held_back is None else held_back
    width = 0
    end = time.monotonic() + LOOKS_ON_FOR
    for _ in range(ROUNDS_MOST):
        try:
            found, is_over = _claim(outbox, routings, full, limit, worker, width, takes)
        except Contended:  # several claims at once, on MariaDB
            continue
        if failed is not None:
            failed += found.failed
        if moved is not None:
            moved += found.moved
        readable = opened(outbox, found.claimed, held_back)
        if readable or is_over:
            return readable
        if found.claimed:  # none of it could be decrypted: nor may what comes next
            with suppress(Contended):
                held_back += hold_back_due(outbox, transports)
        if held_back and time.monotonic() > end:
            break
        width = WIDE
    return []


def _claim(  # noqa: PLR0913, PLR0917  as above
    outbox: Outbox,
    routings: Sequence[Routing],
    full: Collection[str],
    limit: int,
    worker: str,
    width: int,
    takes: float,
) -> tuple[Read, bool]:
    """Claim once, looking at so many rows at least; tell also whether there are no more."""
    ids: list[str] = []
    turns: dict[str, Turn] = {}
    asked_at = 0.0
    fence = outbox.random(16).hex()
    try:
        with outbox.begin(lasting=False) as connection:  # what is undone is due again, not begun
            now = outbox.now(connection)
            open_ = open_routes(connection, routings, now, full)
            gate = Gate(connection, outbox.rates, [each.transport for each in open_])
            if gate.shut(now):
                now = outbox.now(connection)
            asked_at = time.monotonic()  # turns count from here on, not from the commit
            done = now + takes
            room = {each.transport: gate.room(each.transport, done) for each in open_}
            most = {name: max(width, min(limit, count)) for name, count in room.items() if count}
            found = _candidates(connection, open_, now, most)
            rows = list(islice(found, max(limit, width)))
            people = addressed(connection, {row["id"]: now for row in rows})
            rows = _choose(gate.sift(rows, people, done), limit, now - outbox.lease)
            by_route = _allotted(connection, open_, rows, now, outbox.random(1)[0] / 256)
            ours = {each for its in by_route.values() for each in its}
            turns = gate.close([row for row in rows if row["id"] in ours], done)
            if not rows:
                return Read([], [], gate.moved), not gate.moved
            ids += [row["id"] for row in rows if row["id"] in ours]
            terms = {"b_fence": fence, "b_worker": worker, "now": now, "until": now + outbox.lease}
            for name, its in by_route.items():
                _LEASE.run(connection, ids=its, b_route=name, **terms)
            taken = read(connection, ids, fence, now, people)._replace(moved=gate.moved)
            return paced(taken, turns, asked_at + takes), False
    except InDoubt:  # what has our fence is ours
        with outbox.begin() as connection:
            taken = read(connection, ids, fence, outbox.now(connection))
            return paced(taken, turns, asked_at + takes), True


def _allotted(
    connection: Connection,
    open_: Sequence[Open],
    rows: Sequence[Terms],
    now: float,
    share: float,
) -> dict[str, list[str]]:
    """Give the ids by route, and move those out of the way that wait for theirs."""
    by_route: dict[str, list[str]] = {}
    for each in open_:
        its = [row for row in rows if row["transport"] == each.transport]
        allotted = allot(each, its, share, now)
        by_route.update(allotted.by_route)
        for until, ids in allotted.waiting.items():
            _WAIT.run(connection, ids=ids, until=until, now=now)
    return by_route


def _candidates(
    connection: Connection, open_: Sequence[Open], now: float, most: Mapping[str, int]
) -> Iterator[Terms]:
    """Look for due rows, one small query for each priority and transport, so many at most."""
    probed: set[str] = set()

    def due(one: Open, priority: Priority) -> Sequence[Terms]:
        name = one.transport
        terms = {"transport": name, "priority": priority.value, "now": now, "most": most[name]}
        if one.takes:
            return _FIND_DUE.rows(connection, terms)
        if name in probed:
            return []
        terms["most"] = 1
        found = _FIND_SURELY_NOT_SENT.rows(connection, terms) or _FIND_DUE.rows(connection, terms)
        probed.update([name] if found else [])
        return found

    for priority in Priority:
        columns = [due(each, priority) for each in open_ if each.transport in most]
        by_turns = chain.from_iterable(zip_longest(*columns))
        yield from (row for row in by_turns if row is not None)


def _choose(candidates: Iterator[Terms], limit: int, overdue: float) -> list[Terms]:
    """Take them in order, up to a number and a size; one that goes alone is taken alone.

    It lets others pass as long as it is not first in line, though not for longer than a lease.
    """
    rows: list[Terms] = []
    octets = 0
    for row in candidates:
        if row["alone"]:
            if not rows or row["due_at"] < overdue:
                return [row]
            continue
        octets += row["size"]
        if rows and octets > OCTETS_MOST:
            break
        rows.append(row)
        if len(rows) == limit:
            break
    return rows


def start(outbox: Outbox, submissions: Sequence[Submission]) -> list[Submission]:
    """Commit that their attempts begin, and return those that do, with ``attempt`` counted.

    Those are ours still, and not past their expiry. Renews their leases. To be called before the
    first byte; may be called again for the same.
    """
    if not submissions:
        return []
    ours: set[tuple[str, str]] = set()
    with outbox.begin() as connection:
        now = outbox.now(connection)
        for fence, ids in _by_fence(submissions).items():
            until = now + outbox.lease
            count = _START.run(connection, ids=ids, b_fence=fence, now=now, until=until)
            begun = ids
            if count != len(ids):
                begun = [row["id"] for row in _STARTED.rows(connection, ids=ids, b_fence=fence)]
            ours.update((each, fence) for each in begun)
    return [each.begun(now) for each in submissions if (each.id, each.fence) in ours]


def leave(outbox: Outbox, submission: Submission) -> bool:
    """Mark that a row claimed alone is about to leave: from here on a crash is unclear.

    To be called after signing, before the first byte. False: it is no longer ours.
    """
    with outbox.begin() as connection:
        terms = {
            "b_id": submission.id,
            "b_fence": submission.fence,
            "now": outbox.now(connection),
        }
        return connection.execute(_LEAVE, terms).rowcount == 1


def release(outbox: Outbox, submissions: Sequence[Submission]) -> None:
    """Give back what was not begun: due as it was, nothing charged.

    That is what ``start`` has not returned. Its commit may have been done, in doubt.
    """
    if not submissions:
        return
    given = {each.id: each for each in submissions}
    with outbox.begin() as connection:
        now = outbox.now(connection)
        rows = [
            row
            for row in connection.execute(ROWS, {"ids": list(given)}).mappings()
            if row["fence"] == given[row["id"]].fence
            and (row["started_at"] is None or given[row["id"]].began_at is None)
        ]
        held = hold(connection, rows, now)
        for each in held:
            each.give_back()
        settle(connection, held)


def extend(outbox: Outbox, submissions: Sequence[Submission]) -> None:
    """Renew the leases of those still ours; to be called at least three times a lease.

    What somebody has is left for the next time, and by who reclaims, too.
    """
    if not submissions:
        return
    with outbox.begin() as connection:
        now = outbox.now(connection)
        for fence, ids in _by_fence(submissions).items():
            free = lock_free(connection, ids)
            ours = [each for each in ids if each in free]
            _EXTEND.run(connection, ids=ours, b_fence=fence, now=now, until=now + outbox.lease)


def _by_fence(submissions: Iterable[Submission]) -> dict[str, list[str]]:
    """Give the ids of each claim, in their order: all who lock several do it in that."""
    found: dict[str, list[str]] = {}
    for id_, fence in sorted({(each.id, each.fence) for each in submissions}):
        found.setdefault(fence, []).append(id_)
    return found
