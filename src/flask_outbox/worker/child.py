"""One worker in a process of its own, and the signals by which its parent moves it.

========  =============================================================================
SIGUSR1   claim nothing more; finish what is under way, however long that may take
SIGTERM   the same, within the grace
SIGQUIT   leave at once; the leases bring back what may have left
========  =============================================================================
"""

import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from flask_outbox.mail.errors import ConfigurationError
from flask_outbox.worker.anew import Handed
from flask_outbox.worker.loop import LAST_WORDS, Worker
from flask_outbox.worker.plan import Plan
from flask_outbox.worker.say import say
from flask_outbox.worker.unexpected import place

BAD_SETTING = 78  # EX_CONFIG of sysexits.h: starting again would not help
RETIRE, STOP, ABANDON = signal.SIGUSR1, signal.SIGTERM, signal.SIGQUIT
_IN_A_HURRY = (0, RETIRE, STOP, ABANDON)  # the later, the more so


def be_worker(make_plan: Callable[[], Plan], handed: Handed) -> NoReturn:
    """Live a worker's life; never return into what was the parent's."""
    status = 1
    try:
        status = _work(make_plan, handed)
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


def _work(make_plan: Callable[[], Plan], handed: Handed) -> int:
    child = _Child()
    for number in (RETIRE, STOP, ABANDON):
        signal.signal(number, child.hear)
    # The terminal tells all; the parent passes on what it means.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    threading.Thread(target=child.mind_parent, args=(handed.lifeline,), daemon=True).start()
    plan = make_plan()
    child.work(plan, handed.tell_ready)
    plan.outbox.close()
    return 0


class _Child:
    """One worker, and what it was told, perhaps before it was made."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._told: int = 0
        self._grace = {RETIRE: 0.0, STOP: 0.0, ABANDON: 0.0}  # until there is a plan

    def hear(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal; the parent repeats each."""
        if _IN_A_HURRY.index(number) > _IN_A_HURRY.index(self._told):
            self._told = number
            # Even where the database holds the thread.
            signal.alarm(math.ceil(self._grace[signal.Signals(number)] + LAST_WORDS))
        self._obey()

    def mind_parent(self, lifeline: int) -> None:
        """Stop when the pipe ends, which only the parent's end can bring about."""
        os.read(lifeline, 1)
        self.hear(STOP, None)

    def work(self, plan: Plan, began: Callable[[], None]) -> None:
        """Work until told to stop."""
        self._grace = {RETIRE: plan.timeout, STOP: plan.grace, ABANDON: 0.0}
        self._worker = worker = Worker(plan)
        self._obey()
        worker.run(began)
        signal.alarm(0)

    def _obey(self) -> None:
        if self._worker is None or not self._told:
            return
        if self._told == ABANDON:
            self._worker.abandon()
        else:
            self._worker.stop(self._grace[signal.Signals(self._told)])
