"""Carry a conversation with await: for workers and ``send_async``.

The socket is ours: its reader stays registered for as long as the line lives, a Write goes to the
kernel at once, and only who really has to wait suspends.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator, Callable, Hashable
from functools import partial
from time import monotonic
from typing import assert_never

from flask_outbox.mail.errors import WireError
from flask_outbox.mail.exchange import (
    Answer,
    Close,
    Conversation,
    Keep,
    Open,
    Opened,
    Question,
    Read,
    Report,
    SmtpReply,
    StartTls,
    Tls,
    Token,
    Write,
)
from flask_outbox.wire import smtp_line
from flask_outbox.wire.driver import Driver, ask_token
from flask_outbox.wire.pool import Pool
from flask_outbox.wire.tls import Privacy

__all__ = ["Pool", "carry"]

_TURN = 1_048_576  # bytes that one line may push before the others have their turn


class _Line(smtp_line.Line):
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

    def __init__(self, sock: socket.socket, where: str) -> None:
        super().__init__(sock, where)
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
        if self._pid != os.getpid() or self._loop.is_closed():
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
        with contextlib.suppress(BlockingIOError):
            self.receive()
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
        with contextlib.suppress(BlockingIOError):
            while not self.gone and self.replies.room > 0:
                self.receive()

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

    async def read(self, until: float) -> SmtpReply:
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

    async def write(self, question: Write, until: float) -> None:
        """Put all blocks on the wire, waiting where the kernel is full."""
        if len(self.replies) == self.replies.owed:
            self.glance()  # nothing is outstanding: whatever comes now is out of turn
        earlier = self.begin(question.replies)
        turn = 0
        for number, piece in enumerate(smtp_line.pieces(question.blocks)):
            if number:
                self.glance()  # a server may have heard enough long before all is out
            rest = self.outgoing(piece)
            while rest:
                if self.settled(earlier, question.replies):
                    raise self.broken_write(question, earlier)
                try:
                    count = self.sock.send(rest)
                except BlockingIOError:
                    await self._writable(question, earlier, until)
                    turn = 0
                    continue
                except OSError as error:
                    self.glance()
                    self.lost(error)
                    raise self.broken_write(question, earlier) from error
                self.went_out(count, len(piece))
                rest = rest[count:]
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


async def _connect(host: str, port: int, until: float) -> _Line:
    """Try every address of the host, each with its share of the time that is left."""
    where = f"{host}:{port}"
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(until - monotonic()):
            addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError as error:
        raise smtp_line.unreachable(where, error) from error
    except (OSError, UnicodeError) as error:
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
            return _Line(sock, where)
    raise smtp_line.unreachable(where, problem) from problem


class _Driver(Driver[_Line]):
    """Does what a conversation asks for."""

    __slots__ = ()

    async def ask(self, question: Question) -> Answer:
        """Do one thing and answer."""
        match question:
            case Write():
                await self.line.write(question, self.limit(question.seconds))
            case Read():
                return await self.line.read(self.limit(question.seconds))
            case Open():
                return self._reopen(question) or await self._open(question)
            case StartTls():
                until = self.limit(question.seconds)
                await self.line.shake(question.tls, question.host, until)
            case Token():
                return await self._ask_token(question)
            case Keep():
                self._rest(question)
            case Close() | Report():
                self.close()
            case _:
                assert_never(question)
        return None

    def _reopen(self, question: Open) -> Opened | None:
        opened = self.reuse(question)
        if opened:
            self.line.disturbed = None
        return opened

    async def _open(self, question: Open) -> Opened:
        until = self.limit(question.seconds)
        self.line = line = await _connect(question.host, question.port, until)
        if question.tls:
            await line.shake(question.tls, question.host, until)
        return Opened(None, line.local_ip)

    async def _ask_token(self, question: Token) -> str:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.limit(self._seconds) - monotonic()):
                return await loop.run_in_executor(None, ask_token, question.source)
        except TimeoutError:
            raise WireError("the token source took too long") from None

    def _rest(self, question: Keep) -> None:
        """Keep the line, and close it as soon as the server says anything."""
        line = self.line
        self.keep(question.session)
        if not line.gone:
            line.disturbed = partial(_disturbed, line, self._pool, self._key)


def _disturbed(line: _Line, pool: Pool, key: Hashable) -> None:
    if line.gone or not line.replies.untouched:
        pool.drop(key, line)
        line.close()


async def carry(
    conversation: Conversation, pool: Pool, *, seconds: float
) -> AsyncGenerator[Report, None]:
    """Carry it to its end, handing out each Report as it comes.

    ``seconds`` is the wall-clock limit for one message: it starts with the connection, and again
    at each Report. Each question's own limit holds besides. Whoever stops half-way (``aclose``,
    or a cancelled task) closes the line.
    """
    driver = _Driver(pool, seconds, asyncio.get_running_loop())
    answer: Answer = None
    broken: WireError | None = None
    try:
        while True:
            try:
                question = conversation.throw(broken) if broken else conversation.send(answer)
            except StopIteration:
                return
            answer = broken = None
            if isinstance(question, Report):
                yield question
                driver.again()
                continue
            try:
                answer = await driver.ask(question)
            except WireError as error:
                broken = error
    finally:
        driver.close()
        conversation.close()
