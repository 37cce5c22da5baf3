"""What a worker has claimed and not yet begun: the part that a crash costs nothing."""

import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence

from flask_outbox.mail.submission import Submission
from flask_outbox.worker.lanes import Lanes

MOST = 100  # submissions of one claim
QUICK = 0.5  # seconds: a claim that is used up sooner is followed by one of twice its size
LULL = 5.0  # seconds that a row which may kill us waits for everything else to be off the line

Window = list[Submission]


class Leased:
    """Submissions that are ours, in the order of their claim.

    It holds what the lanes need for about half a second, so that urgent mail which is enqueued
    now does not stand behind much, and other workers find something to do. Only the worker's
    thread touches it.
    """

    def __init__(self, worker: str, transports: Iterable[str]) -> None:
        self.worker = worker
        self.dry = False  # the latest claim took all there was; the loop says when to look again
        self.brought = 0  # by the latest claim
        self.closed = False
        self.held_up = False  # nothing more is claimed for now
        self._waiting: dict[str, deque[Submission]] = {name: deque() for name in transports}
        self._alone: deque[Submission] = deque()
        self._alone_since = 0.0
        self._others_first = False
        self._batch = 1
        self._claimed_at = 0.0

    def __iter__(self) -> Iterator[Submission]:
        for waiting in (self._alone, *self._waiting.values()):
            yield from waiting

    def hungry(self, lanes: Lanes) -> list[str]:
        """Name the transports that have less than a window for each of their lanes."""
        if self.dry or self.closed or self.held_up:
            return []
        held = len(self._alone)
        return [
            name
            for name, waiting in self._waiting.items()
            if len(waiting) + held < lanes.room(name)
        ]

    def batch(self, lanes: Lanes) -> int:
        """Choose how many to claim: one round of the lanes, more while they are quick."""
        least = sum(lanes.room(name) for name in self._waiting)
        quick = time.monotonic() - self._claimed_at < QUICK
        self._batch = min(MOST, max(least, self._batch * 2 if quick else least))
        self._claimed_at = time.monotonic()
        return self._batch

    def put(self, claimed: Sequence[Submission], *, dry: bool) -> None:
        """Hold what a claim brought; ``dry``: there was no more to be had."""
        self.dry = dry
        self.brought = len(claimed)
        for each in claimed:
            (self._alone if each.alone else self._waiting[each.transport]).append(each)

    def windows(self, lanes: Lanes) -> list[Window]:
        """Look at what is to go next, a window for each free lane, without taking it.

        A row that was on the line when a worker died goes while nothing else is on it: it may
        take this process along. It waits for that lull, though not for ever, and after it the
        others have their turn.
        """
        if self.closed:
            return []
        others = any(self._waiting.values())
        if self._alone and not (self._others_first and others):
            self._alone_since = self._alone_since or time.monotonic()
            waited = time.monotonic() - self._alone_since
            return [[self._alone[0]]] if lanes.idle or waited > LULL else []
        return [
            window
            for name, waiting in self._waiting.items()
            for window in _share(waiting, lanes.free(name), lanes.window(name))
        ]

    def take(self, windows: Sequence[Window], started: Sequence[Submission]) -> list[Window]:
        """Let go of what was started, window by window; what was no longer ours is dropped."""
        ours = {each.id: each for each in started}
        for each in (each for window in windows for each in window):
            if each.alone:
                self._alone.remove(each)
                self._alone_since = 0.0
            else:
                self._waiting[each.transport].remove(each)
            self._others_first = each.alone
        kept = ([ours[each.id] for each in window if each.id in ours] for window in windows)
        return [window for window in kept if window]

    def let_go(self, transports: Collection[str]) -> list[Submission]:
        """Give up all that is held for these transports."""
        gone = [each for each in self if each.transport in transports]
        for name in {each.transport for each in gone}:
            self._waiting[name].clear()
        self._alone = deque(each for each in self._alone if each.transport not in transports)
        return gone


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
