"""The meters of the limits, which all workers share: a row where there is a limit, or a back-off.

The rules stand in ``mail/rates.py``; here they meet the rows. Who reads a meter to change it has
it locked until the end of the transaction; all do that in the order of their names.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    RowMapping,
    Select,
    bindparam,
    delete,
    func,
    or_,
    select,
    text,
    update,
)

from flask_outbox.mail.exchange import Report
from flask_outbox.mail.outcome import Deferred, Fault
from flask_outbox.mail.rates import (
    AHEAD,
    DAY,
    NONE,
    Limit,
    Meter,
    Queue,
    Rates,
    asks_to_slow,
    spoken,
)
from flask_outbox.mail.say import Say
from flask_outbox.mail.submission import Submission
from flask_outbox.outbox.statements import Among, Each, Query, Statement, by_key
from flask_outbox.outbox.tables import rate
from flask_outbox.outbox.unless import insert_unless

log = Say("flask_outbox.outbox")

# Of two transactions the one that is let in later may have looked at the clock first.
AT_ONCE = 1.0  # seconds: by less than that they may differ
FROM_THE_FUTURE = 60.0  # seconds: the clock was set back since it was written
IDLE = DAY  # seconds after which one that holds nothing is forgotten
IDLE_MOST = 1000

SLOTS: Mapping[Queue, str] = {each: f"{each.value}_slot" for each in Queue if each is not Queue.NOW}
_NAMES: BindParameter[list[str]] = bindparam("names", expanding=True)
_KNOWN = Statement(lambda among: select(rate).where(among(rate.c.name)))
_FIRST = Query(select(rate.c.name).where(rate.c.name > text("''")).limit(1))  # none is empty
_LOCKED = Statement(lambda among: _named(among).with_for_update())
_UNLOCKED_ONES = Statement(lambda among: _named(among).with_for_update(skip_locked=True))
_NEW = insert_unless(rate)
_WRITE = Each(
    {each.name: each.type for each in rate.c},
    lambda given: (
        update(rate)
        .where(rate.c.name == given["name"])
        .values({each: given[each.name] for each in rate.c if each is not rate.c.name})
    ),
)
_SLOWED = (
    select(rate)
    .where(or_(rate.c.slow.is_not(None), rate.c.closed_until > bindparam("now")))
    .order_by(rate.c.name)
)
_LATEST = (rate.c.next_at, rate.c.closed_until, *(rate.c[name] for name in SLOTS.values()))
_IDLE = (
    rate.c.written_at <= bindparam("before"),
    *(func.coalesce(each, 0.0) <= bindparam("now") for each in _LATEST),
)
_FIND_IDLE = select(rate.c.name).where(*_IDLE).order_by(rate.c.name).limit(IDLE_MOST)
# What somebody has is not idle; who waited might hold what that one needs next.
_LOCK_IDLE = (
    by_key(select(rate.c.name))
    .where(rate.c.name.in_(_NAMES), *_IDLE)
    .with_for_update(skip_locked=True)
)
# One by one: MariaDB looks for several by reading a small table whole, and so waits for others'.
_FORGET = delete(rate).where(rate.c.name == bindparam("b_name"))


def _named(among: Among) -> Select[Any]:
    return by_key(select(rate)).where(among(rate.c.name)).order_by(rate.c.name)


# A transport's name may have any character in it, a domain has no blank.
def by(transport: str) -> str:
    """Name the limit of all that goes by a transport."""
    return f"by {transport}"


def to(domain: str, transport: str) -> str:
    """Name the limit of what goes to a domain by it."""
    return f"to {domain} by {transport}"


def sent_from(domain: str) -> str:
    """Name the limit of what comes from a domain, by whichever transport."""
    return f"from {domain}"


def domain_of(address: str) -> str:
    """Give what stands behind the @, as A-labels."""
    return address.rpartition("@")[2]


def are_any(connection: Connection, rates: Rates) -> bool:
    """Tell whether anything is limited: the app set a limit, or a far side slowed us."""
    return rates.are_set or bool(_FIRST.rows(connection, {}))


def meters(
    connection: Connection, limits: Mapping[str, Limit], now: float, *, wait: bool = True
) -> dict[str, Meter]:
    """Read those that may hold something up, and lock them; the others cost no more than a look.

    ``wait``: for those that another transaction has locked, which are left out otherwise.
    """
    rows = {row["name"]: row for row in _KNOWN.rows(connection, ids=sorted(limits))}
    found = {name: meter(name, limit, rows.get(name), now) for name, limit in limits.items()}
    held = {name: each for name, each in found.items() if each.holds(now)}
    new = held.keys() - rows.keys()
    if connection.dialect.name == "sqlite" and not new:  # all of it is locked
        return held
    ours = locked(connection, {name: limits[name] for name in held}, now, new, wait=wait)
    return held | ours if wait else ours  # what was forgotten just now, being idle, holds as well


def locked(
    connection: Connection,
    limits: Mapping[str, Limit],
    now: float,
    new: Iterable[str],
    *,
    wait: bool = True,
) -> dict[str, Meter]:
    """Lock all of them, after those are made that are new."""
    if not limits:
        return {}
    if made := [_row(Meter(name), 0.0) for name in sorted(new)]:
        connection.execute(_NEW[connection.dialect.name], made)
    query = _LOCKED if wait else _UNLOCKED_ONES
    rows = query.rows(connection, ids=sorted(limits))
    found = {row["name"]: meter(row["name"], limits[row["name"]], row, now) for row in rows}
    if wait and (gone := set(new) - found.keys()):  # forgotten just now, being idle
        return locked(connection, limits, now, gone)
    return found


def write(connection: Connection, changed: Iterable[Meter], now: float) -> None:
    """Write down what has changed."""
    rows = [_row(each, now) for each in changed if each.changed]
    if rows:
        _WRITE.run(connection, rows)


def opens_at(
    connection: Connection, rates: Rates, transports: Iterable[str], now: float
) -> dict[str, float]:
    """Tell from when on the next mail may go by each of those that have a rate."""
    limits = {name: limit for name in transports if (limit := rates.of_transport(name)).rate}
    if not limits:
        return {}
    names = {by(name): name for name in limits}
    rows = _KNOWN.rows(connection, ids=sorted(names))
    known = {names[row["name"]]: row for row in rows}
    return {
        name: meter(by(name), limits[name], row, now).opens_at(now) for name, row in known.items()
    }


def meter(name: str, limit: Limit, row: RowMapping | Mapping[str, Any] | None, now: float) -> Meter:
    """Read a row of them; None: there is none yet."""
    if row is None or row["written_at"] > now + FROM_THE_FUTURE:
        return Meter(name, limit)
    found = Meter(
        name,
        limit,
        next_at=row["next_at"],
        latest={queue: row[column] for queue, column in SLOTS.items() if row[column] is not None},
        slow=row["slow"],
        slowed_at=row["slowed_at"],
        until=row["closed_until"],
        reason=row["reason"],
    )
    if row["written_at"] > now + AT_ONCE and (limit.rate or 0.0) * AHEAD >= 1.0:
        found.next_at = min(found.next_at, now + AHEAD)  # the clock was set back, by a little
    if limit.rate is not None and row["rate"] is not None and limit.rate > row["rate"]:
        # No turn is given twice: what the old rate let go ahead of time stays as it is.
        found.next_at = min(found.next_at, now + AHEAD + 1 / limit.rate)
        found.raised = found.changed = True
    return found


def _row(one: Meter, now: float) -> dict[str, Any]:
    return {
        "name": one.name,
        "next_at": one.next_at,
        **{column: one.latest.get(queue) for queue, column in SLOTS.items()},
        "rate": one.limit.rate,
        "slow": one.slow,
        "slowed_at": one.slowed_at,
        "closed_until": one.until,
        "reason": one.reason,
        "written_at": now,
    }


def heed(connection: Connection, rates: Rates, reports: Sequence[Report], now: float) -> None:
    """Let the limits take in what far sides said of our speed; for record's transaction.

    What did not leave, and for no fault of its own, gives its turn to another.
    """
    limits: dict[str, Limit] = {}
    asked: list[tuple[str, float, Deferred]] = []
    back: list[str] = []
    are_set = rates.are_set
    for report in reports:
        if are_set and _has_not_left(report):
            its = concerning(rates, report.submission)
            limits.update(its)
            back += its
        claimed_at = now if report.submission.claimed_at is None else report.submission.claimed_at
        for address, outcome in report.receipt.items():
            if isinstance(outcome, Deferred) and asks_to_slow(outcome):
                domain = domain_of(address)
                name = to(domain, report.submission.transport)
                limits[name] = rates.to_domain(domain)
                asked.append((name, claimed_at, outcome))
    known = locked(connection, limits, now, limits)
    for name, claimed_at, outcome in asked:
        known[name].slow_down(now, claimed_at, outcome)
    for name in back:
        known[name].give_back(now)
    write(connection, known.values(), now)
    for each in {name for name, _, _ in asked}:
        if known[each].changed:
            log.warning("Slower %s: %s", each, _told(known[each], now).words)


def _has_not_left(report: Report) -> bool:
    """Tell so only where it is known of everybody: a receipt of another's may not tell all."""
    outcomes = map(report.receipt.get, report.submission.recipients)
    return all(
        isinstance(each, Deferred) and each.fault in {Fault.OURS, Fault.NONE} for each in outcomes
    )


