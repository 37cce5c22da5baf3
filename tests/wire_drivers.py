"""Both drivers behind one face, so that each test of a line runs with each of them."""

import asyncio
from collections.abc import Generator, Iterable
from typing import Any

from flask_outbox.mail.errors import WireError
from flask_outbox.mail.exchange import Conversation, Open, Read, Report, SmtpReply, Tls, Write
from flask_outbox.wire import aio, sync

SECONDS = 10.0  # far more than any of these dialogues needs


class Blocking:
    """``mail.send``'s way."""

    name = "blocking"

    def __init__(self, **pool: Any) -> None:
        self.pool = sync.Pool(**pool)

    def carry(self, conversation: Conversation, seconds: float = SECONDS) -> list[Report]:
        return list(sync.carry(conversation, self.pool, seconds=seconds))

    def first(self, conversation: Conversation) -> Report:
        """Take one report and walk away."""
        carried = sync.carry(conversation, self.pool, seconds=SECONDS)
        report = next(carried)
        carried.close()
        return report

    def rest(self) -> None:
        """Close the lines that are kept."""
        self.pool.close()

    close = rest


class Asyncio:
    """The workers' way."""

    name = "asyncio"

    def __init__(self, **pool: Any) -> None:
        self.pool = aio.Pool(**pool)
        self.runner = asyncio.Runner()

    def carry(self, conversation: Conversation, seconds: float = SECONDS) -> list[Report]:
        return self.runner.run(self.carried(conversation, seconds))

    async def carried(self, conversation: Conversation, seconds: float = SECONDS) -> list[Report]:
        return [report async for report in aio.carry(conversation, self.pool, seconds=seconds)]

    def first(self, conversation: Conversation) -> Report:
        async def take() -> Report:
            carried = aio.carry(conversation, self.pool, seconds=SECONDS)
            report = await anext(carried)
            await carried.aclose()
            return report

        return self.runner.run(take())

    def rest(self) -> None:
        """Close the lines that are kept."""
        self.pool.close()
        self.runner.run(asyncio.sleep(0))  # a turn of the loop that they belong to

    def close(self) -> None:
        self.rest()
        self.runner.close()


DRIVERS = (Blocking, Asyncio)


class Tried:
    """A small conversation: what it does is a generator, what came of it is kept here."""

    def __init__(self) -> None:
        self.replies: list[SmtpReply] = []
        self.error: WireError | None = None
        self.session: Any = None
        self.local_ip = ""

    def talk(
        self,
        port: int,
        steps: Iterable[Any] = (),
        *,
        tls: Tls | None = None,
        seconds: float = SECONDS,
        account: str = "",
    ) -> Generator[Any, Any, None]:
        """Open, greet, then these questions; bytes are a Write and the Read of its one reply."""
        try:
            opened = yield Open("localhost", port, seconds, tls, account)
            self.session, self.local_ip = opened.session, opened.local_ip
            if opened.session is None:
                self.replies.append((yield Read(seconds)))
            for step in steps:
                if isinstance(step, bytes):
                    yield Write([step], seconds)
                    self.replies.append((yield Read(seconds)))
                else:
                    answer = yield step
                    if isinstance(step, Read):
                        self.replies.append(answer)
        except WireError as error:
            self.error = error

    @property
    def codes(self) -> list[int]:
        return [reply.code for reply in self.replies]
