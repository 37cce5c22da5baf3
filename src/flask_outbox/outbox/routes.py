"""The routes' health: one that fails by our own fault pauses, and is probed when it comes back.

A pause lasts 1 s, then twice as long each time it is followed by another, up to 60 s, or as long
as the far side asked. After it one message at a time, of all workers, probes the way, one that
surely has not left before where there is such; the first that is accepted opens it again. Several
unclear outcomes in a row pause a route too: whatever eats our answers would make copies of
everything.

That a route began to fail, and that it works again, is news: of two workers that find out at once
one tells it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, case, func, select, update

from flask_outbox.mail.exchange import Report
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Unclear
from flask_outbox.mail.retry import clamp_retry_after
from flask_outbox.mail.say import Say
from flask_outbox.outbox.settle import printable
from flask_outbox.outbox.tables import LEASED, message, route
from flask_outbox.outbox.unless import insert_unless

log = Say("flask_outbox.outbox")

PAUSE_FIRST = 1.0
PAUSE_MOST = 60.0
UNCLEAR_IN_A_ROW = 3
ABOUT_TO_START = 2.0  # seconds: what is claimed longer than that is no probe, but stands in a queue

_ROUTES = (
    select(route).where(route.c.name.in_(bindparam("names", expanding=True))).order_by(route.c.name)
)
_ROUTES_LOCKED = _ROUTES.with_for_update()
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
_PROBE_NOW = (
    update(route)
    .where(route.c.paused_until > bindparam("now"))
    .values(paused_until=bindparam("now"))
)


@dataclass(frozen=True, slots=True)
class RoutePaused:
    """It began to fail: nothing goes that way for now."""

    route: str
    seconds: float
    reason: str

    def __str__(self) -> str:
        return f"Route {self.route} is paused for {self.seconds:g} s: {self.reason}"


@dataclass(frozen=True, slots=True)
class RouteResumed:
    """It works again, after one or more pauses."""

    route: str

    def __str__(self) -> str:
        return f"Route {self.route} works again."


RouteNews = RoutePaused | RouteResumed


@dataclass(slots=True)
class Route:
    """A way out, and how it did lately."""

    name: str
    paused_at: float | None = None
    paused_until: float | None = None
    failures: int = 0
    unclear: int = 0
    reason: str = ""
    before: int = 0  # not stored: its failures when it was read
    changed: bool = False

    def __post_init__(self) -> None:
        self.before = self.failures

    def paused(self, now: float) -> bool:
        """Tell whether nothing may go this way now; a pause from the future is over.

        (The clock was set back since then.)
        """
        if self.paused_at is None or self.paused_until is None:
            return False
        return self.paused_at <= now < self.paused_until

    @property
    def on_probation(self) -> bool:
        """Whether it has yet to show that it works again."""
        return self.failures > 0

    def hear(self, report: Report, now: float) -> None:
        """Take in what a message met on this way."""
        outcomes = list(report.receipt.values())
        ours = [
            each for each in outcomes if isinstance(each, Deferred) and each.fault is Fault.OURS
        ]
        if any(isinstance(each, Accepted) for each in outcomes):
            self._works()
        elif ours:
            asked = max((each.retry_after or 0.0 for each in ours), default=0.0)
            self._pause(now, ours[0].text, clamp_retry_after(asked) if asked else 0.0)
        elif unclear := [each for each in outcomes if isinstance(each, Unclear)]:
            self.unclear += 1
            self.changed = True
            if self.unclear >= UNCLEAR_IN_A_ROW:
                self._pause(now, f"{self.unclear} unclear in a row: {unclear[0].text}", 0.0)

    def news(self) -> RouteNews | None:
        """Tell what is different from when it was read."""
        if self.on_probation == bool(self.before):
            return None
        return RouteResumed(self.name) if self.before else self.pause

    @property
    def pause(self) -> RoutePaused:
        """The latest."""
        seconds = (self.paused_until or 0.0) - (self.paused_at or 0.0)
        return RoutePaused(self.name, seconds, self.reason)

    def _works(self) -> None:
        if self.failures or self.unclear or self.paused_until is not None:
            self.paused_at = self.paused_until = None
            self.failures = self.unclear = 0
            self.reason = ""
            self.changed = True

    def _pause(self, now: float, reason: str, asked: float) -> None:
        """Pause; what was on its way when the pause began only makes it longer where it asks to."""
        if self.paused(now):
            if self.paused_until is not None and now + asked > self.paused_until:
                self.paused_until, self.changed = now + asked, True
            return
        seconds = max(asked, min(PAUSE_MOST, PAUSE_FIRST * 2.0 ** min(self.failures, 16)))
        self.reason = printable(reason)
        self.paused_at, self.paused_until = now, now + seconds
        self.failures += 1
        self.changed = True


def routes(connection: Connection, names: Iterable[str], *, lock: bool = False) -> dict[str, Route]:
    """Read what is known of these."""
    wanted = sorted(set(names))
    found = {name: Route(name) for name in wanted}
    query = _ROUTES_LOCKED if lock else _ROUTES
    for row in connection.execute(query, {"names": wanted}).mappings():
        found[row["name"]] = Route(**row)
    return found


def open_routes(connection: Connection, names: Iterable[str], now: float) -> list[Route]:
    """List those that may be claimed for: neither paused, nor probed by somebody right now.

    To be called in the claim's transaction, in which a route on probation stays locked.
    """
    found = {name: each for name, each in routes(connection, names).items() if not each.paused(now)}
    unsure = [name for name, each in found.items() if each.on_probation]
    if unsure:
        found.update(routes(connection, unsure, lock=True))
        for name, started, leased_at in connection.execute(_PROBES, {"names": unsure}):
            if started or (leased_at is not None and abs(now - leased_at) < ABOUT_TO_START):
                del found[name]
    return [each for each in found.values() if not each.paused(now)]


def probe_now(connection: Connection, now: float) -> None:
    """End the pauses: whoever works now has other settings than those that failed."""
    connection.execute(_PROBE_NOW, {"now": now})


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
