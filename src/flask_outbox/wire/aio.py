"""Carry a conversation with await: for workers and ``send_async``.

A Write goes to the kernel at once, a reply that has come is handed out at once, and only who
really has to wait suspends.
"""

import asyncio
from collections.abc import AsyncGenerator, Hashable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, assert_never

from flask_outbox.mail.errors import WireError
from flask_outbox.mail.exchange import (
    Answer,
    Close,
    Conversation,
    HttpRequest,
    Keep,
    Open,
    Opened,
    Read,
    Report,
    Sign,
    StartTls,
    Token,
    Write,
)
from flask_outbox.wire.aio_line import Line, connect
from flask_outbox.wire.driver import Driver, asked, last_words, too_slow
from flask_outbox.wire.pool import Pool

if TYPE_CHECKING:
    from flask_outbox.wire.http import Answers

__all__ = ["Pool", "carry"]


class _Driver(Driver[Line]):
    """Does what a conversation asks for."""

    __slots__ = ()

    async def ask(
        self, question: Open | StartTls | HttpRequest | Token | Sign | Keep | Close
    ) -> Answer:
        """Do one thing and answer."""
        match question:
            case Open():
                return self._reopen(question) or await self._open(question)
            case HttpRequest():
                return await self._exchange(question)
            case StartTls():
                until = self.limit(question.seconds)
                await self.line.shake(question.tls, question.host, until)
            case Token() | Sign():
                return await self._ask(question)
            case Keep():
                self.rest(question.session)
            case Close():
                self.close()
            case _:
                assert_never(question)
        return None

    def _reopen(self, question: Open) -> Opened | None:
        opened = self.reuse(question)
        if opened:
            self.line.disturbed = None
        return opened

    async def _exchange(self, request: HttpRequest) -> Answer:
        from flask_outbox.wire.http import Answers, Exchange  # noqa: PLC0415  not for SMTP alone

        exchange = Exchange(request)
        until = self.limit(request.seconds)
        while True:
            kept = self._reopen(exchange.opening)
            answers: Answers = kept.session if kept else Answers()
            if not kept:
                await self._open(exchange.opening, answers, until)
            try:
                write = exchange.write(answers)
                if (rest := self.line.begin_write(write)) is not None:
                    await self.line.finish_write(write, rest, until)
                answer = await self.line.read(until)
            except WireError as error:
                if kept and not error.sent:
                    continue  # it was gone before we wrote
                return exchange.broken(answers, error)
            self.done(answers)
            return answer

    async def _open(
        self, question: Open, answers: "Answers | None" = None, latest: float = float("inf")
    ) -> Opened:
        until = min(latest, self.limit(question.seconds))
        self.line = line = await connect(question.host, question.port, until, answers)
        if question.tls:
            await line.shake(question.tls, question.host, until)
        return Opened(None, line.local_ip)

    async def _ask(self, question: Token | Sign) -> Answer:
        what, call = asked(question)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.asking() - monotonic()):
                return await loop.run_in_executor(None, call)
        except TimeoutError:
            raise too_slow(what) from None

    def rest(self, session: Any) -> None:
        """Keep the line, and close it as soon as the server says anything."""
        line = self.line
        super().rest(session)
        if not line.gone:
            line.disturbed = partial(_disturbed, line, self._pool, self._key)


def _disturbed(line: Line, pool: Pool, key: Hashable) -> None:
    if line.gone or not line.replies.untouched:
        pool.drop(key, line)
        line.close()


async def carry(  # noqa: C901  each mail goes through this loop: no call that can be spared
    conversation: Conversation, pool: Pool, *, seconds: float
) -> AsyncGenerator[Report, None]:
    """Carry it to its end, handing out each Report as it comes.

    ``seconds`` is the wall-clock limit for one message: it starts with the connection, and again
    at each Report. Each question's own limit holds besides. Whoever stops half-way (``aclose``,
    or a cancelled task) closes the line; who is cancelled hears before what that means.
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
            try:
                match question:
                    # Most of these are answered on the spot, by what has been heard already and
                    # by a kernel that takes it all.
                    case Read():
                        line = driver.line
                        answer = line.replies.take()
                        if answer is None:
                            answer = await line.read(driver.limit(question.seconds))
                    case Write():
                        line = driver.line
                        rest = line.begin_write(question)
                        if rest is not None:
                            until = driver.limit(question.seconds)
                            await line.finish_write(question, rest, until)
                    case Report():
                        yield question
                        driver.again()
                    case _:
                        answer = await driver.ask(question)
            except WireError as error:
                broken = error
            except asyncio.CancelledError:
                for report in last_words(conversation, driver.left()):
                    yield report
                raise
    finally:
        driver.close()
        conversation.close()
