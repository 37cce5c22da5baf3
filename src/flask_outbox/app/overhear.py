"""Listen in on a conversation: what went wrong in it, and, for MAIL_DEBUG, what was said.

Neither credentials nor the content of a mail are ever written down: of an AUTH exchange only its
mechanism, of a mail only how long it is.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flask_outbox.app.masking import masked
from flask_outbox.mail.errors import WireError
from flask_outbox.mail.exchange import (
    Answer,
    Conversation,
    HttpRequest,
    HttpResponse,
    Question,
    Read,
    SmtpReply,
    Write,
)
from flask_outbox.mail.submission import Submission
from flask_outbox.transports.base import Carries, Transport
from flask_outbox.transports.smtp_secrets import GuardedRead

log = logging.getLogger("flask_outbox.dialogue")

SHOWN = frozenset(
    {
        b"EHLO",
        b"HELO",
        b"LHLO",
        b"STARTTLS",
        b"MAIL",
        b"RCPT",
        b"DATA",
        b"BDAT",
        b"RSET",
        b"NOOP",
        b"QUIT",
    }
)
LONGEST = 1000
COMPLAINT = 400
CHALLENGES = 3


@dataclass(slots=True)
class Heard:
    """What an ear at the door makes of it: the complaints, and the break of the line."""

    debug: bool = False
    error: WireError | None = None
    in_auth: bool = False
    complaints: list[int] = field(default_factory=list[int])  # codes alone: texts may hold secrets


def _commands(blocks: Sequence[bytes]) -> list[str]:
    """Name what is written; whatever is no known command is only counted."""
    shown: list[str] = []
    hidden = 0
    for line in b"".join(blocks).split(b"\r\n"):
        verb, _, rest = line.partition(b" ")
        if verb.upper() in SHOWN and len(line) < LONGEST and not hidden:
            shown.append(line.decode("utf-8", "backslashreplace"))
        elif verb.upper() == b"AUTH" and not hidden:
            shown.append(f"AUTH {rest.split(b' ')[0].decode('ascii', 'replace')} …")
        else:
            hidden += len(line)
    return [*shown, f"… {hidden} octets"] if hidden else shown


def overhear(conversation: Conversation, heard: Heard) -> Conversation:
    """Pass questions and answers through, and note what they come to."""
    answer: Answer = None
    error: BaseException | None = None
    while True:
        try:
            question = conversation.send(answer) if error is None else conversation.throw(error)
        except StopIteration:
            return
        error = None
        try:
            answer = yield question
        except GeneratorExit:
            conversation.close()
            raise
        except WireError as broken:
            heard.error = error = broken
        except BaseException as broken:  # noqa: BLE001  a cancellation, too, is the conversation's to know
            error = broken
        _note(question, answer if error is None else error, heard)


def _note(question: Question, answer: Answer | BaseException, heard: Heard) -> None:
    match answer:
        case SmtpReply(code=code) | HttpResponse(status=code) if code >= COMPLAINT:
            heard.complaints.append(code)
        case _:
            pass
    if heard.debug:
        _write_down(question, answer, heard)


def _write_down(question: Question, answer: Answer | BaseException, heard: Heard) -> None:
    if isinstance(question, Write):
        for command in _commands(question.blocks):
            heard.in_auth = heard.in_auth or command.startswith("AUTH")
            log.debug("> %s", masked(command))
    elif isinstance(question, Read) and isinstance(answer, SmtpReply):
        # A server may repeat what it was told in confidence.
        told = question.told(answer) if isinstance(question, GuardedRead) else answer
        log.debug("< %s", f"{answer.code} …" if heard.in_auth else masked(str(told)))
        heard.in_auth = heard.in_auth and answer.code // 100 == CHALLENGES
    elif isinstance(question, HttpRequest):
        log.debug("> %s", masked(repr(question)))
        if isinstance(answer, HttpResponse):
            log.debug("< %r", answer)
    elif not isinstance(answer, BaseException):
        log.debug("- %s", type(question).__name__)
    if isinstance(answer, BaseException):
        log.debug("! %s", type(answer).__name__)


class Overheard:
    """A transport whose conversations are written to the log; for workers under MAIL_DEBUG."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    @property
    def name(self) -> str:
        """The transport's own."""
        return self.transport.name

    @property
    def carries(self) -> Carries:
        """The transport's own."""
        return self.transport.carries

    def send(self, submissions: Sequence[Submission]) -> Conversation:
        """Send, with an ear at the door."""
        return overhear(self.transport.send(submissions), Heard(debug=True))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)
