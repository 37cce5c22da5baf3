"""The worker inside the app: one daemon thread per app and process, nothing to set up.

It is asked for at each request and each ``send_later``, so asking is cheap. A child made by fork
has nothing of its parent's and starts its own when it is asked. At the interpreter's end what is
under way is finished, within the grace.
"""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from flask_outbox.mail.errors import ConfigurationError
from flask_outbox.wire.threads import start
from flask_outbox.worker.bell import Bell
from flask_outbox.worker.loop import LAST_WORDS, Worker
from flask_outbox.worker.plan import Plan, never
from flask_outbox.worker.say import say
from flask_outbox.worker.unexpected import place

AGAIN_FIRST = 1.0  # seconds until a worker that could not begin, or broke, is made again
AGAIN_MOST = 60.0
OFF = ("0", "false", "off", "no")  # uWSGI's words
FIX = (
    "What it writes down is kept, and sent by another process of this app or by `flask outbox"
    " worker`: run that, and let this process have more threads or memory."
)


class Embedded:
    """``make_plan`` is called in the worker's thread, in each process that starts one.

    ``leave`` is asked at least once a poll, and ends the worker of this process for good.
    """

    def __init__(self, make_plan: Callable[[], Plan], leave: Callable[[], bool] = never) -> None:
        self._make_plan = make_plan
        self._leave = leave
        self.forget()
        _all.add(self)

    def forget(self) -> None:
        """Begin anew: in a child, where the parent's thread does not exist."""
        self._pid = 0  # of the process whose thread runs; 0 for none
        self._lock = threading.Lock()
        self._bell = Bell()
        self._thread: threading.Thread | None = None
        self._worker: Worker | None = None
        self._grace = 0.0
        self._refused = False
        self._stopped = False

    def ensure(self) -> None:
        """Start the thread of this process if it does not run; if it cannot, try at the next call.

        Raises ConfigurationError under a uWSGI that runs no threads.
        """
        if self._pid == os.getpid():
            return
        if self._pid:  # uWSGI forks without telling Python
            self.forget()
        with self._lock:
            if self._pid or self._stopped:
                return
            refuse_without_threads()
            thread = threading.Thread(target=self._run, name="flask-outbox", daemon=True)
            try:
                start(thread)
            except RuntimeError as error:  # too many of them, or too little memory
                self._say_once(str(error))
                return
            self._thread = thread
            self._pid = os.getpid()
            _hear_of_the_end()

    def _say_once(self, why: str) -> None:
        if not self._refused:
            say.error("this process cannot start a thread that sends its mail: %s. %s", why, FIX)
        self._refused = True

    def wake(self, due_at: float = 0.0) -> None:  # noqa: ARG002  an engine's; it asks the outbox
        """Let it look at the outbox at once; one that only begins looks anyway."""
        if (worker := self._worker) is not None and self._pid == os.getpid():
            worker.wake()

    def stop(self) -> None:
        """Finish what is under way, for at most the grace; it is not started again."""
        self.ask_to_stop()
        if (thread := self._thread) is not None and thread is not threading.current_thread():
            thread.join(self._grace + LAST_WORDS)

    def ask_to_stop(self) -> None:
        """Let it stop, and do not wait."""
        if self._pid not in (0, os.getpid()):
            self.forget()
        self._stopped = True
        self._bell.ring()
        if (worker := self._worker) is not None:
            worker.stop()

    def _run(self) -> None:
        """Work; should that break, begin again after a while."""
        pause = AGAIN_FIRST
        while not (self._stopped or self._leave()):
            try:
                plan = self._make_plan()
                self._grace = plan.grace
                self._worker = worker = Worker(plan)
                if not self._stopped:
                    worker.run(leave=self._leave)
            except ConfigurationError as error:
                say.error("no mail leaves the outbox: %s", error)
                return
            except Exception as error:  # noqa: BLE001  any bug there may be
                say.error("the embedded worker begins again in %d s: %s", pause, place(error))
                self._bell.wait(pause)
                pause = min(AGAIN_MOST, pause * 2)


def refuse_without_threads() -> None:
    """Raise under a uWSGI whose threads are off: the worker would stand still between requests."""
    if (uwsgi := sys.modules.get("uwsgi")) is None:
        return
    if not _has_threads(uwsgi):
        raise ConfigurationError(
            "uWSGI runs this app without threads, so the embedded worker could not send mail: "
            "start uWSGI with --enable-threads, or set MAIL_WORKER to 'process' and run "
            "`flask outbox worker`"
        )


def _has_threads(uwsgi: Any) -> bool:
    """Ask uWSGI itself, which turns them on by default since 2.0.30; an older one, its options."""
    if hasattr(uwsgi, "has_threads"):
        return bool(uwsgi.has_threads)
    options = {_text(name): _text(value).lower() for name, value in uwsgi.opt.items()}
    return any(options.get(name, "0") not in OFF for name in ("enable-threads", "threads"))


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


_all: WeakSet[Embedded] = WeakSet()


def _forget_all() -> None:
    for embedded in list(_all):
        embedded.forget()


def _hear_of_the_end() -> None:
    """Hear that a child of Celery's pool ends, or of multiprocessing: without atexit."""
    if (signals := sys.modules.get("celery.signals")) is not None:
        signals.worker_process_shutdown.connect(_stop_all)
    processes = sys.modules.get("multiprocessing")
    if processes is not None and processes.parent_process() is not None:
        from multiprocessing.util import Finalize  # noqa: PLC0415  where it is there anyway

        Finalize(None, _stop_all, exitpriority=0)


@atexit.register
def _stop_all(**_named: Any) -> None:
    for embedded in list(_all):
        embedded.ask_to_stop()
    for embedded in list(_all):
        embedded.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
