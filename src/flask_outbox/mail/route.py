"""The routes of a transport: which one a mail takes, and how one that fails pauses and comes back.

A transport has one way out or several. Those of its first tier share the mail by their weights; the
next tier is for when none of the first may be used (failover), and so on.

A route that fails by our own fault pauses: 1 s, then twice as long each time it is followed by
another pause, up to 60 s, or as long as the far side asked. After it one message at a time probes
it; the first that is accepted opens it again. What was on its way when it paused may do so before
the end of the pause, unless the far side had asked for that. Several unclear outcomes in a row
pause a route too: whatever eats our answers would make copies of everything.

All times are UNIX seconds, ``share`` is a number in [0, 1).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from flask_outbox.mail.exchange import Report
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Outcome, Unclear
from flask_outbox.mail.retry import clamp_retry_after
from flask_outbox.mail.say import printable

PAUSE_FIRST = 1.0
PAUSE_MOST = 60.0
UNCLEAR_IN_A_ROW = 3

Tier = Mapping[str, float]  # the names of routes that share the mail, and their weights


@dataclass(frozen=True, slots=True)
class Routing:
    """Which routes a transport has, in the order of preference; at least one."""

    transport: str
    tiers: tuple[Tier, ...]

    @classmethod
    def single(cls, transport: str) -> Self:
        """Give a transport its only route, which has its name."""
        return cls(transport, ({transport: 1.0},))

    @property
    def routes(self) -> list[str]:
        """Name all of them."""
        return [name for tier in self.tiers for name in tier]

    @property
    def has_choice(self) -> bool:
        """Whether there is more than one."""
        return len(self.routes) > 1

    def choose(self, fit: Collection[str], share: float) -> str | None:
        """Choose among the routes that may be used now, or None: by weight, in the first tier."""
        if len(fit) == 1:  # nearly always
            return next(iter(fit))
        for tier in self.tiers:
            weights = {name: weight for name, weight in tier.items() if name in fit}
            left = share * sum(weights.values())
            for name, weight in weights.items():
                left -= weight
                if left < 0.0:
                    return name
            if weights:  # rounding
                return next(reversed(weights))
        return None

    def in_order(self, share: float) -> Iterator[str]:
        """Give each once, the preferred ones first, those of a tier as chosen by weight."""
        left = self.routes
        while (name := self.choose(left, share)) is not None:
            left.remove(name)
            yield name


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


def is_ours(outcome: Outcome) -> bool:
    """Tell whether it pauses the route: nothing left, and not by the recipient's fault."""
    return isinstance(outcome, Deferred) and outcome.fault is Fault.OURS


@dataclass(slots=True)
class Route:
    """A way out, and how it did lately."""

    name: str
    paused_at: float | None = None
    paused_until: float | None = None
    failures: int = 0  # pauses since it last worked
    unclear: int = 0  # unclear outcomes in a row
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
        """Take in what a message met on this way.

        Who took a part of it and then turned us away works, and is left alone all the same.
        """
        outcomes = report.receipt.values()
        accepted = any(isinstance(each, Accepted) for each in outcomes)
        if accepted and not self._is_to_rest(now):
            self._works()
        if ours := [each for each in outcomes if isinstance(each, Deferred) and is_ours(each)]:
            asked = max((each.retry_after or 0.0 for each in ours), default=0.0)
            self._pause(now, ours[0].text, clamp_retry_after(asked) if asked else 0.0)
        elif not accepted and (unclear := [each for each in outcomes if isinstance(each, Unclear)]):
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

    def _is_to_rest(self, now: float) -> bool:
        """Tell whether the far side asked for the pause that is on: it is longer than ours."""
        if not self.paused(now) or self.paused_at is None or self.paused_until is None:
            return False
        return self.paused_until > self.paused_at + _own_pause(self.failures - 1)

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
        seconds = max(asked, _own_pause(self.failures))
        self.reason = printable(reason)
        self.paused_at, self.paused_until = now, now + seconds
        self.failures += 1
        self.changed = True


def _own_pause(failures: int) -> float:
    """Give the seconds of the pause after so many."""
    return min(PAUSE_MOST, PAUSE_FIRST * 2.0 ** min(failures, 16))


def open_from(routes: Iterable[Route], now: float) -> float:
    """Tell from when on one of these may be used; the past for now."""
    return min((each.paused_until or now) if each.paused(now) else 0.0 for each in routes)
