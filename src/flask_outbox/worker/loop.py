"""When a worker takes its turns: polling, waking, backing off, and leaving with grace."""

import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from random import random

from flask_outbox.mail.errors import Contended, OutboxUnavailable
from flask_outbox.mail.exchange import Report
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.route import is_ours
from flask_outbox.mail.submission import Submission
from flask_outbox.outbox.claim import release
from flask_outbox.outbox.record import Recorded
from flask_outbox.outbox.workers import WorkerLost, end, goodbye
from flask_outbox.worker.bell import Bell
from flask_outbox.worker.carriers import choose_carrier
from flask_outbox.worker.journey import keep_books, turn
from flask_outbox.worker.lanes import Lanes
from flask_outbox.worker.leased import Leased
from flask_outbox.worker.listening import Listening
from flask_outbox.worker.looks import Looks
from flask_outbox.worker.news import News, Telling
from flask_outbox.worker.plan import Plan, never
from flask_outbox.worker.say import say
from flask_outbox.worker.unexpected import place
from flask_outbox.worker.upkeep import Upkeep

TROUBLE_FIRST = 0.1  # seconds to back off while the database is away
TROUBLE_MOST = 15.0
LAST_NEWS = 1.0  # seconds that what was recorded in a hurry may take to be told
LOCKED = "another session has locked their rows, and has not let go"
LAST_WORDS = 5.0  # seconds beyond the grace that whoever waits for a worker should give it


def _nothing() -> None:
    """Do nothing."""


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
        self._leave: Callable[[], bool] = never
        self._began: Callable[[], None] = _nothing
        self._farewell = goodbye
        self._carrier = choose_carrier(plan.timeout)
        self._ways = plan.ways
        self._lanes = Lanes(self._carrier, self._ways, plan.connections, self._bell.ring)
        self._leased = Leased(self.name, self._ways)
        self._upkeep = Upkeep(plan.outbox, self._leased, self._lanes, plan.badge, plan.retention)
        self._news = News(self._bell.ring)
        self._looks = Looks(plan.outbox, self._ways, plan.poll, self._leased, self._lanes)
        self._stop_at = self._leave_at = float("inf")
        self._troubles = 0
        self._count = 0

    @property
    def held_back(self) -> int:
        """How often it held back a mail whose key is not here."""
        return self._leased.held_back

    def wake(self) -> None:
        """Look at the outbox at once: something was put there."""
        self._looks.wake()
        self._bell.ring()

    def stop(self, grace: float | None = None) -> None:
        """Claim nothing more; finish what is under way, for at most the plan's grace, or this."""
        grace = self._plan.grace if grace is None else grace
        self._leave_at = min(self._leave_at, time.monotonic() + grace)
        self._stopping = True
        self._bell.ring()

    def abandon(self) -> None:
        """Leave at once; what may have left is taken over when its lease ends."""
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
        leased, looks = self._leased, self._looks
        if leased.held_up or leased.hungry(self._lanes) or looks.has_more or looks.is_curious:
            return False
        return self._is_idle() and self._upkeep.has_forgotten

    def _is_idle(self) -> bool:
        return self._is_done() and not any(True for _ in self._leased)

    def _is_done(self) -> bool:
        is_over = self._lanes.idle or self._lanes.held_up_for > self._plan.grace
        return is_over and self._news.is_told

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
            self._lanes.abandon()
            with suppress(Exception):  # the latest, when it leaves in a hurry
                self._record(self._lanes.heard())
            if theirs := self._lanes.held_up:
                say.warning("worker %s leaves %d not recorded: %s", self.name, len(theirs), LOCKED)
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
        self._looks.before_turn()
        leased.held_up = self._news.is_behind
        if self._troubles:  # what goes out must be something that can be recorded
            self._record(self._lanes.heard())
        self._tell(self._upkeep.mind())
        self._began()
        self._began = _nothing
        recorded: list[Recorded] = []
        try:
            turn(plan.outbox, leased, self._lanes, plan.sign, recorded)
        finally:
            self._count += sum(each.submission.began_at is not None for each in recorded)
            self._tell(recorded)
        paused = {each.submission.route for each in recorded if was_our_fault(each)}
        self._release(leased.let_go(paused))  # what would go by a route that is paused now
        self._looks.after_turn(recorded)

    def _record(self, reports: Sequence[Report]) -> None:
        """Record out of turn."""
        self._tell(keep_books(self._plan.outbox, self._lanes, reports))

    def _release(self, submissions: Sequence[Submission]) -> None:
        """Give back what was not started."""
        release(self._plan.outbox, submissions)

    def _seconds(self) -> float:
        """Tell how long the thread may sleep if nobody rings."""
        if self._leased.hungry(self._lanes) or self._leased.windows(self._lanes):
            return 0.0
        leave_at = self._leave_at if self._leased.closed else self._stop_at
        begins_at = self._leased.pace.begins_at
        at = min(self._lanes.record_at, self._upkeep.at, self._looks.at, leave_at, begins_at)
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


_WANT_A_PERSON = (State.FAILED, State.UNKNOWN)  # what got too old was meant to


def was_our_fault(recorded: Recorded) -> bool:
    """Tell whether it paused its route."""
    return any(is_ours(outcome) for outcome in recorded.receipt.values())


def drain(plan: Plan, *, seconds: float | None = None) -> int:
    """Send what is due in this thread, for at most so long, and tell how many were tried."""
    return Worker(plan).drain(seconds)
