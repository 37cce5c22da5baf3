"""Lanes: so many windows of submissions under way at a time, and what was heard of them.

The worker's thread sends a window down a free lane and goes on; a carrier's thread, loop or
greenlet says what became of each mail. What was heard stays here until it is recorded, however
long the database is away.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from flask_outbox.mail.exchange import Report
from flask_outbox.mail.outcome import Deferred, Fault, Outcome, Unclear
from flask_outbox.mail.route import is_ours
from flask_outbox.mail.submission import Receipt, Submission
from flask_outbox.transports.base import Signing, Transport
from flask_outbox.worker.carriers import Carrier
from flask_outbox.worker.say import say
from flask_outbox.worker.unexpected import Watched, outcome_of_bug, outcome_of_failure, place
from flask_outbox.worker.ways import Ways

RECORD_WITHIN = 0.05  # seconds
RECORD_AT_MOST = 100  # outcomes in one commit
RECORD_AGAIN = 0.3  # seconds: what is about a row that somebody else has
LANES_MOST = 100  # loaded routes that have one, in a worker, and lanes that these have besides

Window = list[Submission]


class _Load:
    """A window on its lane, in as many parts as it takes."""

    def __init__(self, window: Sequence[Submission], transport: Transport) -> None:
        self.route = window[0].route
        self.transport = transport
        self.parts = deque([window])
        self.watched: Watched | None = None  # of this part
        self.next_part()

    def next_part(self) -> None:
        self.part = self.parts.popleft()
        self.unheard = {each.id: each for each in self.part}

    def left_behind(self) -> list[Submission]:
        """List those that nothing is said of any more, and that cannot have left."""
        waiting = [each for part in self.parts for each in part]
        if self.watched is None or self.watched.speaks:
            return waiting
        unheard = list(self.unheard.values())
        return [*filter(self.watched.cannot_have_sent, unheard), *waiting]


class Lanes:
    """``connections`` lanes for each route; a lane carries one window at a time."""

    def __init__(
        self, carrier: Carrier, ways: Ways, connections: int, ring: Callable[[], None]
    ) -> None:
        self._carrier = carrier
        self._ways = ways
        self._connections = connections
        self.leaving = False
        self._left = threading.Event()
        self._ring = ring  # tells the worker's thread that there is something to look at
        self._lock = threading.Lock()
        self._busy: Counter[str] = Counter()
        self._under_way: set[_Load] = set()
        self._begun: dict[str, Submission] = {}  # by id: under way, or heard of and not recorded
        self._heard: list[Report] = []
        self._heard_at = 0.0
        self._later: list[Report] = []  # heard of, and somebody else has their rows
        self._later_at = 0.0
        self._held_up: dict[str, float] = {}  # by id: since when it cannot be recorded

    def room(self, route: str) -> int:
        """How many the lanes of a route take."""
        return self._connections * self._ways.window(route)

    def window(self, route: str) -> int:
        """How many one lane takes."""
        return self._ways.transport(route).carries.window

    def free(self, route: str) -> int:
        """Count the lanes of a route that carry nothing now."""
        return self._connections - self._busy[route]

    def spare(self, windows: Iterable[Window]) -> list[Window]:
        """Leave out those whose lanes would be too many, of routes that are loaded.

        So many of these have a lane, and there are so many besides the first of each. While one
        waits for its first, nobody gets another: what says nothing holds up nobody else.
        """
        is_loaded = self._ways.is_loaded
        held = Counter({name: at for name, at in self._busy.items() if at and is_loaded(name)})
        given: list[Window] = []
        further: list[Window] = []
        one_waits = False
        for window in windows:
            route = window[0].route
            if not is_loaded(route):
                given.append(window)
            elif held[route]:
                further.append(window)
            elif len(held) < LANES_MOST:
                held[route] = 1
                given.append(window)
            else:
                one_waits = True
        more = 0 if one_waits else LANES_MOST - (held.total() - len(held))
        return [*given, *further[:more]]

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return any(self._busy.values())

    @property
    def idle(self) -> bool:
        """Whether nothing is under way and nothing waits to be recorded."""
        return not self._begun and not self.busy

    @property
    def record_at(self) -> float:
        """When what was heard is to be recorded (monotonic); infinity for never."""
        with self._lock:
            later_at = self._later_at if self._later else float("inf")
            if not self._heard:
                return later_at
            full = len(self._heard) >= RECORD_AT_MOST or not self.busy
            return min(later_at, self._heard_at if full else self._heard_at + RECORD_WITHIN)

    @property
    def held_up(self) -> list[str]:
        """Name what was heard of and could not be recorded, since somebody else has its row."""
        return list(self._held_up)

    @property
    def held_up_for(self) -> float:
        """For how many seconds all that is left has been held up by others; 0: not all of it."""
        with self._lock:
            if self.busy or self._begun.keys() != self._held_up.keys():
                return 0.0
            since = max(self._held_up.values(), default=float("inf"))
            return max(0.0, time.monotonic() - since)

    def begun(self) -> list[Submission]:
        """List what was started and not recorded: its leases are to be extended."""
        with self._lock:
            return list(self._begun.values())

    def signed(self, window: Sequence[Submission], sign: Signing) -> list[Submission]:
        """Sign each; one that cannot be is heard of as poison, its neighbours go on."""
        ready: list[Submission] = []
        for each in window:
            try:
                ready.append(sign(each, self._ways.transport(each.route)))
            except Exception as error:  # noqa: BLE001  any bug there may be
                say.error("message %s cannot be signed: %s", each.id, place(error))
                self.hear(Report(each, Receipt.same(each, outcome_of_bug(each, error))))
        return ready

    def marked(
        self, window: Sequence[Submission], mark: Callable[[Submission], bool]
    ) -> list[Submission]:
        """Leave the mark of those that go alone; without it they do not go."""
        ready: list[Submission] = []
        for each in window:
            try:
                if not each.alone or mark(each):
                    ready.append(each)
            except Exception as error:  # noqa: BLE001  the database went away; nothing has left
                say.warning("message %s stays: %s", each.id, type(error).__name__)
                away = Deferred("the outbox could not be written", Fault.NONE)
                self.hear(Report(each, Receipt.same(each, away)))
        return ready

    def send(self, window: Sequence[Submission]) -> None:
        """Send a window down a lane of its route."""
        if window:
            load = _Load(window, self._ways.transport(window[0].route))
            with self._lock:
                self._busy[load.route] += 1
                self._under_way.add(load)
                self._begun.update({each.id: each for each in window})
            self._carry(load)

    def abandon(self) -> None:
        """Break off what is under way: what cannot have left is heard of, without its fault.

        The rest stays in doubt until its lease ends.
        """
        self._left.set()
        with self._lock:
            under_way = list(self._under_way)
        if under_way:
            self._carrier.abandon()
        for load in under_way:
            for each in load.left_behind():
                self.hear(Report(each, Receipt.same(each, _LEFT)))

    def hear(self, report: Report) -> None:
        """Keep what was said of one; any thread may call this."""
        with self._lock:
            self._begun[report.submission.id] = report.submission
            first = not self._heard
            if first:
                self._heard_at = time.monotonic()
            if any(map(is_ours, report.receipt.values())):
                self._heard_at = 0.0  # at once: its route is to be paused
            self._heard.append(report)
            if first or self._heard_at == 0.0 or len(self._heard) == RECORD_AT_MOST:
                self._ring()

    def reports(self) -> list[Report]:
        """Look at what is due to be recorded, without forgetting it."""
        if (now := time.monotonic()) < self.record_at:
            return []
        with self._lock:
            if now >= self._later_at:
                self._bring_up()
            return self._heard[:RECORD_AT_MOST]

    def heard(self) -> list[Report]:
        """List all that is not recorded yet, due or not."""
        with self._lock:
            self._bring_up()
            return list(self._heard)

    def _bring_up(self) -> None:
        """Have it tried again; behind the rest, which may be about to be forgotten."""
        self._heard += self._later
        self._later.clear()

    def forget(self, reports: Sequence[Report], busy: Sequence[Report] = ()) -> None:
        """Let go of what is recorded now, but for the busy: somebody has their rows."""
        if not reports:
            return
        with self._lock:
            now = self._heard_at = time.monotonic()
            del self._heard[: len(reports)]
            theirs = {each.submission.id for each in busy}
            for id_ in {each.submission.id for each in reports} - theirs:
                self._begun.pop(id_, None)
                self._held_up.pop(id_, None)
            for id_ in theirs:
                self._held_up.setdefault(id_, now)
            if busy:
                self._later += busy
                self._later_at = now + RECORD_AGAIN

    def _carry(self, load: _Load) -> None:
        load.watched = watched = Watched(lambda: load.transport.send(load.part), self._left)

        def hear(report: Report) -> None:
            load.unheard.pop(report.submission.id, None)
            if not self._left.is_set():
                self.hear(report)
            elif not any(isinstance(each, Unclear) for each in report.receipt.values()):
                self.hear(_without_fault(report))

        def done(error: Exception | None) -> None:
            if not self._left.is_set():
                self._end(load, watched, error)

        try:
            self._carrier.carry(watched.talk(), hear, done)
        except RuntimeError as error:  # no more threads, as at the interpreter's end
            done(error)

    def _end(self, load: _Load, watched: Watched, error: Exception | None) -> None:
        """Judge those of whom nothing was said; take up the rest of the load, or free the lane."""
        silent = list(load.unheard.values())
        if error is not None and silent and not self.leaving:
            say.error("route %s failed: %s", load.route, place(error))
        here = [each for each in silent if watched.cannot_have_sent(each)]
        if watched.failed and here and len(load.part) > 1:
            load.parts.extend([each] for each in here)  # one of them is to blame: see which
            silent = [each for each in silent if each not in here]
        for each in silent:
            outcome = outcome_of_failure(each, watched, error, leaving=self.leaving)
            self.hear(Report(each, Receipt.same(each, outcome)))
        if load.parts:
            load.next_part()
            self._carry(load)
        else:
            with self._lock:
                self._busy[load.route] -= 1
                self._under_way.discard(load)
            self._ring()


_LEFT = Deferred("its worker left before it was sent", Fault.NONE)


def _without_fault(report: Report) -> Report:
    """Let no mail and no route pay for it that we left."""
    outcomes: dict[str, Outcome] = {
        recipient: replace(outcome, fault=Fault.NONE) if isinstance(outcome, Deferred) else outcome
        for recipient, outcome in report.receipt.items()
    }
    return replace(report, receipt=Receipt(outcomes))
