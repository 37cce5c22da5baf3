"""Worker processes: a parent that starts them, and again when one dies, and passes signals on.

The first SIGTERM or SIGINT: claim nothing more, finish what is under way within the grace. The
second: leave at once; the leases bring back what was under way. The parent opens nothing, so that
nothing is shared; when it dies itself, a pipe that only it held open ends, and its children stop.
"""

import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import NoReturn

from flask_outbox.mail.errors import ConfigurationError
from flask_outbox.worker.bell import Bell
from flask_outbox.worker.loop import LAST_WORDS, Plan, Worker
from flask_outbox.worker.say import say
from flask_outbox.worker.unexpected import place

AGAIN_FIRST = 0.5  # seconds until a worker that died is started again
AGAIN_MOST = 30.0
LIVED = 10.0  # seconds: one that lived so long did not die of how it began
ABANDON_WITHIN = 2.0  # seconds after the second signal, then the kernel sees to it
LOOK = 1.0  # seconds, in case a signal came just before the wait for it
BAD_SETTING = 78  # EX_CONFIG of sysexits.h: starting again would not help


def run(make_plan: Callable[[], Plan], *, processes: int = 1) -> int:
    """Run so many workers until a signal ends them; give the exit status.

    To be called in the main thread of a process with no other threads. ``make_plan`` is called in
    each worker.
    """
    if processes < 1:
        raise ConfigurationError("--processes must be 1 or more")
    parent = _Parent(make_plan, [_Slot() for _ in range(processes)])
    before = {each: signal.signal(each, parent.hear) for each in _HEARD}
    try:
        return parent.run()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        parent.close()


_HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


@dataclass(slots=True)
class _Slot:
    """A place for one worker process."""

    pid: int = 0
    began: float = 0.0
    pause: float = AGAIN_FIRST
    again_at: float = 0.0

    def died(self) -> None:
        """Wait before the next one, longer if it died young."""
        now = time.monotonic()
        lived = now - self.began > LIVED
        self.pause = AGAIN_FIRST if lived else min(AGAIN_MOST, self.pause * 2)
        self.pid, self.again_at = 0, now + self.pause


@dataclass(slots=True)
class _Parent:
    make_plan: Callable[[], Plan]
    slots: list[_Slot]
    bell: Bell = field(default_factory=Bell)
    lifeline: tuple[int, int] = field(default_factory=os.pipe)
    asked: int = 0  # how often it was asked to stop
    kill_at: float = float("inf")
    status: int = 0

    def hear(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal: note it and ring."""
        self.asked += number != signal.SIGCHLD
        self.bell.ring()

    def run(self) -> int:
        """Start, start again, pass on; until asked to stop and the last child has gone."""
        while True:
            self._reap()
            if self.asked:
                self._pass_on()
                if not any(slot.pid for slot in self.slots):
                    return self.status
            else:
                self._fill()
            waits = [slot.again_at for slot in self.slots if not slot.pid]
            self.bell.wait(max(0.0, min([LOOK, *(at - time.monotonic() for at in waits)])))

    def close(self) -> None:
        """Let go of the pipe."""
        for each in self.lifeline:
            os.close(each)

    def _reap(self) -> None:
        for slot in self.slots:
            if not slot.pid:
                continue
            pid, code = os.waitpid(slot.pid, os.WNOHANG)
            if not pid:
                continue
            status = os.waitstatus_to_exitcode(code)
            if status == BAD_SETTING:
                self.status, self.asked = BAD_SETTING, max(1, self.asked)
            elif not self.asked:
                say.error("worker process %d ended with status %d", pid, status)
            slot.died()

    def _pass_on(self) -> None:
        """Tell the children, again and again: one that was just forked may not have heard."""
        now = time.monotonic()
        if self.asked > 1:
            self.kill_at = min(self.kill_at, now + ABANDON_WITHIN)
        told = signal.SIGTERM if self.asked == 1 else signal.SIGQUIT
        number = signal.SIGKILL if now >= self.kill_at else told
        for slot in self.slots:
            if slot.pid:
                os.kill(slot.pid, number)

    def _fill(self) -> None:
        now = time.monotonic()
        for slot in self.slots:
            if not slot.pid and now >= slot.again_at:
                slot.began = now
                slot.pid = os.fork() or _be_worker(self.make_plan, self.lifeline)
                say.info("worker process %d started", slot.pid)


def _be_worker(make_plan: Callable[[], Plan], lifeline: tuple[int, int]) -> NoReturn:
    """Live a worker's life; never return into what was the parent's."""
    status = 1
    try:
        status = _work(make_plan, lifeline)
    except ConfigurationError as error:
        say.error("%s", error)
        status = BAD_SETTING
    except Exception as error:  # noqa: BLE001  the parent starts another
        say.error("worker process %d broke: %s", os.getpid(), place(error))
    finally:
        with suppress(Exception):
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _work(make_plan: Callable[[], Plan], lifeline: tuple[int, int]) -> int:
    child = _Child()
    signal.signal(signal.SIGTERM, child.hear)
    signal.signal(signal.SIGQUIT, child.hear)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells all; the parent passes it on
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    reading, writing = lifeline
    os.close(writing)
    threading.Thread(target=child.mind_parent, args=(reading,), daemon=True).start()
    plan = make_plan()
    child.work(plan)
    plan.outbox.close()
    return 0


class _Child:
    """One worker, and what it was told, perhaps before it was made."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._stopping = self._abandoned = False
        self._most = LAST_WORDS

    def hear(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        self._abandoned = self._abandoned or number == signal.SIGQUIT
        self._stop()

    def mind_parent(self, reading: int) -> None:
        """Stop when the pipe ends, which only the parent's end can bring about."""
        os.read(reading, 1)
        self._stop()

    def work(self, plan: Plan) -> None:
        """Work until told to stop."""
        self._most = plan.grace + LAST_WORDS
        self._worker = worker = Worker(plan)
        if self._stopping:
            worker.stop()
        worker.run()
        signal.alarm(0)

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            signal.alarm(math.ceil(self._most))  # even where the database holds the thread
        if self._worker:
            (self._worker.abandon if self._abandoned else self._worker.stop)()