def concerning(rates: Rates, submission: Submission) -> dict[str, Limit]:
    """Give the limits that are set for what it concerns."""
    by_ = submission.transport
    author = domain_of(submission.sender)
    limits = {
        by(by_): rates.of_transport(by_),
        sent_from(author): rates.from_domain(author),
        **{
            to(domain, by_): rates.to_domain(domain)
            for domain in map(domain_of, submission.recipients)
        },
    }
    return {name: limit for name, limit in limits.items() if limit != NONE}


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowedRate:
    """A limit that is below what it was set to, since a far side asked for it."""

    name: str
    rate: float  # per second, now
    until: float | None  # nothing goes before
    reason: str

    @property
    def words(self) -> str:
        """Say it to a person."""
        return f"{spoken(self.rate)} after {self.reason!r}"


def slowed(connection: Connection, rates: Rates, now: float) -> list[SlowedRate]:
    """List them."""
    found: list[SlowedRate] = []
    for row in connection.execute(_SLOWED, {"now": now}).mappings():
        domain = domain_named(row["name"])
        one = meter(row["name"], rates.to_domain(domain), row, now)
        if one.is_slowed(now):
            found.append(_told(one, now))
    return found


def domain_named(name: str) -> str:
    """Read the domain in the name of a limit."""
    return name.split(" ", 2)[1]


def transport_named(name: str) -> str | None:
    """Read the transport in the name of a domain's limit; None: it is of all of them."""
    kind, *rest = name.split(" ", 3)
    return rest[2] if kind == "to" else None


def limit_named(rates: Rates, name: str) -> Limit:
    """Give what is set for the limit of a domain, by its name."""
    domain = domain_named(name)
    return rates.from_domain(domain) if transport_named(name) is None else rates.to_domain(domain)


def _told(one: Meter, now: float) -> SlowedRate:
    return SlowedRate(
        name=one.name,
        rate=one.rate_at(now) or 0.0,
        until=one.until if one.until > now else None,
        reason=one.reason,
    )


def forget_idle(connection: Connection, now: float) -> int:
    """Forget a piece of those that hold nothing; looked for first, and no lock is waited for."""
    terms = {"before": now - IDLE, "now": now}
    names = connection.execute(_FIND_IDLE, terms).scalars().all()
    if not names:
        return 0
    ours = connection.execute(_LOCK_IDLE, {**terms, "names": names}).scalars().all()
    if ours:
        connection.execute(_FORGET, [{"b_name": name} for name in ours])
    return len(ours)
