"""What a worker has claimed and not yet begun: the part that a crash costs nothing."""

import time
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, islice, zip_longest

from flask_outbox.mail.route import Routing
from flask_outbox.mail.submission import Submission
from flask_outbox.worker.lanes import Lanes, Window
from flask_outbox.worker.pace import Pace
from flask_outbox.worker.ways import Ways

MOST = 100  # submissions of one claim
QUICK = 0.5  # seconds: a claim that is used up sooner is followed by one of twice its size
LOADED_AT_ONCE = 16  # transports that one claim asks for, of those that are made by a loader
LATE = 5.0  # seconds from one claim to the next, while much has to expire
LULL = 5.0  # seconds that a row which may kill us waits for everything else to be off the line


class Leased:
    """Submissions that are ours, in the order of their claim.

    It holds what the lanes need for about half a second, so that urgent mail which is enqueued
    now does not stand behind much, and other workers find something to do. Only the worker's
    thread touches it.
    """

    def __init__(self, worker: str, ways: Ways) -> None:
        self.worker = worker
        self.brought = 0  # by the latest claim
        self.held_back = 0  # by all of them, since it could not be decrypted
        self.closed = False
        self.held_up = False  # nothing more is claimed for now
        self._ways = ways
        self._dry: set[str] = set()  # transports of which a claim took all there was
        self._waiting: defaultdict[str, deque[Submission]] = defaultdict(deque)  # by route
        self._round: list[str] = []  # transports to be loaded that have mail and had no turn yet
        self._served: list[str] = []  # those that had one and may have more, the latest last
        self.pace = Pace()
        self._alone: deque[Submission] = deque()
        self._alone_since = 0.0
        self._others_first = False
        self._batch = 1
        self._claimed_at = 0.0

    def __iter__(self) -> Iterator[Submission]:
        for waiting in (self._alone, *self._waiting.values()):
            yield from waiting

    @property
    def dry(self) -> bool:
        """Whether a claim took all there was of some; the loop says when to look again."""
        return bool(self._dry)

    def ask_anew(self) -> None:
        """Let the next claim ask for all of them."""
        self._dry.clear()

    def routing(self, transport: str) -> Routing:
        """Tell the routes of a transport."""
        return self._ways.routing(transport)

    def join(self, transports: Iterable[str]) -> None:
        """Ask for these, too, a few with each claim: a loader makes them, and they have mail.

        By turns for who is new, and for who was served already and has more: so neither waits for
        the end of the others.
        """
        due = dict.fromkeys(transports)
        self._round = [name for name in self._round if name in due]
        self._served = [name for name in self._served if name in due]
        known = {*self._round, *self._served}
        self._round += [name for name in due if name not in known]

    def hungry(self, lanes: Lanes) -> list[str]:
        """Name the transports that have less than a window for each of their lanes."""
        if self.closed or self.held_up:
            return []
        full = self.full(lanes)

        def is_hungry(name: str) -> bool:
            routes = (route for route in self.routing(name).routes if route not in full)
            waiting = sum(len(self._waiting.get(route, ())) for route in routes)
            return waiting + len(self._alone) < self._room(lanes, name, full)

        configured = (name for name in self._ways.names if name not in self._dry)
        by_turns = chain.from_iterable(zip_longest(self._round, self._served))
        loaded = (name for name in by_turns if name is not None and is_hungry(name))
        return [*filter(is_hungry, configured), *islice(loaded, LOADED_AT_ONCE)]

    def full(self, lanes: Lanes) -> list[str]:
        """Name the routes all of whose lanes are busy, with as much again waiting for them.

        They get nothing more for now, so that a far side which says nothing does not end up with
        all that others would have sent.
        """
        return [
            route
            for route, waiting in self._waiting.items()
            if len(waiting) >= lanes.room(route) and lanes.free(route) < 1
        ]

    def _room(self, lanes: Lanes, transport: str, full: Collection[str]) -> int:
        """How many its lanes take: those of the widest tier, but for what is full."""
        return max(
            sum(lanes.room(route) for route in tier if route not in full)
            for tier in self.routing(transport).tiers
        )

    @property
    def is_late(self) -> bool:
        """Whether the latest claim is so long ago that nothing may keep the next one waiting."""
        return time.monotonic() - self._claimed_at > LATE

    def batch(self, lanes: Lanes, transports: Iterable[str]) -> int:
        """Choose how many to claim: one round of the lanes, more while they are quick."""
        full = self.full(lanes)
        least = sum(self._room(lanes, name, full) for name in transports)
        quick = time.monotonic() - self._claimed_at < QUICK
        self._batch = min(MOST, max(least, self._batch * 2 if quick else least))
        self._claimed_at = time.monotonic()
        return self._batch

    def put(
        self,
        claimed: Sequence[Submission],
        limit: int,
        asked: Collection[str],
        *,
        held_back: int = 0,
        moved: int = 0,
    ) -> None:
        """Hold what a claim brought; less than its limit: there was no more to be had.

        Unless some was held back, or moved to its slot: then there may be more behind it.
        """
        has_more = len(claimed) == limit or held_back > 0 or moved > 0
        self._dry.update(() if has_more else asked)
        self.brought = len(claimed)
        self.held_back += held_back
        again = [name for name in (*self._round, *self._served) if name in asked]
        self._round = [name for name in self._round if name not in asked]
        self._served = [name for name in self._served if name not in asked]
        self._served += again if has_more else []
        self.pace.put(claimed, time.monotonic() - self._claimed_at)
        for each in claimed:
            (self._alone if each.alone else self._waiting[each.route]).append(each)

    def windows(self, lanes: Lanes) -> list[Window]:
        """Look at what is to go next, a window for each free lane, without taking it.

        A row that was on the line when a worker died goes while nothing else is on it: it may
        take this process along. It waits for that lull, though not for ever, and after it the
        others have their turn.
        """
        if self.closed:
            return []
        others = any(self._waiting.values())
        alone = self.pace.ready(self._alone)
        if alone and not (self._others_first and others):
            self._alone_since = self._alone_since or time.monotonic()
            waited = time.monotonic() - self._alone_since
            return [[alone[0]]] if lanes.idle or waited > LULL else []
        return lanes.spare(
            window
            for route, waiting in self._waiting.items()
            if waiting and (free := lanes.free(route))
            for window in _share(self.pace.ready(waiting), free, lanes.window(route))
        )

    def missed(self) -> list[Submission]:
        """Give up that whose turn is over: it gets another."""
        late = self.pace.missed()
        gone = [each for each in self if each.id in late] if late else []
        for each in gone:
            (self._alone if each.alone else self._waiting[each.route]).remove(each)
        self._dry.difference_update(each.transport for each in gone)
        return gone

    def take(self, windows: Sequence[Window], started: Sequence[Submission]) -> list[Window]:
        """Let go of what was started, window by window; what could not be is dropped."""
        begun = {each.id: each for each in started}
        for each in (each for window in windows for each in window):
            if each.alone:
                self._alone.remove(each)
                self._alone_since = 0.0
            else:
                self._waiting[each.route].remove(each)
            self.pace.forget(each)
            self._others_first = each.alone
        for route in dict.fromkeys(window[0].route for window in windows):
            if waiting := self._waiting.pop(route, None):
                self._waiting[route] = waiting  # behind those that get their turn before it now
        kept = ([begun[each.id] for each in window if each.id in begun] for window in windows)
        return [window for window in kept if window]

    def let_go(self, routes: Collection[str]) -> list[Submission]:
        """Give up all that is held for these routes."""
        gone = [each for each in self if each.route in routes]
        for each in gone:
            self.pace.forget(each)
        for name in {each.route for each in gone}:
            self._waiting[name].clear()
        self._alone = deque(each for each in self._alone if each.route not in routes)
        return gone

    def let_all_go(self) -> list[Submission]:
        """Give up all that is held."""
        return self.let_go({each.route for each in self})


def _share(waiting: Sequence[Submission], lanes: int, most: int) -> list[Window]:
    """Deal them to the free lanes evenly, so that a few mails do not queue up in one."""
    windows: list[Window] = []
    size = min(most, -(-len(waiting) // lanes)) if lanes else 0
    for each in waiting:
        fits = windows and len(windows[-1]) < size and not windows[-1][-1].at_most_once
        if fits and not each.at_most_once:
            windows[-1].append(each)
        elif len(windows) < lanes:
            windows.append([each])
        else:
            break
    return windows
