"""When a worker takes its turns: polling, waking, backing off, and leaving with grace."""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from random import random

from flask_outbox.mail.errors import Contended, OutboxUnavailable
from flask_outbox.mail.exchange import Report
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.rates import AHEAD
from flask_outbox.mail.route import RouteNews, Routing, is_ours
from flask_outbox.mail.submission import Submission
from flask_outbox.outbox.claim import release
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.prune import Keep
from flask_outbox.outbox.record import Recorded, record
from flask_outbox.outbox.workers import UNKNOWN, Badge, WorkerLost, end, goodbye
from flask_outbox.transports.base import Signing, Transport, unsigned
from flask_outbox.worker.bell import Bell
from flask_outbox.worker.carriers import choose_carrier
from flask_outbox.worker.journey import turn
from flask_outbox.worker.lanes import Lanes
from flask_outbox.worker.leased import Leased
from flask_outbox.worker.listening import Listening
from flask_outbox.worker.news import News, Telling
from flask_outbox.worker.retention import Retention
from flask_outbox.worker.say import say
from flask_outbox.worker.unexpected import place
from flask_outbox.worker.upkeep import Upkeep
from flask_outbox.worker.ways import Load, Ways

NAMES_EVERY = 0.05  # seconds: who else has mail is asked no more often, whatever there is to do
POLL_STEPS = 16  # after work the next look comes after this share of `poll`, then twice that, …
OVERDUE = 0.05  # seconds: what fell due after the claim, or is held back by a route on probation
IN_TIME = AHEAD / 4  # seconds: for what a rate lets go by and by
STAYS_FOR = 1.0  # seconds: a drain stays for what a rate lets go within
IN_VAIN_MOST = 3
TROUBLE_FIRST = 0.1  # seconds to back off while the database is away
TROUBLE_MOST = 15.0
LAST_NEWS = 1.0  # seconds that what was recorded in a hurry may take to be told
LAST_WORDS = 5.0  # seconds beyond the grace that whoever waits for a worker should give it

Alert = RouteNews | WorkerLost


def _nobody(heard: Recorded | Alert) -> None:
    """Observe nothing."""


def _nothing() -> None:
    """Do nothing."""


def never() -> bool:
    """Stay."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a worker works with; all times in seconds.

    ``transports`` are by route, and each is a transport of that name but for those that
    ``routings`` put together; ``load`` makes those of other names, for as long as a window takes.
    ``connections`` are per route, ``timeout`` bounds one message on the wire, ``grace`` what
    is under way when the worker is told to stop. ``observe`` hears what became of each message,
    in a thread of its own and in order, after it was committed, and ``alert`` what somebody should
    look at; what they raise is logged and forgotten. ``badge`` says what this worker runs with,
    ``retention`` what it forgets in passing.
    """

    outbox: Outbox
    transports: Mapping[str, Transport]
    routings: Sequence[Routing] = ()
    load: Load | None = None
    connections: int = 5
    timeout: float = 600.0
    grace: float = 30.0
    poll: float = 1.0
    observe: Callable[[Recorded], None] = _nobody
    alert: Callable[[Alert], None] = _nobody
    badge: Badge = UNKNOWN
    retention: Retention = field(default_factory=lambda: Retention(Keep()))
    sign: Signing = unsigned

    @property
    def ways(self) -> Ways:
        """What can be sent for."""
        return Ways(self.transports, self.routings, self.load)


