"""Send now by one of several routes: chosen before it connects, the next where nothing left.

What fails over is what the outbox would pause a route for: a relay that is away, credentials that
it does not take, a 429 or 503. Never a recipient's fault, and never what may have left. A process
keeps in mind which routes failed lately, so that not each of its requests waits for them.
"""

import random
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass

from flask_outbox.mail.exchange import Report
from flask_outbox.mail.outcome import Outcome
from flask_outbox.mail.route import Route, Routing, is_ours
from flask_outbox.mail.submission import Receipt, Submission
from flask_outbox.outbox.forks import OwnLock
from flask_outbox.transports.base import Transport


@dataclass(frozen=True, slots=True)
class Way:
    """A transport: its routes in the order of preference, and what stands at the end of each."""

    routing: Routing
    routes: Mapping[str, Transport]

    @property
    def first(self) -> Transport:
        """The preferred one, or one of those."""
        return self.routes[self.routing.routes[0]]


class Health:
    """How the routes did lately, as far as this process knows."""

    def __init__(self) -> None:
        self._lock = OwnLock()
        self._known: dict[str, Route] = {}

    def order(self, routing: Routing) -> list[str]:
        """Give the routes in the order in which they are to be tried, the paused ones last."""
        if not routing.has_choice:
            return routing.routes
        names = list(routing.in_order(random.random()))  # noqa: S311  shares the work, no secret
        now = time.monotonic()
        with self._lock.here():
            paused = {name for name, each in self._known.items() if each.paused(now)}
        return sorted(names, key=paused.__contains__)

    def hear(self, route: str, submission: Submission, receipt: Receipt) -> None:
        """Take in what became of a mail."""
        with self._lock.here():
            known = self._known.setdefault(route, Route(route))
            known.hear(Report(submission, receipt), time.monotonic())


def tries(
    way: Way, health: Health, submission: Submission
) -> Generator[tuple[Transport, Submission], Receipt, Receipt]:
    """Yield by which transport to send what, be sent what became of it, and sum it up."""
    outcomes: dict[str, Outcome] = {}
    left = submission
    for route in health.order(way.routing):
        receipt = yield way.routes[route], left
        if not way.routing.has_choice:
            return receipt
        health.hear(route, left, receipt)
        outcomes |= receipt
        again = [each for each, outcome in receipt.items() if is_ours(outcome)]
        if not again:
            break
        left = left.only(again)
    return Receipt({each: outcomes[each] for each in submission.recipients if each in outcomes})
