"""Calls that may block for as long as they like, and those who wait for them no longer than that.

A name server may not answer, a token source may hang, and neither can be broken off. So they run
in a thread of their own (a greenlet, under monkey patching); who gave up hears no more of it.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from time import monotonic
from typing import ParamSpec, TypeVar

from flask_outbox.wire.threads import start

P = ParamSpec("P")
T = TypeVar("T")


def begin(
    call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> tuple[Future[T], threading.Thread]:
    """Begin at once, in a thread that no end of a process waits for."""
    future: Future[T] = Future()

    def run() -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001  raised where it is waited for
                future.set_exception(error)

    thread = threading.Thread(target=run, name="flask-outbox-look-up", daemon=True)
    start(thread)
    return future, thread


def within(until: float, call: Callable[[], T]) -> T:
    """Give what it comes to; TimeoutError once it is later than that, in monotonic time."""
    try:
        # It finds the context of the caller, an app's for one, as if it were called in place.
        future, thread = begin(copy_context().run, call)
    except RuntimeError:  # at the interpreter's end, or too many: late is better than never
        return call()
    result = future.result(max(0.0, until - monotonic()))
    thread.join()  # it has nothing left to do
    return result