class Worker:
    """Sends what is due.

    ``run`` or ``drain`` is called once; the rest from any thread, and from signal handlers.
    """

    def __init__(self, plan: Plan) -> None:
        self.name = f"{platform.node()[:64]}:{os.getpid()}:{os.urandom(3).hex()}"
        self._plan = plan
        self._bell = Bell()
        self._stopping = False
        self._abandoned = False
        self._woken = False
        self._leave: Callable[[], bool] = never
        self._began: Callable[[], None] = _nothing
        self._farewell = goodbye
        self._carrier = choose_carrier(plan.timeout)
        self._ways = plan.ways
        self._lanes = Lanes(self._carrier, self._ways, plan.connections, self._bell.ring)
        self._leased = Leased(self.name, self._ways)
        self._upkeep = Upkeep(plan.outbox, self._leased, self._lanes, plan.badge, plan.retention)
        self._news = News(self._bell.ring)
        self._look_at = 0.0  # when to ask the outbox again, after it had nothing
        self._names_at = 0.0  # when it may be asked again who else has mail
        self._is_curious = self._ways.loads  # that is yet to be asked
        self._pause = plan.poll / POLL_STEPS
        self._is_paced = plan.outbox.rates.are_set
        self._frees = plan.outbox.rates.are_of_number
        self._has_more = False  # that a rate lets go soon
        self._in_vain = 0  # looks in a row for what was due and could not be had
        self._stop_at = self._leave_at = float("inf")
        self._troubles = 0
        self._count = 0

    def wake(self) -> None:
        """Look at the outbox at once: something was put there."""
        self._woken = True
        self._bell.ring()

    def stop(self, grace: float | None = None) -> None:
        """Claim nothing more; finish what is under way, for at most the plan's grace, or this."""
        grace = self._plan.grace if grace is None else grace
        self._leave_at = min(self._leave_at, time.monotonic() + grace)
        self._stopping = True
        self._bell.ring()

    def abandon(self) -> None:
        """Leave at once; other workers take over when the leases end."""
        self._abandoned = True
        self.stop()

    def run(self, began: Callable[[], None] = _nothing, leave: Callable[[], bool] = never) -> None:
        """Work until stopped; ``began`` is called when its first sign of life is written.

        ``leave`` is asked at least once a poll, and stops it.
        """
        self._began = began
        self._leave = leave
        listening = Listening(self._plan.outbox, self.wake)
        listening.begin()
        try:
            self._work(lambda: False)
        finally:
            listening.end()

    def drain(self, seconds: float | None = None, leave: Callable[[], bool] = never) -> int:
        """Work until nothing is due, or for so long; give the number of messages that were tried.

        What is under way when the time is over comes to its end.

        After its last mail it forgets what ended long ago, and sends what comes meanwhile.
        ``leave`` is asked at least once a poll, and stops it. Raises OutboxUnavailable where the
        outbox cannot be used.
        """
        self._leave = leave
        self._farewell = end
        if seconds is not None:
            self._stop_at = time.monotonic() + seconds
        self._work(self._has_nothing_due, raises=True)
        return self._count

    def _has_nothing_due(self) -> bool:
        leased = self._leased
        if leased.held_up or leased.hungry(self._lanes) or self._has_more or self._is_curious:
            return False
        return self._is_idle() and self._upkeep.has_forgotten

    def _is_idle(self) -> bool:
        return self._is_done() and not any(True for _ in self._leased)

    def _is_done(self) -> bool:
        return self._lanes.idle and self._news.is_told

    def _work(self, is_done: Callable[[], bool], *, raises: bool = False) -> None:
        say.info("worker %s begins", self.name)
        try:
            while not (self._has_left() or is_done()):
                try:
                    self._step()
                except Exception as error:
                    if raises and self._is_idle() and not isinstance(error, Contended):
                        raise
                    self._rest(self._trouble(error))
                else:
                    self._troubles = 0
                    self._bell.wait(0.0 if is_done() else self._seconds())
        finally:
            self._carrier.abandon()
            with suppress(Exception):  # the latest, when it leaves in a hurry
                self._record(self._lanes.heard())
            self._carrier.close()
            self._news.end(LAST_NEWS)
            self._upkeep.end(self._farewell)
            say.info("worker %s ends", self.name)

    def _has_left(self) -> bool:
        self._stopping = self._stopping or self._leave()
        if not self._stopping and time.monotonic() < self._stop_at:
            return False
        if not self._leased.closed:
            self._leased.closed = self._lanes.leaving = True
            with suppress(Exception):  # if not now, then when the leases end
                self._release(self._leased.let_all_go())
        # Whose time is over ends its sends all the same, however long these take, as it was begun
        # with; grace is for who was told to leave, and for a database that is away.
        if self._leave_at == float("inf") and (self._stopping or not self._lanes.busy):
            self._leave_at = time.monotonic() + self._plan.grace
        return self._abandoned or self._is_done() or time.monotonic() >= self._leave_at

    def _step(self) -> None:
        """Take one turn, and say what came of it."""
        plan, leased = self._plan, self._leased
        self._look()
        leased.held_up = self._news.is_behind
        was_dry = leased.dry
        if self._troubles:  # what goes out must be something that can be recorded
            self._record(self._lanes.heard())
        self._tell(self._upkeep.mind())
        self._began()
        self._began = _nothing
        recorded = turn(plan.outbox, leased, self._lanes, plan.sign)
        self._count += sum(each.submission.began_at is not None for each in recorded)
        self._tell(recorded)
        paused = {each.submission.route for each in recorded if was_our_fault(each)}
        self._release(leased.let_go(paused))  # what would go by a route that is paused now
        if leased.dry and not was_dry:
            self._look_at = time.monotonic() + self._next_look()
        if recorded and (not self._is_paced or self._frees or any(map(_is_due_again, recorded))):
            leased.dry = False  # what one outcome held back, by its route or its row, may go now
            self._is_curious = self._ways.loads

    def _look(self) -> None:
        """Where it is time to, ask anew for what is configured, and who else has mail."""
        now = time.monotonic()
        if self._woken or now >= self._look_at:
            self._woken = self._leased.dry = False
            self._is_curious = self._ways.loads
        # What is recorded puts off the look time and again.
        if now >= self._names_at + (0.0 if self._is_curious else self._plan.poll):
            self._leased.join(self._ways.due(self._plan.outbox))
            self._is_curious = False
            self._names_at = now + NAMES_EVERY

    def _record(self, reports: Sequence[Report]) -> None:
        """Record out of turn."""
        recorded = record(self._plan.outbox, reports, random) if reports else []
        self._lanes.forget(reports)
        self._tell(recorded)

    def _release(self, submissions: Sequence[Submission]) -> None:
        """Give back what was not started."""
        release(self._plan.outbox, submissions)

    def _next_look(self) -> float:
        """Tell in how many seconds to ask the outbox again: when the next is due, or as polled."""
        plan = self._plan
        brought, self._has_more = self._leased.brought, False
        self._pause = plan.poll / POLL_STEPS if brought else min(plan.poll, self._pause * 2)
        if brought and not self._is_paced:
            self._in_vain = 0
            return self._pause
        due = self._ways.next_due(plan.outbox)
        if due is None:
            return self._pause
        with plan.outbox.read() as connection:
            wait = due - plan.outbox.now(connection)
        in_vain = not brought and wait <= 0.0 and not (self._is_paced and self._lanes.busy)
        self._in_vain = self._in_vain + 1 if in_vain else 0
        if self._is_paced:
            self._has_more = wait < STAYS_FOR and self._in_vain < IN_VAIN_MOST
            return max(IN_TIME, min(self._pause, wait))
        if wait <= 0.0:  # who holds it back, a probe or a full route, rings when that is over
            wait = OVERDUE * 2.0 ** min(self._in_vain, 16)
        return min(self._pause, wait)

    def _seconds(self) -> float:
        """Tell how long the thread may sleep if nobody rings."""
        if self._leased.hungry(self._lanes) or self._leased.windows(self._lanes):
            return 0.0
        look_at = self._look_at if self._leased.dry else float("inf")
        leave_at = self._leave_at if self._leased.closed else self._stop_at
        names_at = self._names_at if self._leased.dry and self._is_curious else float("inf")
        begins_at = self._leased.pace.begins_at
        at = min(self._lanes.record_at, self._upkeep.at, look_at, names_at, leave_at, begins_at)
        return min(self._plan.poll, max(0.0, at - time.monotonic()))

    def _rest(self, seconds: float) -> None:
        """Keep away from the database; only being told to leave cuts it short."""
        until = min(time.monotonic() + seconds, self._leave_at)
        while (left := until - time.monotonic()) > 0 and not self._abandoned:
            if self._stopping and not self._leased.closed:
                return
            self._bell.wait(left)

    def _trouble(self, error: Exception) -> float:
        """Log it; tell for how many seconds to back off."""
        seconds = min(TROUBLE_MOST, TROUBLE_FIRST * 2.0 ** min(self._troubles, 16))
        self._troubles += 1
        if isinstance(error, OutboxUnavailable):
            say.warning("worker %s rests for up to %.1f s: %s", self.name, seconds, error)
        else:
            say.error("worker %s stumbled: %s", self.name, place(error))
            self._record_one_by_one()
        return seconds * (0.5 + random() / 2)  # noqa: S311  so that workers do not come back as one

    def _record_one_by_one(self) -> None:
        """Find the report that cannot be recorded, if it is that, and let its lease run out."""
        with suppress(OutboxUnavailable):
            for report in self._lanes.reports():
                try:
                    self._record([report])
                except OutboxUnavailable:
                    raise
                except Exception as error:  # noqa: BLE001  any bug there may be
                    say.error("message %s not recorded: %s", report.submission.id, place(error))
                    self._lanes.forget([report])

    def _tell(self, news: Sequence[Recorded | WorkerLost]) -> None:
        tellings: list[Telling] = []
        for each in news:
            if isinstance(each, Recorded):
                id_, state = each.submission.id, each.state
                told = say.error if state in _WANT_A_PERSON else say.debug
                told("message %s is %s after attempt %d", id_, state.value, each.submission.attempt)
                tellings.append(partial(self._plan.observe, each))
            alert = each.alert if isinstance(each, Recorded) else each
            if alert is not None:
                tellings.append(partial(self._plan.alert, alert))
        self._news.tell(tellings)


def _is_due_again(recorded: Recorded) -> bool:
    return recorded.state is State.QUEUED


_WANT_A_PERSON = (State.FAILED, State.UNKNOWN)  # what got too old was meant to


def was_our_fault(recorded: Recorded) -> bool:
    """Tell whether it paused its route."""
    return any(is_ours(outcome) for outcome in recorded.receipt.values())


def drain(plan: Plan, *, seconds: float | None = None) -> int:
    """Send what is due in this thread, for at most so long, and tell how many were tried."""
    return Worker(plan).drain(seconds)
