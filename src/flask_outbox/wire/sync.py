"""Carry a conversation over a blocking line: for ``mail.send``, and for gevent and eventlet.

Only plain calls that block, of sockets and threads, so that monkey patching turns each into a
cooperative one.
"""

import contextlib
import socket
from collections.abc import Iterator
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, assert_never

from flask_outbox.mail.errors import WireError
from flask_outbox.mail.exchange import (
    Answer,
    Close,
    Conversation,
    HttpRequest,
    Keep,
    Open,
    Opened,
    Question,
    Read,
    Report,
    Sign,
    StartTls,
    Tls,
    Token,
    Write,
)
from flask_outbox.wire import smtp_line
from flask_outbox.wire.blocking import within
from flask_outbox.wire.driver import Driver, asked, too_slow
from flask_outbox.wire.pool import Pool

if TYPE_CHECKING:
    from flask_outbox.wire.http import Answers

__all__ = ["Pool", "carry"]

_ALERT = 0.1  # seconds for a last word of TLS
_GLANCE = 1.0  # seconds that a Write may stand still before we look whether the server spoke


class _Line(smtp_line.Line):
    """A blocking socket; ``until`` is always a monotonic time."""

    __slots__ = ()

    def _wait(self, until: float, most: float = float("inf")) -> None:
        """Let the next call take no longer than this."""
        left = until - monotonic()
        if left <= 0:
            raise TimeoutError
        self.sock.settimeout(min(left, most))

    def glance(self) -> None:
        """Take in whatever the kernel has, without waiting."""
        with contextlib.suppress(BlockingIOError):
            while not self.gone and self.replies.room > 0:
                self.sock.settimeout(0)
                self.receive()

    def read(self, until: float) -> smtp_line.Reply:
        """Wait for one whole reply."""
        replies = self.replies
        while (reply := replies.take()) is None:
            if replies.error or self.gone:
                raise self.failure(smtp_line.AWAITED, replies.error)
            try:
                self._wait(until)
                self.receive()
            except TimeoutError:
                raise self.failure(smtp_line.AWAITED, smtp_line.OVERDUE) from None
        return reply

    def write(self, question: Write, until: float) -> None:
        """Put all blocks on the wire."""
        if len(self.replies) == self.replies.owed:
            self.glance()  # nothing is outstanding: whatever comes now is out of turn
        earlier = self.begin(question.replies)
        for number, piece in enumerate(smtp_line.pieces(question.blocks)):
            if number:
                self.glance()  # a server may have heard enough long before all is out
            rest = self.outgoing(piece)
            while rest:
                if self.settled(earlier, question.replies):
                    raise self.broken_write(question, earlier)
                rest = rest[self._send(rest, len(piece), until, question, earlier) :]

    def _send(
        self, rest: memoryview, size: int, until: float, question: Write, earlier: int
    ) -> int:
        """Hand the kernel what it takes; while it takes nothing, look whether the server spoke."""
        try:
            self._wait(until, _GLANCE)
            count = self.sock.send(rest)
        except TimeoutError:
            if monotonic() >= until:
                raise self.broken_write(question, earlier, smtp_line.OVERDUE) from None
            self.glance()
            count = 0
        except OSError as error:
            self.glance()
            self.lost(error)
            raise self.broken_write(question, earlier) from error
        self.went_out(count, size)
        return count

    def shake(self, tls: Tls, host: str, until: float) -> None:
        """Make it private."""
        privacy = self.begin_privacy(tls, host)
        try:
            while not self.shaken(privacy):
                self._push(privacy.records(), until)
                self._wait(until)
                privacy.feed(self.sock.recv(smtp_line.RECEIVE))
            self._push(privacy.records(), until)
        except TimeoutError:
            raise self.unshaken(smtp_line.OVERDUE) from None
        except OSError as error:
            self.lost(error)
            raise self.unshaken() from error
        finally:
            with contextlib.suppress(OSError):  # the alert that says why, if it was we
                self._push(privacy.records(), monotonic() + _ALERT)
        self.private(privacy)

    def _push(self, records: bytes, until: float) -> None:
        rest = memoryview(records)
        while rest:
            self._wait(until)
            rest = rest[self.sock.send(rest) :]


def _connect(host: str, port: int, until: float, answers: "Answers | None") -> _Line:
    """Try every address of the host, each with its share of the time that is left."""
    where = f"{host}:{port}"
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        addresses = look_up() if smtp_line.is_address(host) else within(until, look_up)
    except (OSError, UnicodeError) as error:
        raise smtp_line.unknown_host(where, error) from error
    problem: OSError | None = None
    for tried, (family, kind, protocol, _, address) in enumerate(addresses):
        with contextlib.ExitStack() as unless_connected:
            try:
                sock = unless_connected.enter_context(socket.socket(family, kind, protocol))
                sock.settimeout(smtp_line.share(until, len(addresses) - tried))
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                problem = error
                continue
            unless_connected.pop_all()
            return _Line(sock, where, answers)
    raise smtp_line.unreachable(where, problem) from problem


class _Driver(Driver[_Line]):
    """Does what a conversation asks for."""

    __slots__ = ()

    def ask(self, question: Question) -> Answer:
        """Do one thing and answer."""
        match question:
            case Write():
                self.line.write(question, self.limit(question.seconds))
            case Read():
                return self.line.read(self.limit(question.seconds))
            case Open():
                return self.reuse(question) or self._open(question)
            case HttpRequest():
                return self._exchange(question)
            case StartTls():
                self.line.shake(question.tls, question.host, self.limit(question.seconds))
            case Token() | Sign():
                return self._ask(question)
            case Keep():
                self.rest(question.session)
            case Close() | Report():
                self.close()
            case _:
                assert_never(question)
        return None

    def _ask(self, question: Token | Sign) -> Answer:
        what, call = asked(question)
        try:
            return within(self.asking(), call)
        except TimeoutError:
            raise too_slow(what) from None

    def _exchange(self, request: HttpRequest) -> Answer:
        from flask_outbox.wire.http import Answers, Exchange  # noqa: PLC0415  not for SMTP alone

        exchange = Exchange(request)
        until = self.limit(request.seconds)
        while True:
            kept = self.reuse(exchange.opening)
            answers: Answers = kept.session if kept else Answers()
            if not kept:
                self._open(exchange.opening, answers, until)
            try:
                self.line.write(exchange.write(answers), until)
                answer = self.line.read(until)
            except WireError as error:
                if kept and not error.sent:
                    continue  # it was gone before we wrote
                return exchange.broken(answers, error)
            self.done(answers)
            return answer

    def _open(
        self, question: Open, answers: "Answers | None" = None, latest: float = float("inf")
    ) -> Opened:
        until = min(latest, self.limit(question.seconds))
        self.line = line = _connect(question.host, question.port, until, answers)
        if question.tls:
            line.shake(question.tls, question.host, until)
        return Opened(None, line.local_ip)


def carry(conversation: Conversation, pool: Pool, *, seconds: float) -> Iterator[Report]:
    """Carry it to its end, handing out each Report as it comes.

    ``seconds`` is the wall-clock limit for one message: it starts with the connection, and again
    at each Report. Each question's own limit holds besides. Whoever stops half-way closes the
    line.
    """
    driver = _Driver(pool, seconds)
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
                answer = driver.ask(question)
            except WireError as error:
                broken = error
    finally:
        driver.close()
        conversation.close()
