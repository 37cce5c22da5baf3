"""Forks of which Python is told nothing: uWSGI calls none of its hooks, unless it is asked to.

What was a parent's is told from one's own by the process id.
"""

import os
import sys
import threading
from contextlib import AbstractContextManager


class OwnLock:
    """A lock of which each process has its own: one that was held at a fork is the parent's."""

    def __init__(self) -> None:
        self._by_process: dict[int, AbstractContextManager[object]] = {}

    def here(self) -> AbstractContextManager[object]:
        """Give that of this process, which a thread may take twice."""
        return self._by_process.setdefault(os.getpid(), threading.RLock())


def uwsgi_forks_next() -> bool:
    """Tell whether this process imports the app for those that uWSGI forks from it.

    What is open now, and whoever holds a lock within SQLite, they would inherit.
    """
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is None or not hasattr(uwsgi, "worker_id"):
        return False
    return not (uwsgi.worker_id() or uwsgi.mule_id() or uwsgi.i_am_the_spooler())
