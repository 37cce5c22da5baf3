"""The event loop that carries a process's asynchronous mail, in a thread of its own."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

from flask_outbox.wire.blocking import begin
from flask_outbox.wire.threads import start

P = ParamSpec("P")
T = TypeVar("T")


class Background:
    """One daemon thread with an event loop per process: started on first use, anew after a fork."""

    def __init__(self) -> None:
        self._begin()
        self._inherited: list[asyncio.AbstractEventLoop | None] = []

    def _mind_fork(self) -> None:
        """Begin anew in a child; by the process id, for uWSGI forks without telling Python."""
        if self._pid == os.getpid():
            return
        # The parent's loop is kept, untouched: its end would be a warning, and a word to the
        # epoll that parent and child share.
        self._inherited.append(self._loop)
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run it there; the future can be waited for from any thread, or wrapped for a loop."""
        self._mind_fork()
        with self._lock:
            loop = self._loop or self._start()
            return asyncio.run_coroutine_threadsafe(coroutine, loop)

    def _start(self) -> asyncio.AbstractEventLoop:
        self._loop = loop = asyncio.new_event_loop()
        loop.set_default_executor(_Daemons())
        self._thread = threading.Thread(
            target=_run, args=(loop,), name="flask-outbox-loop", daemon=True
        )
        start(self._thread)
        return loop

    def stop(self) -> None:
        """Cancel what runs there, end the thread and wait for it; the next submit starts anew."""
        self._mind_fork()
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        loop.call_soon_threadsafe(loop.stop)
        if thread is not threading.current_thread():
            thread.join()


class _Daemons(ThreadPoolExecutor):
    """A thread for each call that may block: looking a name up, asking for a token.

    The pools of the standard library take no more work once the main thread has ended, though mail
    that is under way then is still finished; and the interpreter's end waits for their threads,
    however long a name server takes.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Begin at once."""
        return begin(fn, *args, **kwargs)[0]


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run until stopped, then let what was cancelled close its lines.

    Threads that look up a name or ask for a token are not waited for: they may take for ever.
    """
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


background = Background()


class Tasks:
    """Coroutines on the loop of this process that are cancelled together."""

    def __init__(self) -> None:
        self._begun: set[asyncio.Task[None] | None] = set()

    def begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run it there."""
        background.submit(self._run(coroutine))

    def cancel(self, seconds: float) -> None:
        """Cancel them, and wait so long for what they do about it."""
        # The loop ended, or something holds it up.
        with suppress(RuntimeError, CancelledError, TimeoutError):
            background.submit(self._cancel()).result(seconds)

    async def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.current_task()
        self._begun.add(task)
        try:
            await coroutine
        finally:
            self._begun.discard(task)

    async def _cancel(self) -> None:
        begun = [task for task in self._begun if task is not None]
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)
