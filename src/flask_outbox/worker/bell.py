"""A bell that any thread and any signal handler may ring, and one thread waits for."""

import threading


class Bell:
    """Remembers a ring that came before the wait.

    Not an Event: that one's lock is not reentrant, and a signal handler which rings while the
    same thread is about to wait would never return.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition(threading.RLock())
        self._rung = False

    def ring(self) -> None:
        """End the wait that is on, or the next one."""
        with self._condition:
            self._rung = True
            self._condition.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait for a ring, at most so long."""
        with self._condition:
            if not self._rung:
                self._condition.wait(min(seconds, threading.TIMEOUT_MAX))
            self._rung = False
