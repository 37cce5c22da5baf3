"""A forked child of the test, that never gets back into pytest."""

import os
import select
import signal
import traceback
import warnings
from collections.abc import Callable
from ctypes import PyDLL

BOUND = 10.0  # seconds after which a child hangs


def fork_untold() -> int:
    """Fork as uWSGI does, which calls none of Python's hooks."""
    pid: int = PyDLL(None).fork()
    return pid


def in_child(
    work: Callable[[], object], bound: float = BOUND, fork: Callable[[], int] = os.fork
) -> None:
    """Run it in a forked child; what goes wrong there goes wrong here."""
    read, write = os.pipe()
    with warnings.catch_warnings():  # that threads and fork do not mix is what is tested
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = fork()
    if pid == 0:
        try:
            work()
            os.write(write, b"ok")
        except BaseException:  # noqa: BLE001  a child must never return into pytest
            os.write(write, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(write)
    try:
        with os.fdopen(read, "rb") as said:
            assert select.select([said], [], [], bound)[0], "the child hangs"
            answer = said.read().decode()
        assert answer == "ok", answer
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
