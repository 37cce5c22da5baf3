"""Threads of ours, which take no signal that belongs to an application server."""

import signal
import sys
import threading


def start(thread: threading.Thread) -> None:
    """Start it; under uWSGI, it and whatever it starts is passed over by the signals that end.

    uWSGI ends Python within its handlers, in whichever thread they are called. One of ours would
    wait for itself there, and the process for ever; uWSGI's own threads block them, too.
    Raises RuntimeError where there are too many threads, or too little memory for one more.
    """
    if "uwsgi" not in sys.modules:
        thread.start()
        return
    ending = signal.SIGHUP, signal.SIGINT, signal.SIGTERM
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        thread.start()  # inherits what is blocked
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
