"""A thread that hears of new mail, where the outbox can tell; else the worker polls, as it does."""

import os
import threading
from collections.abc import Callable

from flask_outbox.mail.errors import OutboxUnavailable
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.notify import LOOK_UP, Deaf, listen
from flask_outbox.worker.carriers import is_patched_by
from flask_outbox.worker.say import say
from flask_outbox.worker.unexpected import place

AGAIN = 60.0  # seconds until it is tried again after it failed


class Listening:
    """From ``begin`` to ``end``; whatever fails here is a line in the log and no more."""

    def __init__(self, outbox: Outbox, heard: Callable[[], None]) -> None:
        self._outbox = outbox
        self._heard = heard
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Listen from now on."""
        if not self._outbox.database.notifies:
            return
        if is_patched_by("eventlet"):  # to which psycopg does not yield, as it does to gevent
            say.info("new mail is found by polling alone: to listen would hold up eventlet")
            return
        thread = threading.Thread(target=self._run, name="flask-outbox-listening", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # too many threads
            say.info("new mail is found by polling alone: %s", place(error))
        else:
            self._thread = thread

    def end(self) -> None:
        """Stop listening."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(4 * LOOK_UP)

    def _run(self) -> None:
        token = os.urandom(8).hex()
        is_told = False
        while not self._over.is_set():
            try:
                listen(self._outbox, self._heard, self._over.is_set, token)
            except Deaf as error:
                if not is_told:  # a pooler does not go away
                    say.info("%s", error)
                is_told = True
            except OutboxUnavailable as error:
                say.info("%s", error)
            except Exception as error:  # noqa: BLE001  a worker works without it
                say.warning("listening failed: %s", place(error))
            self._over.wait(AGAIN)
