"""Lines at rest, kept for the next conversation with the same server, account and privacy."""

import os
import threading
from collections import deque
from collections.abc import Hashable
from time import monotonic
from typing import Any, NamedTuple, Protocol
from weakref import WeakSet

IDLE = 30.0  # seconds; servers hang up after some minutes, firewalls forget sooner
MOST = 32  # lines at rest in one pool, of all keys


class Restful(Protocol):
    """A line as the pool sees it."""

    def is_alive(self) -> bool:
        """Look, without waiting, whether it may be used again."""
        ...

    def close(self) -> None:
        """Close it, in the process that opened it."""
        ...

    def abandon(self) -> None:
        """Close the descriptor in a child: the line is the parent's."""
        ...


class Kept(NamedTuple):
    """A line at rest."""

    line: Any  # of the driver that keeps it; the key says which
    session: Any  # what the transport knows of it
    since: float


class Pool:
    """Kept lines by key, the warmest handed out first; safe across threads and fork.

    A child never uses, or says a word on, what its parent opened. Normally Python itself tells of
    a fork; uWSGI forks without telling it, so the process id is looked at too.
    """

    def __init__(self, *, idle: float = IDLE, most: int = MOST) -> None:
        self._idle = idle
        self._most = most
        self._begin()
        _pools.add(self)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._kept: dict[Hashable, deque[Kept]] = {}
        self._count = 0

    def take(self, key: Hashable) -> Kept | None:
        """Hand out a line that is alive, or none."""
        self.mind_fork()
        while True:
            with self._lock:
                stale = self._sweep(monotonic())
                found = self._pop(key, -1)
            close_all(stale)
            if found is None or found.line.is_alive():
                return found
            found.line.close()

    def give(self, key: Hashable, line: Restful, session: object) -> None:
        """Keep a line; the one that has rested longest makes room."""
        self.mind_fork()
        now = monotonic()
        with self._lock:
            out = self._sweep(now)
            if self._count >= self._most > 0:
                oldest = min(self._kept, key=lambda key: self._kept[key][0].since)
                out += [kept for kept in [self._pop(oldest, 0)] if kept]
            if self._most > 0:
                self._kept.setdefault(key, deque()).append(Kept(line, session, now))
                self._count += 1
        close_all(out)
        if self._most <= 0:
            line.close()

    def drop(self, key: Hashable, line: Restful) -> None:
        """Forget a line that broke while it rested."""
        with self._lock:
            row = self._kept.get(key, deque())
            for at, kept in enumerate(row):
                if kept.line is line:
                    self._pop(key, at)
                    break

    def close(self) -> None:
        """Close what is kept; the pool itself may be used again."""
        self.mind_fork()
        with self._lock:
            out = [kept for row in self._kept.values() for kept in row]
            self._kept.clear()
            self._count = 0
        close_all(out)

    def __len__(self) -> int:
        return self._count

    def _pop(self, key: Hashable, at: int) -> Kept | None:
        row = self._kept.get(key)
        if not row:
            return None
        kept = row[at]
        del row[at]
        if not row:
            del self._kept[key]
        self._count -= 1
        return kept

    def _sweep(self, now: float) -> list[Kept]:
        """Take out what rested too long; the oldest of a key stands first."""
        out: list[Kept] = []
        for key in list(self._kept):
            while (row := self._kept.get(key)) and now - row[0].since > self._idle:
                out += [kept for kept in [self._pop(key, 0)] if kept]
        return out

    def mind_fork(self) -> None:
        """Begin anew in a child."""
        if self._pid == os.getpid():
            return
        inherited = self._kept
        self._begin()
        for row in inherited.values():
            for kept in row:
                kept.line.abandon()


def close_all(out: list[Kept]) -> None:
    """Close them outside the lock, since an asyncio line may have to be asked to."""
    for kept in out:
        kept.line.close()


_pools: WeakSet[Pool] = WeakSet()


def _after_fork() -> None:
    # At once, and not at the next use: a descriptor that a child holds keeps the line up at the
    # server after the parent has closed it.
    for pool in list(_pools):
        pool.mind_fork()


os.register_at_fork(after_in_child=_after_fork)
