"""Engines: who is told that there is mail to send, and how what they start shares the work.

The row is the truth; what an engine is told is a hint. One that is lost costs a poll or a sweep,
never a mail. So an engine has one duty, ``wake``, and what it starts somewhere calls ``drain``.
"""

import atexit
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Protocol
from weakref import WeakSet

from flask_outbox.outbox.workers import workers
from flask_outbox.wire.threads import start
from flask_outbox.worker.looks import STAYS_FOR
from flask_outbox.worker.loop import Worker
from flask_outbox.worker.plan import Plan, never
from flask_outbox.worker.say import say
from flask_outbox.worker.unexpected import place

EVERY = 0.1  # seconds from one wake-up to the next, at least
LINGER = 10.0  # seconds that the thread waits for another hint before it ends
AGAIN_FIRST = 1.0  # seconds after a wake-up that failed; then twice as long, …
AGAIN_MOST = 15.0
# Seconds that the interpreter's end waits for what is being said. On a busy machine the first word
# takes some: it imports the broker's client.
LAST_WORDS = 10.0
EMPTY_MOST = 2  # looks at something due that could not be claimed, then somebody else has it


class Engine(Protocol):
    """Has mail sent by something that runs somewhere; a third party's needs nothing of ours.

    One that has a method ``close()`` is told by it, in the same thread, that no hint has come for a
    while, or that the process ends.
    """

    def wake(self, due_at: float) -> None:
        """Hear that something is due at that time, by UNIX seconds.

        Never called in a request, and never twice at once: of many hints the earliest is passed on,
        at most ten times a second. It may block and it may raise; the hint is lost then.
        """
        ...


class Wakes:
    """Merges hints for an engine, and passes them on from a thread of its own, one per process.

    A child made by fork has nothing of its parent's, and starts its own thread with its first hint.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.forget()
        _all.add(self)

    def forget(self) -> None:
        """Begin anew: in a child, where the parent's thread does not exist."""
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._due: float | None = None
        self._leaving = False
        self._failures = 0

    def wake(self, due_at: float) -> None:
        """Note it and return at once."""
        if self._pid != os.getpid():  # rather than a hook: uWSGI forks without telling Python
            self.forget()
        with self._changed:
            self._due = due_at if self._due is None else min(self._due, due_at)
            self._changed.notify_all()
            if self._thread is None:
                self._begin()

    def _begin(self) -> None:
        thread = threading.Thread(target=self._run, name="flask-outbox-wakes", daemon=True)
        try:
            start(thread)
        except RuntimeError as error:  # at the interpreter's end, or where there are too many
            say.warning("nobody could be told of new mail: %s", place(error))
        else:
            self._thread = thread

    def stop(self) -> None:
        """Pass on what is left, for a short time at most."""
        thread = self._thread
        if self._pid != os.getpid() or thread is None:
            return
        with self._changed:
            self._leaving = True
            self._changed.notify_all()
        if thread is not threading.current_thread():
            thread.join(LAST_WORDS)

    def _run(self) -> None:
        while True:
            while (due := self._next()) is not None:
                pause = self._pass_on(due)
                with self._changed:
                    self._changed.wait_for(lambda: self._leaving, pause)
            with suppress(Exception):
                getattr(self._engine, "close", _nothing)()
            with self._changed:
                if self._due is None:
                    self._thread = None
                    return

    def _next(self) -> float | None:
        with self._changed:
            self._changed.wait_for(lambda: self._leaving or self._due is not None, LINGER)
            due, self._due = self._due, None
            return due

    def _pass_on(self, due: float) -> float:
        """Do so; give the seconds until it may be done again."""
        try:
            self._engine.wake(due)
        except Exception as error:  # noqa: BLE001  any engine may fail in any way
            if not self._failures:  # one line for an outage, not one a hint
                say.warning("mail waits, as nobody could be told of it: %s", place(error))
            self._failures += 1
            return min(AGAIN_MOST, AGAIN_FIRST * 2.0 ** min(self._failures - 1, 16))
        if self._failures:
            say.info("new mail is told of again, after %d failures", self._failures)
            self._failures = 0
        return EVERY


def _nothing() -> None:
    pass


_all: WeakSet[Wakes] = WeakSet()


@atexit.register
def _stop_all() -> None:
    for wakes in list(_all):
        wakes.stop()


# --- what an engine starts ---


class Drained(NamedTuple):
    """What one drain came to."""

    tried: int  # messages
    is_left: bool  # whether it ended before all was done that is due


def drain(
    plan: Plan,
    *,
    seconds: float | None = None,
    at_once: int | None = None,
    leave: Callable[[], bool] = never,
) -> Drained:
    """Send what is due in this thread: until nothing is, or for so long, or until told to leave.

    ``at_once``: do nothing where so many workers with the same settings are heard of, so that hints
    which come faster than mail leaves do not pile up. Raises OutboxUnavailable.
    """
    end = float("inf") if seconds is None else time.monotonic() + seconds
    tried = empty = 0
    while at_once is None or _at_work(plan) < at_once:
        left = None if seconds is None else end - time.monotonic()
        found = Worker(plan).drain(left, leave)
        tried += found
        # Whoever saw us at work left what came after our last look to us: so look once more.
        if not _is_due(plan):
            return Drained(tried, is_left=False)
        if leave() or time.monotonic() >= end:
            return Drained(tried, is_left=True)
        empty = 0 if found else empty + 1
        if empty == EMPTY_MOST:
            break
    return Drained(tried, is_left=False)


def _at_work(plan: Plan) -> int:
    """Count the workers that were heard of within half a lease: they beat twice in that.

    Who runs with other settings may not know the transport that something waits for; and a beat in
    the future was told by a clock that was set back since.
    """
    outbox = plan.outbox
    with outbox.read() as connection:
        now = outbox.now(connection)
        return sum(
            abs(now - each.beat_at) < outbox.lease / 2
            and not each.has_ended
            and each.settings == plan.badge.settings
            for each in workers(connection)
        )


def _is_due(plan: Plan) -> bool:
    due = plan.ways.next_due(plan.outbox)
    if due is None:
        return False
    soon = STAYS_FOR if plan.outbox.rates.are_set else 0.0
    with plan.outbox.read() as connection:
        return due <= plan.outbox.now(connection) + soon
