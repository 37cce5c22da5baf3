"""Who carries a window while the worker's thread keeps the books: an event loop, or threads.

Under gevent and eventlet a thread is a greenlet and a blocking socket yields, so the blocking
driver is the right one there and no event loop is started.
"""

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from flask_outbox.mail.exchange import Conversation, Report
from flask_outbox.wire import aio, sync
from flask_outbox.wire.background import Tasks
from flask_outbox.wire.pool import Pool

HEARD_WITHIN = 1.0  # seconds; it takes far less, unless a transport holds up the loop

Hear = Callable[[Report], None]
Done = Callable[[Exception | None], None]


class Carrier(Protocol):
    """Carries conversations, each by itself; ``seconds`` bounds one message."""

    def carry(self, conversation: Conversation, hear: Hear, done: Done) -> None:
        """Begin, and return at once; ``done`` is called last, unless abandoned."""
        ...

    def abandon(self) -> None:
        """Leave what is under way; what that means is heard before this returns, or never."""
        ...

    def close(self) -> None:
        """Close the kept lines."""
        ...


class AsyncCarrier:
    """Coroutines on the one background loop of this process."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._pool = Pool()
        self._tasks = Tasks()

    def carry(self, conversation: Conversation, hear: Hear, done: Done) -> None:
        """Hand it to the loop."""
        self._tasks.begin(self._carried(conversation, hear, done))

    async def _carried(self, conversation: Conversation, hear: Hear, done: Done) -> None:
        try:
            async for report in aio.carry(conversation, self._pool, seconds=self._seconds):
                hear(report)
        except Exception as error:  # noqa: BLE001  judged by the lanes
            done(error)
        else:
            done(None)

    def abandon(self) -> None:
        """Cancel; the lines close unsaid."""
        self._tasks.cancel(HEARD_WITHIN)

    def close(self) -> None:
        """Close the kept lines."""
        self._pool.close()


class SyncCarrier:
    """A thread for each window; under gevent and eventlet that is a greenlet."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._pool = Pool()

    def carry(self, conversation: Conversation, hear: Hear, done: Done) -> None:
        """Hand it to a new thread."""
        target, arguments = self._carried, (conversation, hear, done)
        threading.Thread(target=target, args=arguments, name="outbox-lane", daemon=True).start()

    def _carried(self, conversation: Conversation, hear: Hear, done: Done) -> None:
        try:
            for report in sync.carry(conversation, self._pool, seconds=self._seconds):
                hear(report)
        except Exception as error:  # noqa: BLE001  judged by the lanes
            done(error)
        else:
            done(None)

    def abandon(self) -> None:
        """Nothing to do: the threads are daemons, and nobody listens to them any more."""

    def close(self) -> None:
        """Close the kept lines."""
        self._pool.close()


def choose_carrier(seconds: float) -> Carrier:
    """Choose by how this process is patched now; servers patch late, so this is asked late."""
    return SyncCarrier(seconds) if is_cooperative() else AsyncCarrier(seconds)


def is_cooperative() -> bool:
    """Tell whether gevent or eventlet has taken over this process's sockets."""
    return any(map(is_patched_by, _PATCHERS))


def is_patched_by(library: str) -> bool:
    """Tell whether it was one of these."""
    module, question = _PATCHERS[library]
    with suppress(AttributeError, KeyError):
        return bool(getattr(sys.modules[module], question)("socket"))
    return False


_PATCHERS = {
    "gevent": ("gevent.monkey", "is_module_patched"),
    "eventlet": ("eventlet.patcher", "is_monkey_patched"),
}
