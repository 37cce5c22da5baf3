"""A socket in an event loop that is ours alone: what the asyncio driver waits with."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING

from flask_outbox.mail.exchange import Tls, Write
from flask_outbox.wire import smtp_line
from flask_outbox.wire.tls import Privacy

if TYPE_CHECKING:
    from flask_outbox.wire.http import Answers
    from flask_outbox.wire.smtp_replies import Replies

Rest = tuple[int, Iterator[bytes | memoryview]]  # replies owed before, pieces that are to go
_TURN = 1_048_576  # bytes that one line may push before the others have their turn


class Line(smtp_line.Line):
    """A socket in an event loop; ``until`` is always a monotonic time."""

    __slots__ = (
        "_alarm",
        "_alarm_at",
        "_loop",
        "_news",
        "_pid",
        "_reading",
        "_shaking",
        "_until",
        "_waiter",
        "disturbed",
    )

    def __init__(
        self, sock: socket.socket, where: str, replies: "Replies | Answers | None" = None
    ) -> None:
        super().__init__(sock, where, replies)
        self.disturbed: Callable[[], None] | None = None  # told while it rests in a pool
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._waiter: asyncio.Future[None] | None = None
        self._until = 0.0  # when the waiter's time is up
        self._alarm: asyncio.TimerHandle | None = None  # one for many waits: moved, not made anew
        self._alarm_at = 0.0
        self._shaking: Privacy | None = None
        self._news = False  # heard while shaking
        self._reading = False
        self._listen()

    # --- its life ---

    def close(self) -> None:
        """Close it, from whichever thread or process."""
        if self._pid != os.getpid():
            # The loop's epoll is shared across fork: a word to it would deafen the parent.
            self.abandon()
        elif asyncio._get_running_loop() is self._loop:  # noqa: SLF001  documented, raises nothing
            self._drop()
        else:
            try:
                self._loop.call_soon_threadsafe(self._drop)
            except RuntimeError:  # closed since
                self.abandon()

    def _drop(self) -> None:
        if self.sock.fileno() >= 0:
            self._deafen()
            self._loop.remove_writer(self.sock)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self.abandon()

    def _listen(self) -> None:
        self._reading = True
        self._loop.add_reader(self.sock, self._readable)

    def _deafen(self) -> None:
        self._reading = False
        self._loop.remove_reader(self.sock)

    def _readable(self) -> None:
        """Take in what has come, and wake who waits for it."""
        try:
            self.receive()
        except BlockingIOError:
            return
        if self._reading and (self.gone or self.replies.room <= 0):
            self._deafen()  # no more to come, or no more wanted for now
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self.disturbed is not None:
            self.disturbed()

    def hear(self, data: bytes) -> None:
        """Take in what was received: the handshake's records apart from all else."""
        if self._shaking is None:
            super().hear(data)
        else:
            self._news = True
            self._shaking.feed(data)
            if not data:
                self._deafen()

    def glance(self) -> None:
        """Take in whatever the kernel has, without waiting."""
        try:
            while not self.gone and self.replies.room > 0:
                self.receive()
        except BlockingIOError:
            return

    # --- waiting ---

    def _wait(self, until: float) -> asyncio.Future[None]:
        """Wait until something is heard; TimeoutError once the time is up."""
        self._waiter = waiter = self._loop.create_future()
        self._until = until
        if self._alarm is None or self._alarm_at > until:
            self._set_alarm(until)
        return waiter

    def _set_alarm(self, until: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = until
        self._alarm = self._loop.call_later(max(0.0, until - monotonic()), self._ring)

    def _ring(self) -> None:
        """Time is up for whoever waits now, unless the limit has moved on meanwhile."""
        self._alarm = None
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if monotonic() < self._until:
            self._set_alarm(self._until)
        else:
            waiter.set_exception(TimeoutError())

    async def read(self, until: float) -> smtp_line.Reply:
        """Wait for one whole reply."""
        replies = self.replies
        while (reply := replies.take()) is None:
            if replies.error or self.gone:
                raise self.failure(smtp_line.AWAITED, replies.error)
            if not self._reading:
                self._listen()
            try:
                await self._wait(until)
            except TimeoutError:
                raise self.failure(smtp_line.AWAITED, smtp_line.OVERDUE) from None
        return reply

    def begin_write(self, question: Write) -> Rest | None:
        """Put the blocks on the wire; None: the kernel took them all, as it nearly always does."""
        if len(self.replies) == self.replies.owed:
            self.glance()  # nothing is outstanding: whatever comes now is out of turn
        earlier = self.begin(question.replies)
        if self.privacy is not None or sum(map(len, question.blocks)) > smtp_line.PIECE:
            return earlier, smtp_line.pieces(question.blocks)
        data = b"".join(question.blocks)
        with contextlib.suppress(OSError):  # finish_write meets it again
            self.sent = self.sock.send(data)
        if self.sent == len(data):
            return None
        return earlier, iter((memoryview(data)[self.sent :],))

    async def finish_write(self, question: Write, rest: Rest, until: float) -> None:
        """Put the rest on the wire, waiting where the kernel is full."""
        earlier, pieces = rest
        turn = 0
        for piece in pieces:
            left = self.outgoing(piece)
            while left:
                if self.settled(earlier, question.replies):
                    raise self.broken_write(question, earlier)
                try:
                    count = self.sock.send(left)
                except BlockingIOError:
                    await self._writable(question, earlier, until)
                    turn = 0
                    continue
                except OSError as error:
                    self.glance()
                    self.lost(error)
                    raise self.broken_write(question, earlier) from error
                self.went_out(count, len(piece))
                left = left[count:]
                turn += count
                if turn > _TURN:
                    await asyncio.sleep(0)
                    turn = 0

    async def _writable(self, question: Write, earlier: int, until: float) -> None:
        """Wait until the kernel takes more, or the server says something."""
        try:
            await self._wait_for_room(until)
        except TimeoutError:
            raise self.broken_write(question, earlier, smtp_line.OVERDUE) from None

    async def _wait_for_room(self, until: float) -> None:
        waiter = self._wait(until)
        self._loop.add_writer(self.sock, _wake, waiter)
        try:
            await waiter
        finally:
            if self.sock.fileno() >= 0:
                self._loop.remove_writer(self.sock)

    # --- privacy ---

    async def shake(self, tls: Tls, host: str, until: float) -> None:
        """Make it private."""
        self._shaking = privacy = self.begin_privacy(tls, host)
        try:
            await self._shake(privacy, until)
        except TimeoutError:
            raise self.unshaken(smtp_line.OVERDUE) from None
        except OSError as error:
            self.lost(error)
            raise self.unshaken() from error
        finally:
            self._shaking = None
            with contextlib.suppress(OSError):  # the alert that says why, if it was we
                self.sock.send(privacy.records())
        self.private(privacy)

    async def _shake(self, privacy: Privacy, until: float) -> None:
        done = False
        while not done:
            self._news = False
            done = self.shaken(privacy)
            rest = memoryview(privacy.records())
            while rest:
                try:
                    rest = rest[self.sock.send(rest) :]
                except BlockingIOError:
                    await self._wait_for_room(until)
            if not (done or self._news):
                await self._wait(until)
            if self.gone:
                raise self.unshaken()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def connect(host: str, port: int, until: float, answers: "Answers | None" = None) -> Line:
    """Try every address of the host, each with its share of the time that is left."""
    where = f"{host}:{port}"
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(until - monotonic()):
            if smtp_line.is_address(host):  # no other thread has to be waited for
                addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            else:
                addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # and when its time is up
        raise smtp_line.unknown_host(where, error) from error
    problem: OSError | None = None
    for tried, (family, kind, protocol, _, address) in enumerate(addresses):
        with contextlib.ExitStack() as unless_connected:
            try:
                sock = unless_connected.enter_context(socket.socket(family, kind, protocol))
                sock.setblocking(False)  # noqa: FBT003  the standard library's way
                async with asyncio.timeout(smtp_line.share(until, len(addresses) - tried)):
                    await loop.sock_connect(sock, address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                problem = error
                continue
            unless_connected.pop_all()
            return Line(sock, where, answers)
    raise smtp_line.unreachable(where, problem) from problem
