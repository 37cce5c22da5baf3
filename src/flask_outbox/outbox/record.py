"""What the far side said becomes rows: one transaction for a batch of reports.

It locks messages, but for those that somebody has, then routes, then limits (``hear`` before
``heed``). A claim locks routes before limits, too, and its messages in between, but waits for none
of these.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select

from flask_outbox.mail.errors import InDoubt
from flask_outbox.mail.exchange import Report
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.outcome import Accepted
from flask_outbox.mail.route import RouteNews
from flask_outbox.mail.say import Say
from flask_outbox.mail.submission import Receipt, Submission
from flask_outbox.outbox.accept import NotAsBegun, accept
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.held import Judge
from flask_outbox.outbox.rates import heed
from flask_outbox.outbox.routes import hear
from flask_outbox.outbox.settle import ROWS, hold, lock_free, settle
from flask_outbox.outbox.statements import Statement, by_key
from flask_outbox.outbox.tables import message

log = Say("flask_outbox.outbox")

_FENCES = (
    by_key(select(message.c.id, message.c.fence))
    .where(message.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(message.c.id)
    .with_for_update()  # the server may still be about a commit whose answer nobody hears
)
_LOOK = Statement(lambda among: select(message.c.id, message.c.fence).where(among(message.c.id)))


class Ended(NamedTuple):
    """Where a message stands now."""

    state: State
    reason: str


ACCEPTED = Ended(State.ACCEPTED, "")


class _Written(NamedTuple):
    """What a transaction came to, by id, and by route."""

    done: dict[str, Ended]
    alerts: dict[str, RouteNews]
    busy: list[Report]  # not written: somebody has their rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What became of a message by this."""

    submission: Submission
    receipt: Receipt
    state: State
    reason: str = ""  # why it stands where it stands; nothing for what was accepted
    alert: RouteNews | None = None  # its route began to fail, or to work again: an alert


def record(
    outbox: Outbox,
    reports: Sequence[Report],
    jitter: Callable[[], float],
    busy: list[Report] | None = None,
) -> list[Recorded]:
    """Write down what was reported; nothing comes back for a row whose fence was lost.

    ``busy`` gets what is about rows that somebody has locked: to be tried again, while the others
    are recorded. Where it is None, they are waited for.
    Raises OutboxUnavailable with nothing written: the caller keeps the reports and tries again.
    """
    first: dict[str, Report] = {}
    for report in reports:
        first.setdefault(report.submission.id, report)
    if not first:
        return []
    done: dict[str, Ended] = {}
    alerts: dict[str, RouteNews] = {}
    theirs: list[Report] = []
    try:
        _write(outbox, first, jitter, _Written(done, alerts, theirs), waits=busy is None)
    except InDoubt:
        if still_fenced(outbox, {id_: first[id_].submission.fence for id_ in done}):
            raise
    if busy is not None:
        busy += theirs
    for alert in alerts.values():
        log.error("%s", alert)
    return [
        Recorded(
            submission=report.submission,
            receipt=report.receipt,
            state=done[id_].state,
            reason=done[id_].reason,
            alert=alerts.pop(report.submission.route, None),
        )
        for id_, report in first.items()
        if id_ in done
    ]


def still_fenced(outbox: Outbox, fences: Mapping[str, str]) -> bool:
    """Tell whether a commit in doubt was not done, which was to take these fences away, by id."""
    with outbox.begin() as connection:
        rows = connection.execute(_FENCES, {"ids": list(fences)})
        return any(row.fence == fences[row.id] for row in rows)


def _write(
    outbox: Outbox,
    first: Mapping[str, Report],
    jitter: Callable[[], float],
    written: _Written,
    *,
    waits: bool,
) -> None:
    """Write it by the short way where that will do, and else all of it by the careful one."""
    done, alerts, busy = written
    try:
        with outbox.begin() as connection:
            now = outbox.now(connection)
            ours = first if waits else _locked(connection, first, busy)
            plain = {id_: report for id_, report in ours.items() if _is_plain(report)}
            rest = {id_: report for id_, report in ours.items() if id_ not in plain}
            if plain:
                accept(connection, list(plain.values()), now)
                done.update(dict.fromkeys(plain, ACCEPTED))
            if rest:
                done.update(_judged(connection, outbox, rest, jitter, now))
            alerts.update(_hear(connection, outbox, first, done, now))
    except NotAsBegun:
        done.clear()
        busy.clear()
        with outbox.begin() as connection:
            now = outbox.now(connection)
            ours = first if waits else _locked(connection, first, busy)
            done.update(_judged(connection, outbox, ours, jitter, now))
            alerts.update(_hear(connection, outbox, first, done, now))


def _locked(
    connection: Connection, first: Mapping[str, Report], busy: list[Report]
) -> Mapping[str, Report]:
    """Lock what can be had, all of it in one order; ``busy`` gets what somebody has.

    What is gone, or another worker's by now, is not waited for.
    """
    ours = lock_free(connection, first)
    if rest := [id_ for id_ in first if id_ not in ours]:
        found = _LOOK.found(connection, ids=rest)  # waits for nobody
        busy += [first[id_] for id_, fence in found if fence == first[id_].submission.fence]
    return {id_: report for id_, report in first.items() if id_ in ours}


def _hear(
    connection: Connection,
    outbox: Outbox,
    first: Mapping[str, Report],
    done: Mapping[str, Ended],
    now: float,
) -> dict[str, RouteNews]:
    """Let the routes, and then the limits, take in what was recorded; give the news by route."""
    reports = [report for id_, report in first.items() if id_ in done]
    news = hear(connection, reports, now)
    heed(connection, outbox.rates, reports, now)
    return news


def _is_plain(report: Report) -> bool:
    submission, receipt = report.submission, report.receipt
    return (
        submission.attempt == 1
        and len(receipt) == len(submission.recipients) > 0
        and all(isinstance(each, Accepted) for each in receipt.values())
    )


def _judged(
    connection: Connection,
    outbox: Outbox,
    reports: Mapping[str, Report],
    jitter: Callable[[], float],
    now: float,
) -> dict[str, Ended]:
    """Look at each message and its recipients, and decide."""
    rows = connection.execute(ROWS, {"ids": list(reports)}).mappings()
    ours = [row for row in rows if row["fence"] == reports[row["id"]].submission.fence]
    held = hold(connection, ours, now)
    for each in held:
        report = reports[each.row["id"]]
        judge = Judge(outbox.patience, jitter(), report.submission.at_most_once)
        each.end_attempt(report.receipt, judge)
    settle(connection, held)
    return {each.row["id"]: Ended(each.state, each.reason) for each in held}
