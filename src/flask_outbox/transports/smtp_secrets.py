"""How a server's words are told: without what it was told in confidence.

A server may repeat in any reply what it heard at AUTH, or what stood in a mail. Every reply whose
text goes further, into an outcome, an error or a log, passes through ``Secrets.clean`` first; what
decides (the code, the enhanced status code) is read before, and stays as it was.
"""

from binascii import b2a_base64
from collections.abc import Callable
from dataclasses import dataclass, field

from flask_outbox.mail.exchange import Read, SmtpReply
from flask_outbox.transports.smtp_replies import enhanced

_MASK = "***"


class Secrets:
    """What a line was told in confidence, in each form in which it may come back."""

    __slots__ = ("_forms",)

    def __init__(self) -> None:
        self._forms: list[str] = []  # the longest first: one may be a part of another

    def note(self, said: str) -> None:
        """Add something, as it is and as AUTH puts it on the wire."""
        coded = b2a_base64(said.encode(errors="replace"), newline=False).decode()
        # The wire shows what cannot be printed as it shows it in replies.
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in said)
        forms = {*self._forms, shown, coded, coded.rstrip("=")} - {""}
        self._forms = sorted(forms, key=len, reverse=True)

    def hide(self, text: str) -> str:
        """Take it out of a text."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, _MASK)
        return text

    def clean(self, reply: SmtpReply) -> SmtpReply:
        """Take it out of a reply, also where its lines break it in two."""
        if not self._forms:
            return reply
        text = " ".join(reply.lines)
        status = enhanced(reply)
        cleaned = status + self.hide(text[len(status) :])
        return reply if cleaned == text else SmtpReply(reply.code, (cleaned,))


def brief(reply: SmtpReply) -> SmtpReply:
    """Leave of a reply only its codes: its words may quote a mail."""
    status = enhanced(reply)
    return SmtpReply(reply.code, (status,) if status else ())


@dataclass(frozen=True, slots=True)
class GuardedRead(Read):
    """Read; and whoever listens in may write down of the reply only what ``told`` leaves of it."""

    told: Callable[[SmtpReply], SmtpReply] = field(repr=False, compare=False)
