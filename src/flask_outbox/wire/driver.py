"""What both drivers know of a conversation: its one line, its pool, its limits."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, Generic, TypeVar

from flask_outbox.mail.errors import WireError
from flask_outbox.mail.exchange import (
    Close,
    Conversation,
    HttpRequest,
    Keep,
    Open,
    Opened,
    Report,
    Sign,
    Token,
)
from flask_outbox.wire.pool import Pool
from flask_outbox.wire.smtp_line import Line

ASKING = 60.0  # seconds for a token source, where its message has more

LineT = TypeVar("LineT", bound=Line)


class Driver(Generic[LineT]):
    """The one line of a conversation, and the limits that stand over it."""

    __slots__ = ("_fresh", "_key", "_line", "_owner", "_pool", "_seconds", "_until")

    def __init__(self, pool: Pool, seconds: float, owner: Hashable = None) -> None:
        self._pool = pool
        self._seconds = seconds
        self._owner = owner  # who alone can use the lines: an event loop
        self._until = monotonic() + seconds
        self._line: LineT | None = None
        self._key: Hashable = None
        self._fresh = False  # the next line is to be a new one

    @property
    def line(self) -> LineT:
        """The open line."""
        if self._line is None:
            raise WireError("no line is open")
        return self._line

    @line.setter
    def line(self, line: LineT) -> None:
        self._line = line

    def again(self) -> None:
        """Start the limit of the next message."""
        self._until = monotonic() + self._seconds

    def limit(self, seconds: float) -> float:
        """Tell when a question's time is up, in monotonic time."""
        return min(self._until, monotonic() + seconds)

    def asking(self) -> float:
        """Tell when the time of a token source is up."""
        return self.limit(ASKING)

    def reuse(self, question: Open) -> Opened | None:
        """Begin anew with a kept line, if there is one.

        A kept line may be dead and not know it; whoever asks a second time has just had one of
        those, and gets no other.
        """
        self.close()
        self.again()
        self._key = key = (
            self._owner,
            question.host,
            question.port,
            question.tls,
            question.account,
        )
        kept = None if self._fresh else self._pool.take(key)
        self._fresh = True
        if kept is None:
            return None
        self._line = kept.line
        return Opened(kept.session, kept.line.local_ip)

    def done(self, session: Any) -> None:
        """Put the line at rest after one whole exchange; the next may have it, or another."""
        self.rest(session)
        self._fresh = False

    def rest(self, session: Any) -> None:
        """Put the line at rest, if it is fit for that."""
        line, self._line = self._line, None
        if line is None:
            return
        if line.is_alive():
            self._pool.give(self._key, line, session)
        else:
            line.close()

    def left(self) -> WireError:
        """Say how far the latest Write had come, for who leaves in the middle."""
        if self._line is None:
            return WireError("we left before a line was open")
        return self._line.failure("by us, half-way", "was hung up on")

    def close(self) -> None:
        """Close the line, if there is one."""
        if self._line is not None:
            self._line.close()
            self._line = None


def last_words(conversation: Conversation, left: WireError) -> Iterator[Report]:
    """Hear what it makes of being left: whatever it asks for, it is told that."""
    with suppress(StopIteration, WireError):
        question = conversation.throw(left)
        while True:
            if isinstance(question, Report):
                yield question
            if isinstance(question, Report | Keep | Close):
                question = next(conversation)
            else:
                question = conversation.throw(left)


def too_slow(what: str) -> WireError:
    """Say that it did not answer in time."""
    return WireError(f"{what} took too long")


def asked(question: Token | Sign) -> tuple[str, Callable[[], str | HttpRequest]]:
    """Give what a question that may block asks, and the call that asks it."""
    if isinstance(question, Token):
        return "the token source", partial(ask_token, question)
    from flask_outbox.wire.aws import sign  # noqa: PLC0415  botocore, where it is needed

    return "finding AWS credentials", partial(sign, question)


def ask_token(question: Token) -> str:
    """Ask; what it raises may hold a secret, so only its kind is passed on, unless it is ours."""
    renew: Callable[[str], str] | None = getattr(question.source, "renew", None)
    try:
        if question.refused and renew is not None:
            return renew(question.refused)
        return question.source()
    except WireError:
        raise
    except Exception as error:
        raise WireError(f"the token source failed with {type(error).__name__}") from error
