"""Celery's workers send the mail: tasks that carry none, and only say that something is due.

::

    def celery_init_app(app):
        ...                          # as Flask's documentation has it
        register(celery_app)
        app.extensions["celery"] = celery_app
"""

import mmap
import os
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakSet

from flask_outbox.mail.errors import OutboxUnavailable
from flask_outbox.worker.say import say
from flask_outbox.worker.unexpected import place

TASK = "flask_outbox.drain"
SWEEPS = "flask_outbox.sweep"  # beat's name for it
SWEEP = 60.0  # seconds from one look at what fell due by itself to the next
SECONDS = 30.0  # that one task drains
AT_ONCE = 2
LIMIT = 2.0  # seconds for each step of putting a task on the queue
SOON = 1.0  # seconds: what is due within them is due
STALE = 3600.0  # seconds after which a hint is not worth a task; clocks differ by less
HANG = 3600.0  # seconds; a drain ends by itself, whatever limit the app has for its own tasks

# The least of what each broker's client must be told to keep to LIMIT.
PATIENCE: dict[str, dict[str, Any]] = {
    "redis": {"socket_timeout": LIMIT, "socket_connect_timeout": LIMIT, "retry_on_timeout": False},
    "amqp": {"read_timeout": LIMIT, "write_timeout": LIMIT},
}


class Served(Protocol):
    """An app whose mail tasks send."""

    def is_served_by(self, celery_app: Any) -> bool:
        """Tell whether it is that Celery's."""
        ...

    def drain(self, seconds: float, at_once: int, leave: Callable[[], bool]) -> int:
        """Send what is due in the app's context."""
        ...


served: WeakSet[Served] = WeakSet()  # the floor above makes its apps known here
registered: WeakSet[Any] = WeakSet()
swept: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()  # the entry of beat for each


def register(celery_app: Any, *, sweep: float | None = SWEEP, at_once: int = AT_ONCE) -> None:
    """Give a Celery app the task that sends mail, and ``celery beat`` the sweep that calls it.

    ``sweep``: seconds between two; None for no beat entry. ``at_once``: a task ends at once where
    so many workers are sending.
    """

    def drain() -> int:
        return _drain(celery_app, at_once)

    drain.__doc__ = "Send the mail that is due."
    # Not shared: it would appear in each Celery of the process.
    declare = celery_app.task(
        name=TASK, ignore_result=True, shared=False, annotate=classmethod(_annotate)
    )
    declare(drain)
    if sweep is not None:
        task = celery_app.signature(TASK)
        celery_app.add_periodic_task(sweep, task, name=SWEEPS)
        swept[celery_app] = {"task": TASK, "schedule": sweep}
    signals = import_module("celery.signals")
    signals.worker_init.connect(leaving.reset)
    signals.worker_shutting_down.connect(leaving.begin)
    signals.beat_init.connect(_put_the_sweep_back)
    registered.add(celery_app)


def _annotate(task: Any) -> None:
    """Let ``task_annotations`` say what they like but a limit, which is above those of any task.

    A hard one below our soft one had Celery refuse each hint and each sweep.
    """
    task.__base__.annotate.__func__(task)
    task.soft_time_limit = task.time_limit = HANG


def _put_the_sweep_back(sender: Any, **_named: Any) -> None:
    """See that beat has it: who set ``beat_schedule`` after register() has taken it out."""
    scheduler = sender.scheduler
    if (entry := swept.get(sender.app)) and SWEEPS not in scheduler.schedule:
        scheduler.update_from_dict({SWEEPS: entry})


def _drain(celery_app: Any, at_once: int) -> int:
    ours = [each for each in list(served) if each.is_served_by(celery_app)]
    if not ours:
        say.error(
            "%s was called in a process that has no app with MAIL_WORKER=celery whose "
            'app.extensions["celery"] is this Celery',
            TASK,
        )
    tried = 0
    failed: list[Exception] = []
    for each in ours:
        try:
            tried += each.drain(SECONDS, at_once, leaving)
        except OutboxUnavailable as error:
            say.warning("mail waits for the next sweep: %s", error)
        except Exception as error:  # noqa: BLE001  one app's trouble is not the others'
            say.error("an app's mail waits for the next sweep: %s", place(error))
            failed.append(error)
    if failed:  # Celery shows it as a task that failed
        raise failed[0]
    return tried


class Leaving:
    """Whether this Celery worker is shutting down.

    One byte that the parent of a prefork pool shares with its children: only the parent is told.
    """

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    def __call__(self) -> bool:
        """Tell."""
        return self._byte[0] != 0

    def begin(self, **_named: Any) -> None:
        """Note it; called in a signal handler."""
        self._byte[0] = 1

    def reset(self, **_named: Any) -> None:
        """Begin: a worker starts in this process."""
        self._byte[0] = 0


leaving = Leaving()


class Hints:
    """The engine: puts the task on the queue, over a line of its own.

    Celery's own pool has no limit for a broker that accepts and never answers, and lends its lines
    to the app, which would wait behind us. Called by one thread.
    """

    def __init__(self, celery_app: Any) -> None:
        self.celery_app = celery_app
        self._line: Any = None
        self._pid = 0
        self._inherited: list[Any] = []  # never touched: their sockets are the parent's

    def wake(self, due_at: float) -> None:
        """Have a task started, or raise; what is due later is left to the sweep."""
        if due_at > time.time() + SOON:
            return
        rests = self._line is not None and self._pid == os.getpid()
        began = time.monotonic()
        try:
            self._publish()
        except Exception:
            if not rests or time.monotonic() - began > SOON:
                raise
            self._publish()  # it was cut, not away: a broker that is started again is there

    def _publish(self) -> None:
        line = self._open()
        try:
            self.celery_app.tasks[TASK].apply_async(connection=line, retry=False, expires=STALE)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hang up."""
        line, self._line = self._line, None
        if line is not None and self._pid == os.getpid():
            line.release()

    def _open(self) -> Any:
        if self._pid != os.getpid():
            self._inherited.append(self._line)
            self._line, self._pid = None, os.getpid()
        if self._line is None:
            self._line = self._dial()
        return self._line

    def _dial(self) -> Any:
        connect = self.celery_app.connection_for_write
        plain = connect()
        # Each of several brokers is tried once, the next one where the one before it is away.
        tries = max(len(plain.alt), 1)
        options = {"max_retries": tries - 1, **PATIENCE.get(plain.transport.driver_type, {})}
        return connect(connect_timeout=LIMIT, heartbeat=0, transport_options=options)
