"""News: what observers hear, in order, from a thread of its own.

A listener may take its time, or never come back; the worker's thread goes on keeping its leases.
Where they fall behind, nothing more is claimed, so that what is to be told does not pile up.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence

from flask_outbox.worker.say import say
from flask_outbox.worker.unexpected import place

BEHIND = 100  # pieces of news that wait

Telling = Callable[[], None]


class News:
    """``tell`` is called by one thread; ``ring`` when it is done, or no longer behind."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._changed = threading.Condition()
        self._waiting: deque[Telling] = deque()
        self._telling = False
        self._ending = False
        self._thread: threading.Thread | None = None

    @property
    def is_behind(self) -> bool:
        """Whether so much waits that there should be no more of it."""
        return len(self._waiting) > BEHIND

    @property
    def is_told(self) -> bool:
        """Whether nothing waits and no listener is at it."""
        with self._changed:
            return not self._waiting and not self._telling

    def tell(self, several: Sequence[Telling]) -> None:
        """Have them called, one after the other, after all that came before."""
        if not several:
            return
        with self._changed:
            self._waiting.extend(several)
            self._changed.notify_all()
        if self._thread is None and not self._begin():
            while self._tell_next():
                pass

    def end(self, seconds: float) -> None:
        """Wait at most so long for what is left; whatever is not told then may be lost."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(seconds)

    def _begin(self) -> bool:
        name = f"{threading.current_thread().name}-news"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads, as at the interpreter's end: told by the caller's
            return False
        self._thread = thread
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ending)
                if not self._waiting:
                    return
            self._tell_next()

    def _tell_next(self) -> bool:
        with self._changed:
            if not self._waiting:
                return False
            was_behind = self.is_behind
            telling = self._waiting.popleft()
            self._telling = True
        try:
            telling()
        except BaseException as error:  # noqa: BLE001  a listener's SystemExit ends no worker, either
            say.error("an observer failed: %s", place(error))
        with self._changed:
            self._telling = False
            rings = not self._waiting or (was_behind and not self.is_behind)
        if rings:
            self._ring()
        return True
