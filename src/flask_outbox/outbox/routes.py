"""The routes' health, which all workers share, and which route each mail takes that is claimed.

The rules stand in ``mail/route.py``; here they meet the rows. That a route began to fail, and that
it works again, is news: of two workers that find out at once one tells it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, case, func, select, update

from flask_outbox.mail.exchange import Report
from flask_outbox.mail.route import Route, RouteNews, Routing
from flask_outbox.mail.say import Say
from flask_outbox.outbox.statements import Statement, Terms
from flask_outbox.outbox.tables import LEASED, message, route
from flask_outbox.outbox.unless import insert_unless

log = Say("flask_outbox.outbox")

ABOUT_TO_START = 2.0  # seconds: what is claimed longer than that is no probe, but stands in a queue
NO_ROUTE = 600.0  # seconds that a mail waits whose route is not configured

_ROUTES = Statement(lambda among: select(route).where(among(route.c.name)).order_by(route.c.name))
_ROUTES_LOCKED = Statement(
    lambda among: select(route).where(among(route.c.name)).order_by(route.c.name).with_for_update()
)
_PROBES = (
    select(
        message.c.route,
        func.max(case((message.c.started_at >= route.c.paused_until, 1), else_=0)),
        func.max(case((message.c.started_at.is_(None), message.c.leased_at))),
    )
    .join(route, route.c.name == message.c.route)
    .where(
        message.c.id.in_(select(message.c.id).where(LEASED).scalar_subquery()),
        message.c.route.in_(bindparam("names", expanding=True)),
    )
    .group_by(message.c.route)
)
_NEW = insert_unless(route)
_CHANGE = update(route).where(route.c.name == bindparam("b_name"))
_PAUSED = (
    select(route.c.name)
    .where(route.c.paused_until > bindparam("now"))
    .order_by(route.c.name)  # all who lock several do it in this order
    .with_for_update()
)
_PROBE_NOW = _CHANGE.values(paused_until=bindparam("now"))


def routes(connection: Connection, names: Iterable[str], *, lock: bool = False) -> dict[str, Route]:
    """Read what is known of these."""
    wanted = sorted(set(names))
    found = {name: Route(name) for name in wanted}
    query = _ROUTES_LOCKED if lock else _ROUTES
    for row in query.rows(connection, ids=wanted):
        found[row["name"]] = Route(**row)
    return found


@dataclass(frozen=True, slots=True)
class Open:
    """A transport that may be claimed for: which of its routes may be used now."""

    routing: Routing
    fit: Sequence[str]  # of any tier, but for those that are full
    takes: Sequence[str]  # those of the tier in use
    to_probe: Sequence[str]  # on probation: one mail each, and not while another is under way
    waits: Mapping[str, float]  # until when each of the others is not to be used

    @property
    def transport(self) -> str:
        """Its name."""
        return self.routing.transport


def open_routes(
    connection: Connection, routings: Sequence[Routing], now: float, full: Collection[str] = ()
) -> list[Open]:
    """List the transports of which a route may be used, neither paused nor probed right now.

    ``full`` names routes that are not to get more for now. Those are passed over, and are no reason
    to use the next tier. To be called in the claim's transaction, in which a route on probation
    stays locked.
    """
    known = routes(connection, [name for each in routings for name in each.routes])
    unsure = [name for name, each in known.items() if each.on_probation and not each.paused(now)]
    probed: set[str] = set()
    if unsure:
        known.update(routes(connection, unsure, lock=True))
        for name, started, leased_at in connection.execute(_PROBES, {"names": unsure}):
            if started or (leased_at is not None and abs(now - leased_at) < ABOUT_TO_START):
                probed.add(name)
    looked_at = (_look(each, known, probed, full, now) for each in routings)
    return [each for each in looked_at if each.takes or each.to_probe]


def _look(
    routing: Routing,
    known: Mapping[str, Route],
    probed: set[str],
    full: Collection[str],
    now: float,
) -> Open:
    fit: list[str] = []
    to_probe: list[str] = []
    waits: dict[str, float] = {}
    for name in routing.routes:
        each = known[name]
        if each.paused(now):
            waits[name] = each.paused_until or now
        elif not each.on_probation:
            fit.append(name)
        elif name in probed or name in full:
            waits[name] = now + ABOUT_TO_START
        else:
            to_probe.append(name)
    fit_by_tier = [[name for name in tier if name in fit] for tier in routing.tiers]
    in_use = next(filter(None, fit_by_tier), fit)
    takes = [name for name in in_use if name not in full]
    return Open(routing, [name for name in fit if name not in full], takes, to_probe, waits)


@dataclass(slots=True)
class Allotted:
    """Which route each message takes, and until when each of the others waits for its own."""

    by_route: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    waiting: dict[float, list[str]] = field(default_factory=dict[float, list[str]])

    def take(self, name: str, id_: str) -> None:
        """Give it a route."""
        self.by_route.setdefault(name, []).append(id_)

    def wait(self, until: float, id_: str) -> None:
        """Let it wait."""
        self.waiting.setdefault(until, []).append(id_)


def allot(open_: Open, rows: Sequence[Terms], share: float, now: float) -> Allotted:
    """Give each due message of a transport its route; ``share`` is a number in [0, 1).

    What may have left before goes the same way again or waits: it never fails over. A route on
    probation is tried with the least urgent of the others, or with such a one where there is none.
    """
    allotted = Allotted()
    free = [row for row in rows if not row["unclear"]]
    for name in open_.to_probe[: len(free)]:
        allotted.take(name, free.pop()["id"])
    for number, row in enumerate(free):
        chosen = open_.routing.choose(open_.takes, (share + number / len(free)) % 1.0)
        if chosen is None:  # all that there is to do is to probe
            allotted.wait(now + ABOUT_TO_START, row["id"])
        else:
            allotted.take(chosen, row["id"])
    for row in rows:
        if row["unclear"]:
            _again(allotted, open_, row, now)
    return allotted


def _again(allotted: Allotted, open_: Open, row: Terms, now: float) -> None:
    """Give a mail that may have left its route again, or have it wait for that."""
    name = row["route"]
    if name in open_.fit or (name in open_.to_probe and name not in allotted.by_route):
        allotted.take(name, row["id"])
    elif name in open_.routing.routes:
        allotted.wait(open_.waits.get(name, now + ABOUT_TO_START), row["id"])
    else:
        log.error(
            "Message %s waits: it may have left by route %s, which is not one of those configured,"
            " and must not be sent by another. Configure it as it was, or `flask outbox cancel` it;"
            " `flask outbox retry` sends what was cancelled by any route.",
            row["id"],
            name,
        )
        allotted.wait(now + NO_ROUTE, row["id"])


def probe_now(connection: Connection, now: float) -> None:
    """End the pauses: whoever works now has other settings than those that failed."""
    names = connection.execute(_PAUSED, {"now": now}).scalars().all()
    if names:
        connection.execute(_PROBE_NOW, [{"b_name": name, "now": now} for name in names])


def hear(connection: Connection, reports: Iterable[Report], now: float) -> dict[str, RouteNews]:
    """Let the routes take in what was reported; give the news by route."""
    listed = list(reports)
    known = _heard(routes(connection, (each.submission.route for each in listed)), listed, now)
    names = [name for name, each in known.items() if each.changed]
    if not names:
        return {}
    # Who has something to write looks again: another worker may have written it just now.
    rows = [{**_values(Route(name)), "name": name} for name in names]
    connection.execute(_NEW[connection.dialect.name], rows)
    ours = [each for each in listed if each.submission.route in names]
    known = _heard(routes(connection, names, lock=True), ours, now)
    changed = [each for each in known.values() if each.changed]
    if changed:
        connection.execute(_CHANGE, [{**_values(each), "b_name": each.name} for each in changed])
    for each in changed:
        if each.failures > each.before > 0:
            log.warning("%s", each.pause)
    return {each.name: news for each in changed if (news := each.news()) is not None}


def _heard(known: dict[str, Route], reports: Iterable[Report], now: float) -> dict[str, Route]:
    for report in reports:
        known[report.submission.route].hear(report, now)
    return known


def _values(one: Route) -> Mapping[str, Any]:
    return {
        "paused_at": one.paused_at,
        "paused_until": one.paused_until,
        "failures": one.failures,
        "unclear": one.unclear,
        "reason": one.reason,
    }
