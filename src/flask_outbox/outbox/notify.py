"""LISTEN and NOTIFY, where the outbox is on PostgreSQL: a hint that something is due.

The row is the truth and workers poll all the same: behind a pooler that gives each transaction
another connection, LISTEN hears nothing and nobody says so. So a listener tests itself.

https://www.postgresql.org/docs/current/sql-notify.html, read 2026-11-23
"""

import os
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from flask_outbox.mail.errors import OutboxUnavailable
from flask_outbox.outbox.database import Outbox

CHANNEL = "flask_outbox"
LISTEN = f"LISTEN {CHANNEL}"
NOTIFY = "SELECT pg_notify('flask_outbox', %s)"
PATIENCE = 2.0  # seconds for a word of our own to come back
TEST_EVERY = 60.0
LOOK_UP = 0.25  # seconds between two looks whether it is over


class Deaf(OutboxUnavailable):
    """A listener's own word did not come back."""


def _connection(outbox: Outbox) -> Any:
    """Give a connection for this alone, outside the pool and outside transactions."""
    with outbox.database.explained():
        fairy = outbox.open().raw_connection()
        driver: Any = fairy.driver_connection
        fairy.detach()
        driver.rollback()
        driver.autocommit = True
    return driver


class Notifier:
    """An engine: tells the workers that listen. Used by one thread at a time."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._driver: Any = None
        self._pid = os.getpid()
        self._inherited: list[Any] = []  # never touched: their sockets are the parent's

    def wake(self, due_at: float) -> None:
        """Send the word; after a failure the next one goes by a new connection."""
        self._leave_alone_what_is_the_parents()
        if self._driver is None or self._driver.closed:
            self._driver = _connection(self._outbox)
        try:
            self._driver.execute(NOTIFY, [f"{due_at:.0f}"])
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        """Let the connection go."""
        self._leave_alone_what_is_the_parents()
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.close()

    def _leave_alone_what_is_the_parents(self) -> None:
        if self._pid != os.getpid():  # rather than a hook: uWSGI forks without telling Python
            self._inherited.append(self._driver)
            self._driver, self._pid = None, os.getpid()


def listen(
    outbox: Outbox, heard: Callable[[], None], is_over: Callable[[], bool], token: str
) -> None:
    """Call ``heard`` for each word until it is over.

    ``token``: of this listener alone. Raises Deaf where its own word does not come back, and
    OutboxUnavailable where the connection breaks.
    """
    with closing(_connection(outbox)) as driver, outbox.database.explained():
        driver.execute(LISTEN)
        test_at = 0.0
        while not is_over():
            if time.monotonic() >= test_at:
                _test(outbox, driver, token, heard)
                test_at = time.monotonic() + TEST_EVERY
            for word in driver.notifies(timeout=LOOK_UP, stop_after=1):
                if word.payload != token:
                    heard()


def _test(outbox: Outbox, driver: Any, token: str, heard: Callable[[], None]) -> None:
    """Say something by another connection, and wait to hear it."""
    with closing(_connection(outbox)) as other:
        other.execute(NOTIFY, [token])
    until = time.monotonic() + PATIENCE
    while (left := until - time.monotonic()) > 0:
        for word in driver.notifies(timeout=left, stop_after=1):
            if word.payload == token:
                return
            heard()
    raise Deaf(
        f"LISTEN hears nothing at {outbox.database}, as behind a pooler: new mail is found by"
        " polling alone."
    )
