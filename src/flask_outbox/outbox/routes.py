"""The routes' health: one that fails by our own fault pauses, and is probed when it comes back.

A pause lasts 1 s, then twice as long each time it is followed by another, up to 60 s, or as long
as the far side asked. After it one message at a time probes the way, one that surely has not left
before where there is such; the first that is accepted opens it again. Several unclear outcomes in
a row pause a route too: whatever eats our answers would make copies of everything.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, select, update
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from flask_outbox.mail.exchange import Report
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Unclear
from flask_outbox.mail.retry import clamp_retry_after
from flask_outbox.mail.say import Say
from flask_outbox.outbox.settle import printable
from flask_outbox.outbox.tables import route

log = Say("flask_outbox.outbox")

PAUSE_FIRST = 1.0
PAUSE_MOST = 60.0
UNCLEAR_IN_A_ROW = 3

_ROUTES = select(route).where(route.c.name.in_(bindparam("names", expanding=True)))
_NEW = sqlite_insert(route).on_conflict_do_nothing()
_CHANGE = update(route).where(route.c.name == bindparam("b_name"))


@dataclass(slots=True)
class Route:
    """A way out, and how it did lately."""

    name: str
    paused_at: float | None = None
    paused_until: float | None = None
    failures: int = 0
    unclear: int = 0
    reason: str = ""
    alert: str = ""  # not stored: that it began to fail is news
    changed: bool = False

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

    def _works(self) -> None:
        if self.failures:
            log.info("Route %s works again.", self.name)
        if self.failures or self.unclear or self.paused_until is not None:
            self.paused_at = self.paused_until = None
            self.failures = self.unclear = 0
            self.reason = self.alert = ""
            self.changed = True

    def _pause(self, now: float, reason: str, asked: float) -> None:
        """Pause; what was on its way when the pause began only makes it longer where it asks to."""
        if self.paused(now):
            if self.paused_until is not None and now + asked > self.paused_until:
                self.paused_until, self.changed = now + asked, True
            return
        seconds = max(asked, min(PAUSE_MOST, PAUSE_FIRST * 2.0 ** min(self.failures, 16)))
        self.reason = printable(reason)
        text = f"Route {self.name} is paused for {seconds:g} s: {self.reason}"
        if self.failures == 0:
            self.alert = text
        (log.warning if self.failures else log.error)("%s", text)
        self.paused_at, self.paused_until = now, now + seconds
        self.failures += 1
        self.changed = True


def routes(connection: Connection, names: Iterable[str]) -> dict[str, Route]:
    """Read what is known of these."""
    wanted = sorted(set(names))
    found = {name: Route(name) for name in wanted}
    for row in connection.execute(_ROUTES, {"names": wanted}).mappings():
        found[row["name"]] = Route(**row)
    return found


def hear(connection: Connection, reports: Iterable[Report], now: float) -> dict[str, str]:
    """Let the routes take in what was reported; give the alerts by route."""
    listed = list(reports)
    known = routes(connection, (each.submission.route for each in listed))
    for report in listed:
        known[report.submission.route].hear(report, now)
    changed = [each for each in known.values() if each.changed]
    if changed:
        connection.execute(_NEW, [{**_values(each), "name": each.name} for each in changed])
        connection.execute(_CHANGE, [{**_values(each), "b_name": each.name} for each in changed])
    return {each.name: each.alert for each in changed if each.alert}


def _values(one: Route) -> Mapping[str, Any]:
    return {
        "paused_at": one.paused_at,
        "paused_until": one.paused_until,
        "failures": one.failures,
        "unclear": one.unclear,
        "reason": one.reason,
    }
