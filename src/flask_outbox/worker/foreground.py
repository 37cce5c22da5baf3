"""A worker in the foreground, and what the signals of a terminal or a service manager mean to it.

The first SIGTERM, SIGINT or SIGHUP: claim nothing more, give back what was not begun, finish what
was, within the grace. The second: leave at once; the leases bring back what may have left. One that
is ignored where it starts, as under nohup, stays ignored.
"""

import math
import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from flask_outbox.worker.loop import LAST_WORDS, Worker
from flask_outbox.worker.plan import Plan

_HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Drain:
    """Sends what is due, once; ``told`` is how often it was told to stop."""

    def __init__(self, plan: Plan) -> None:
        self.told = 0
        self._worker = Worker(plan)
        self._most = math.ceil(plan.grace + LAST_WORDS)

    @property
    def held_back(self) -> int:
        """How often it held back a mail whose key is not here."""
        return self._worker.held_back

    def run(self, seconds: float | None = None) -> int:
        """Do it in this thread, for at most so long; give the number of messages that were tried.

        Raises OutboxUnavailable.
        """
        with self._hearing():
            return self._worker.drain(seconds)

    @contextmanager
    def _hearing(self) -> Generator[None]:
        before = {each: signal.getsignal(each) for each in (*_HEARD, signal.SIGALRM)}
        if threading.current_thread() is not threading.main_thread():
            before = {}  # no other may ask for signals
        try:
            for each in before:
                if before[each] != signal.SIG_IGN:
                    signal.signal(each, _end if each == signal.SIGALRM else self._hear)
            yield
        finally:
            if before:
                signal.alarm(0)
            for each, handler in before.items():
                signal.signal(each, handler)

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        self.told += 1
        if self.told == 1:
            signal.alarm(self._most)
            self._worker.stop()
        else:
            self._worker.abandon()


def _end(_number: int, _frame: FrameType | None) -> None:
    """Leave even where the database holds the thread, as one who was told to."""
    os._exit(0)
