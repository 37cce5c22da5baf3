"""Due rows become submissions that are ours until their lease ends; a start marks the first byte.

Every step that a worker takes with a row carries the fence that its claim gave it, so what another
worker took over in the meantime is left alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    RowMapping,
    bindparam,
    case,
    func,
    insert,
    or_,
    select,
    update,
)

from flask_outbox.mail.errors import InDoubt
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.submission import Submission
from flask_outbox.outbox.claimed import Claimed, opened, read
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.reclaim import reclaim
from flask_outbox.outbox.routes import Route, open_routes
from flask_outbox.outbox.schedule import Priority
from flask_outbox.outbox.settle import ROWS, Kind, hold, settle
from flask_outbox.outbox.tables import FORMAT, event, message, recipient
from flask_outbox.outbox.waiting import has_open, next_due

__all__ = [
    "claim", "extend", "has_open", "leave", "next_due", "reclaim", "release", "start",
]  # fmt: skip

ROUNDS_MOST = 20  # of one claim, while it finds nothing that can be read
OCTETS_MOST = 32 * 1024 * 1024  # content that one claim brings, or one message if it has more

_m = message.c
_DUE = (
    select(_m.id, _m.size, _m.alone, _m.due_at)
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
_SURELY_NOT_SENT = _DUE.where(_m.unclear.is_(False))
_LEASE = (
    update(message)
    .where(_m.id.in_(bindparam("ids", expanding=True)), _m.due_at.is_not(None))
    .values(
        state=State.SENDING.value,
        due_at=None,
        due_from=None,
        route=_m.transport,
        fence=bindparam("b_fence"),
        worker=bindparam("b_worker"),
        leased_at=bindparam("now"),
        lease_until=bindparam("until"),
    )
)
_LEASE_RECIPIENTS = (
    update(recipient)
    .where(
        recipient.c.message.in_(bindparam("ids", expanding=True)),
        recipient.c.state == State.QUEUED.value,
        recipient.c.due_at <= bindparam("now"),
    )
    .values(state=State.SENDING.value)
)
_NOW: BindParameter[float] = bindparam("now")
_UNTIL: BindParameter[float] = bindparam("until")
_OURS = (
    _m.id.in_(bindparam("ids", expanding=True)),
    _m.fence.in_(bindparam("fences", expanding=True)),
)
_START = (
    update(message)
    .where(*_OURS)
    .ordered_values(  # MySQL reads what it has just set
        # A start whose commit was in doubt may be said again.
        (_m.attempts, _m.attempts + case((_m.started_at.is_(None), 1), else_=0)),
        (_m.started_at, func.coalesce(_m.started_at, bindparam("now"))),
        (_m.leased_at, _NOW),
        (_m.lease_until, _UNTIL),
    )
)
_STARTED = select(_m.id, _m.fence, _m.attempts).where(*_OURS)
_EXTEND = (
    update(message).where(*_OURS).values(leased_at=bindparam("now"), lease_until=bindparam("until"))
)
_LEAVE = (
    update(message)
    .where(
        _m.id == bindparam("b_id"),
        _m.fence == bindparam("b_fence"),
        _m.started_at.is_not(None),
    )
    .values(left_at=bindparam("now"))
)
_EVENT = insert(event)


def claim(
    outbox: Outbox, *, transports: Sequence[str], limit: int, worker: str
) -> list[Submission]:
    """Take what is due, most urgent first, and of equal urgency by turns of the transports.

    Commits state, lease, fence and route; charges nothing. What is past its expiry is left alone. A
    transport whose route is paused is not looked at; one that comes back gives one message to try
    it with, and none more while that is under way. A row that was on the line when a worker died
    comes alone in its list. What cannot be decrypted is held back, and does not stand in the way.
    """
    for _ in range(ROUNDS_MOST):
        leased = _claim(outbox, transports, limit, worker)
        readable = opened(outbox, leased)
        if readable or not leased:
            return readable
    return []


def _claim(outbox: Outbox, transports: Sequence[str], limit: int, worker: str) -> list[Claimed]:
    ids: list[str] = []
    fence = outbox.random(16).hex()
    try:
        with outbox.begin() as connection:
            now = outbox.now(connection)
            open_ = open_routes(connection, transports, now)
            ids += _choose(_candidates(connection, open_, now, limit), limit, now - outbox.lease)
            if not ids:
                return []
            terms = {"ids": ids, "b_fence": fence, "now": now}
            connection.execute(_LEASE, {**terms, "b_worker": worker, "until": now + outbox.lease})
            connection.execute(_LEASE_RECIPIENTS, {"ids": ids, "now": now})
            return read(connection, terms)
    except InDoubt:  # what has our fence is ours
        with outbox.begin() as connection:
            terms = {"ids": ids, "b_fence": fence, "now": outbox.now(connection)}
            return read(connection, terms)


def _candidates(
    connection: Connection, open_: Sequence[Route], now: float, limit: int
) -> Iterator[RowMapping]:
    """Look for due rows, one small query for each priority and transport."""
    probed: set[str] = set()

    def due(route: Route, priority: Priority) -> Sequence[RowMapping]:
        terms = {"transport": route.name, "priority": priority.value, "now": now, "most": limit}
        if not route.on_probation:
            return connection.execute(_DUE, terms).mappings().all()
        if route.name in probed:
            return []
        terms["most"] = 1
        one = (
            connection.execute(_SURELY_NOT_SENT, terms).mappings().all()
            or connection.execute(_DUE, terms).mappings().all()
        )
        probed.update([route.name] if one else [])
        return one

    for priority in Priority:
        columns = [due(route, priority) for route in open_]
        by_turns = chain.from_iterable(zip_longest(*columns))
        yield from (row for row in by_turns if row is not None)


def _choose(candidates: Iterator[RowMapping], limit: int, overdue: float) -> list[str]:
    """Take them in order, up to a number and a size; one that goes alone is taken alone.

    It lets others pass as long as it is not first in line, though not for longer than a lease.
    """
    ids: list[str] = []
    octets = 0
    for row in candidates:
        if row["alone"]:
            if not ids or row["due_at"] < overdue:
                return [row["id"]]
            continue
        octets += row["size"]
        if ids and octets > OCTETS_MOST:
            break
        ids.append(row["id"])
        if len(ids) == limit:
            break
    return ids


def start(outbox: Outbox, submissions: Sequence[Submission]) -> list[Submission]:
    """Commit that their attempts begin, and return those still ours, with ``attempt`` counted.

    Renews their leases. To be called before the first byte; may be called again for the same.
    """
    if not submissions:
        return []
    with outbox.begin() as connection:
        now = outbox.now(connection)
        connection.execute(_START, _ours(submissions, now=now, until=now + outbox.lease))
        rows = connection.execute(_STARTED, _ours(submissions))
        started = {(row.id, row.fence): row.attempts for row in rows}
        ours = [
            replace(each, attempt=started[each.id, each.fence])
            for each in submissions
            if (each.id, each.fence) in started
        ]
        if ours:
            connection.execute(_EVENT, [_started(each, now) for each in ours])
    return ours


def _started(submission: Submission, now: float) -> dict[str, Any]:
    return {
        "message": submission.id,
        "recipient": None,
        "kind": Kind.STARTED.value,
        "at": now,
        "attempt": submission.attempt,
        "text": "",
    }


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
    """Give back what was not started: due as it was, nothing charged."""
    if not submissions:
        return
    fences = {each.id: each.fence for each in submissions}
    with outbox.begin() as connection:
        now = outbox.now(connection)
        rows = [
            row
            for row in connection.execute(ROWS, {"ids": list(fences)}).mappings()
            if row["fence"] == fences[row["id"]] and row["started_at"] is None
        ]
        held = hold(connection, rows, now)
        for each in held:
            each.give_back()
        settle(connection, held)


def extend(outbox: Outbox, submissions: Sequence[Submission]) -> None:
    """Renew the leases of those still ours; to be called at least three times a lease."""
    if not submissions:
        return
    with outbox.begin() as connection:
        now = outbox.now(connection)
        connection.execute(_EXTEND, _ours(submissions, now=now, until=now + outbox.lease))


def _ours(submissions: Sequence[Submission], **terms: float) -> dict[str, Any]:
    ids = [each.id for each in submissions]
    return {"ids": ids, "fences": sorted({each.fence for each in submissions}), **terms}
