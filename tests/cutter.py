"""A line between a program and its database server that can be cut, at a COMMIT or anywhere.

::

    with Cutter(server.port) as cutter:
        ...                          # connect to cutter.port
        cutter.at_commit(done=True)  # the next one is done, and nobody hears of it
        cutter.at_commit(done=None)  # the next one arrives, and the server is still about it
        cutter.at_commit(done=False) # the next one does not arrive
        cutter.at_word(7, done=True) # the same at the seventh thing that is said from now on
        cutter.away = True           # nobody gets through any more
        cutter.cut()                 # all lines, now
"""

import socket
import threading
from contextlib import suppress
from typing import Self

HEADER = 5  # octets before the text of a statement, at PostgreSQL and at MySQL
COMMIT = b"COMMIT"
UNANSWERED = 3.0  # seconds, then it is cut without an answer
NOTHING = (b"SET ", b"COMMIT", b"ROLLBACK")  # after which there is nothing to commit


class Cutter:
    """Listens on ``port`` and passes everything on, until told otherwise."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._commits: list[bool | None] = []
        self._word: tuple[int, bool] | None = None
        self._lines: list[_Line] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.away = False
        self.cuts = 0  # at commits and words
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self.cut()
        for line in self._lines:
            line.join()

    def at_commit(self, *, done: bool | None) -> None:
        """Cut at the next COMMIT, on whichever line it comes."""
        with self._lock:
            self._commits.append(done)

    def at_word(self, number: int, *, done: bool) -> None:
        """Cut at this one of what clients say from now on, counted on all lines together."""
        with self._lock:
            self._word = number, done

    def cut(self) -> None:
        """Cut every line."""
        for line in self._lines:
            line.cut()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                near.close()
                continue
            if self.away:
                near.close()
                far.close()
                continue
            self._lines.append(_Line(self, near, far))

    def comes(self, *, is_commit: bool) -> list[bool | None]:
        """Tell how to cut at what has just come, if at all."""
        with self._lock:
            now: list[bool | None] = []
            if self._word is not None:
                left, done = self._word
                self._word = (left - 1, done) if left > 1 else None
                now = [] if self._word else [done]
            if is_commit and not now:
                now, self._commits = self._commits[:1], self._commits[1:]
            self.cuts += len(now)
            return now


class _Line:
    """One connection and its continuation."""

    def __init__(self, cutter: Cutter, near: socket.socket, far: socket.socket) -> None:
        self._cutter = cutter
        self._near = near
        self._far = far
        self._silent = False  # what the server says now is not passed on
        self._answered = threading.Event()
        self._threads = [
            threading.Thread(target=self._forth, daemon=True),
            threading.Thread(target=self._back, daemon=True),
        ]
        for sock in (near, far):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for thread in self._threads:
            thread.start()

    def _forth(self) -> None:
        statement = NOTHING[0]
        with suppress(OSError):
            while data := self._near.recv(65_536):
                before, statement = statement, data[HEADER:]
                commits = statement.startswith(COMMIT) and not before.startswith(NOTHING)
                how = self._cutter.comes(is_commit=commits)
                if how == [False]:
                    break
                self._silent = bool(how)
                self._far.sendall(data)
                if how == [None]:
                    break
                if how:
                    self._answered.wait(UNANSWERED)  # never, where the rest of it did not come
                    break
        self.cut()

    def _back(self) -> None:
        with suppress(OSError):
            while data := self._far.recv(65_536):
                if self._silent:  # it has answered, so it is done
                    break
                self._near.sendall(data)
        self._answered.set()
        self.cut()

    def cut(self) -> None:
        for sock in (self._near, self._far):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()
        self._near.close()
        self._far.close()
