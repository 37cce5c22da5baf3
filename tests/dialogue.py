"""A conversation run against a script of what each side says: no network, no thread, no clock.

A script is a list. Its items:

``(client, server)``   one Write of the client's, and the reply to it; CRLF is added to both
``[(c, s), (c, s)]``   one Write that holds them all, as a group; the replies are read one by one
``Cut(sent, item)``    that Write breaks when ``sent`` bytes have gone out
``Fresh()``            a new line, greeting and EHLO included; every script begins with one
``Rested()``           a line that was kept
``Unreachable(text)``  no line

In place of a reply: ``GONE`` (or any WireError), the line breaks there; ``None``, nothing is read.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flask_outbox.mail.errors import WireError
from flask_outbox.mail.exchange import (
    Close,
    Conversation,
    Keep,
    Open,
    Opened,
    Read,
    Report,
    SmtpReply,
    StartTls,
    Tls,
    Token,
    Write,
)
from flask_outbox.mail.outcome import Deferred, Fault, Outcome
from flask_outbox.mail.submission import Receipt, Submission
from flask_outbox.transports.smtp import Smtp
from flask_outbox.transports.smtp_session import Session
from flask_outbox.wire.driver import ask_token

GONE = WireError("the line is gone")
ME = "app.example.com"
HOST = "relay.example.com"
TEXT = b"Subject: hi\r\n\r\nhello\r\n"


def relay(**settings: Any) -> Smtp:
    """A relay as most tests want it; no credentials."""
    return Smtp(settings.pop("host", HOST), **{"ehlo_name": ME, **settings})


def mail(*recipients: str, content: bytes = TEXT, number: int = 1, **more: Any) -> Submission:
    """A submission as most tests want it."""
    return Submission(
        sender=more.pop("sender", "shop@example.com"),
        recipients=recipients or ("ada@example.org",),
        content=content,
        message_id=f"<{number}@example.com>",
        date=1.0,
        **more,
    )


def said(text: bytes | str | WireError) -> SmtpReply | WireError:
    """Read ``250-a\\r\\n250 b`` as the wire would."""
    if isinstance(text, WireError):
        return text
    lines = (text.decode() if isinstance(text, bytes) else text).splitlines()
    return SmtpReply(int(lines[0][:3]), tuple(line[4:] for line in lines))


@dataclass
class Fresh:
    """A new line. ``offers`` None: the script itself has greeting and EHLO."""

    offers: tuple[str, ...] | None = ()
    greeting: Any = "220 relay.example.com"
    local_ip: str = "192.0.2.7"


@dataclass
class Rested:
    """A kept line, as it was left."""

    offers: tuple[str, ...] = ()
    dirty: bool = False
    carried: int = 1
    tells: bool = False

    def session(self) -> Session:
        session = Session.offered(("hi", *self.offers))
        session.dirty, session.carried = self.dirty, self.carried
        session.tells = self.tells
        return session


@dataclass
class Unreachable:
    """Nobody answers there."""

    error: WireError = field(default_factory=lambda: WireError("no connection"))


@dataclass
class Cut:
    """A Write that breaks. ``heard``: what had arrived and can still be read."""

    sent: int
    item: Any
    reply: Any = None
    heard: Sequence[Any] = ()


@dataclass
class Told:
    """What came of it."""

    reports: list[Report] = field(default_factory=list[Report])
    ends: list[str] = field(default_factory=list[str])  # of each line: kept or closed
    opened: list[Open] = field(default_factory=list[Open])
    tls: list[Tls] = field(default_factory=list[Tls])
    wrote: list[Write] = field(default_factory=list[Write])
    session: Any = None
    flights: list[int] = field(
        default_factory=list[int]
    )  # contents unanswered, at each read of one

    @property
    def in_the_air(self) -> int:
        """How many contents were on their way, unanswered, at most."""
        return max(self.flights, default=0)

    @property
    def receipts(self) -> list[Receipt]:
        return [report.receipt for report in self.reports]

    @property
    def receipt(self) -> Receipt:
        (receipt,) = self.receipts
        return receipt

    @property
    def outcomes(self) -> list[Any]:
        return [outcome for receipt in self.receipts for outcome in receipt.values()]


def letters(told: Told) -> str:
    """Sum up: Accepted, Refused, Unclear; deferred by Fault: Transient, Ours, None."""
    return "".join(map(_letter, told.outcomes))


def _letter(outcome: Outcome) -> str:
    match outcome:
        case Deferred(fault=fault):
            return {Fault.TRANSIENT: "T", Fault.OURS: "O", Fault.NONE: "N"}[fault]
        case _:
            return type(outcome).__name__[0]


def is_content(client: bytes) -> bool:
    """Tell a step that ends a content from one that is a command."""
    return client.endswith(b"\r\n.") or client.startswith(b"BDAT")


class _Stage:
    def __init__(self, script: Sequence[Any]) -> None:
        self.script = deque(script)
        self.replies: deque[tuple[Any, bool]] = deque()
        self.broken: WireError | None = None
        self.told = Told()
        self.is_open = False
        self.in_the_air = 0

    def answer(self, question: Any) -> Any:
        match question:
            case Open():
                return self.open(question)
            case Write():
                self.told.wrote.append(question)
                return self.write(question)
            case Read():
                return self.read()
            case Report():
                self.told.reports.append(question)
            case Token():
                return ask_token(question)
            case StartTls():
                assert not self.replies, "plain text stands unread before the handshake"
                self.told.tls.append(question.tls)
                item = self.script.popleft()
                if isinstance(item, WireError):
                    raise item
                assert item == "TLS", item
            case Keep():
                assert self.is_open
                assert not self.replies, f"kept with unread replies: {self.replies}"
                assert self.broken is None, "kept a broken line"
                self.told.session = question.session
                self.told.ends.append("kept")
                self.is_open = False
            case Close():
                assert self.is_open
                self.told.ends.append("closed")
                self.is_open = False
                self.replies.clear()
        return None

    def open(self, question: Open) -> Opened:
        assert not self.is_open
        self.told.opened.append(question)
        item = self.script.popleft() if self.script else None
        self.broken = None
        match item:
            case Unreachable():
                raise item.error
            case Rested():
                self.is_open = True
                return Opened(item.session(), "192.0.2.7")
            case Fresh():
                self.is_open = True
                self.replies.append((said(item.greeting), False))
                if item.offers is not None:
                    words = (HOST, *item.offers)
                    lines = [f"250-{word}" for word in words]
                    lines[-1] = lines[-1].replace("-", " ", 1)
                    self.script.appendleft((f"EHLO {ME}".encode(), "\r\n".join(lines)))
                return Opened(None, item.local_ip)
        raise AssertionError(f"a line was asked for, and the script has {item!r}")

    def write(self, question: Write) -> None:
        assert self.is_open
        if self.broken:
            raise self.broken
        written = b"".join(question.blocks)
        if not self.script and written == b"QUIT\r\n":
            self.replies.append((SmtpReply(221, ("bye",)), False))
            return
        assert self.script, f"the script ended before the client wrote {written!r}"
        item = self.script.popleft()
        cut = item if isinstance(item, Cut) else None
        if cut:
            item = cut.item
        pairs = item if isinstance(item, list) else [item]
        expected = b"".join(client + b"\r\n" for client, _ in pairs)
        assert written == expected
        assert question.replies == len(pairs)
        if cut:
            reply = said(cut.reply) if cut.reply else None
            assert not isinstance(reply, WireError)
            self.broken = WireError("cut off", sent=cut.sent, reply=reply)
            self.replies.extend((said(each), False) for each in cut.heard)
            raise self.broken
        self.in_the_air += sum(is_content(client) for client, _ in pairs)
        self.replies.extend(
            (said(server), is_content(client)) for client, server in pairs if server is not None
        )

    def read(self) -> SmtpReply:
        assert self.is_open
        if not self.replies:
            assert self.broken, "a reply was awaited that the script does not have"
            raise self.broken
        reply, ends_content = self.replies.popleft()
        if ends_content:
            self.told.flights.append(self.in_the_air)
            self.in_the_air -= 1
        if isinstance(reply, WireError):
            self.broken = reply
            self.replies.clear()
            raise reply
        return reply


def play(conversation: Conversation, script: Sequence[Any]) -> Told:
    """Run it to its end; the script has to be used up by then."""
    stage = _Stage(script)
    answer: Any = None
    broken: WireError | None = None
    while True:
        try:
            question = conversation.throw(broken) if broken else conversation.send(answer)
        except StopIteration:
            break
        answer = broken = None
        try:
            answer = stage.answer(question)
        except WireError as error:
            broken = error
    assert not stage.script, f"left unsaid: {list(stage.script)}"
    assert not stage.is_open, "the line was neither kept nor closed"
    return stage.told


def dialogue(
    script: Sequence[Any],
    *submissions: Submission,
    transport: Smtp | None = None,
    offers: tuple[str, ...] = (),
) -> Told:
    """Play the script for these submissions; it begins with a fresh line unless it says so."""
    begins = script and isinstance(script[0], Fresh | Rested | Unreachable)
    whole = list(script) if begins else [Fresh(offers), *script]
    sent = submissions or (mail(),)
    told = play((transport or relay()).send(sent), whole)
    assert [report.submission for report in told.reports if report.submission not in sent] == []
    assert len(told.reports) == len(sent), "each submission is reported exactly once"
    for report in told.reports:
        assert tuple(report.receipt) == report.submission.recipients
    return told
