"""What a server's reply means for the recipients that it speaks of.

==================  ==================================================================
reply               outcome
==================  ==================================================================
2xx                 Accepted, with the id that the server gave it
421                 Deferred, and the line closes; at MAIL it is the relay that is not
                    there, so OURS (smtp_batch.py)
4xx                 Deferred, TRANSIENT
530 534 535 538     Deferred, OURS: at whichever verb, it is about who logged in
5xx "may not relay" Deferred, OURS, at RCPT too: it is about us, whoever the recipient is
5xx at MAIL         Deferred, OURS: our sender or we are not wanted; but Refused where
                    it is about this one message (its size, its options, its syntax)
5xx elsewhere       Refused
452 552 at RCPT     with recipients taken before it: the rest in a further transaction
==================  ==================================================================

RFC 5321 section 4.2, RFC 3463 (enhanced codes), RFC 4954 section 6 (530 to 538).
"""

import re

from flask_outbox.mail.errors import WireError
from flask_outbox.mail.exchange import SmtpReply
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Outcome, Refused

CLOSING = 421
GO_ON = 354
CONTENT = "the content"

_AUTHENTICATION = frozenset({530, 534, 535, 538})
# At MAIL: syntax, size and options are this message's own affair, and no other's.
_OF_THE_MESSAGE = frozenset({501, 504, 552, 555})
_OF_THE_MESSAGE_ENHANCED = ("5.1.7", "5.3.4", "5.5.2", "5.5.4", "5.6.")
# Said at RCPT, where servers put off what they have against a client: Postfix, Sendmail, Exim,
# Exchange, qmail, Gmail. With a code about an address (X.1.X), it is quoted from another server.
_NO_RELAY = re.compile(
    r"\brelay(?:ing)? (?:access )?(?:is )?(?:denied|prohibited|not (?:permitted|allowed))"
    r"|(?:unable|not (?:permitted|allowed|authori[sz]ed)) to relay|credentials for relay"
    r"|allowed rcpthosts|client host rejected",
    re.IGNORECASE,
)
_OVERFLOW = frozenset({452, 552})
_TOO_MANY = ("4.5.3", "5.5.3")

_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}(?!\S)")
_REFERENCES = (
    re.compile(r"queued as (\S+)", re.IGNORECASE),  # Postfix, SendGrid
    re.compile(r"\bid=(\S+)"),  # Exim
    re.compile(r"\[InternalId=(\d+)"),  # Exchange
    re.compile(r"queued \(([0-9A-F-]{36})", re.IGNORECASE),  # Haraka
    re.compile(r"^2\.0\.0 (\S{8,}) Message accepted"),  # Sendmail
    re.compile(r"\bqp (\d+)"),  # qmail
    re.compile(r"^2\.0\.0 OK +(\S.*?) - gsmtp"),  # Gmail
    re.compile(r"^Ok ([0-9a-f-]{20,})$"),  # SES
)


class Closing(WireError):  # noqa: N818  what the server is doing
    """421: the server answers nothing that comes after it, and hangs up."""

    def __init__(self, reply: SmtpReply) -> None:
        super().__init__(str(reply), reply=reply)


class OutOfStep(WireError):  # noqa: N818  what the two sides are
    """A reply that cannot stand here, so nothing that follows can be trusted."""

    def __init__(self, verb: str, reply: SmtpReply) -> None:
        super().__init__(f"out of step: {verb} was answered with {reply}", reply=reply)


def enhanced(reply: SmtpReply) -> str:
    """Give the enhanced status code (RFC 2034), or nothing."""
    found = _ENHANCED.match(reply.lines[0]) if reply.lines else None
    return found.group() if found else ""


def tells(verb: str, reply: SmtpReply) -> bool:
    """Tell whether a yes to MAIL or RCPT shows that it is none to a content, and the other way.

    MAIL and RCPT are answered by codes about addresses, X.1.X, contents by others (RFC 3463
    section 3, RFC 5248). A no needs no telling: nothing is taken for accepted by it.
    """
    if reply.code >= 300:  # noqa: PLR2004  the class of a reply is its first digit
        return True
    status = enhanced(reply)
    return status.startswith("2.1.") == (verb != CONTENT) and bool(status)


def reference(text: str) -> str:
    """Find the id that the server gave the message, as far as servers are known to say it."""
    for pattern in _REFERENCES:
        if found := pattern.search(text):
            return found[1].strip("<>()").rstrip(".,;")
    return ""


def accepted(reply: SmtpReply) -> Accepted:
    """Read the reply to the whole content."""
    lines = reply.lines
    text = lines[0] if len(lines) == 1 else " ".join(lines)
    return Accepted(f"{reply.code} {text}" if text else str(reply.code), reference(text))


def too_many(reply: SmtpReply) -> bool:
    """Tell whether a RCPT failed only since there were so many before it.

    RFC 5321 section 4.5.3.1.10; a 452 that says what else it is about (4.2.2: a full mailbox)
    is no such thing.
    """
    if reply.code not in _OVERFLOW:
        return False
    status = enhanced(reply)
    return status in _TOO_MANY or not status


def verdict(verb: str, reply: SmtpReply) -> Outcome:
    """Say what a 4xx or 5xx means; anything else is out of step."""
    code = reply.code
    text = str(reply)
    if 400 <= code < 500:  # noqa: PLR2004  the class of a reply is its first digit
        return Deferred(text, Fault.TRANSIENT)
    if not 500 <= code < 600:  # noqa: PLR2004  the same
        raise OutOfStep(verb, reply)
    of_us = code in _AUTHENTICATION or (is_no_relay(text) and enhanced(reply)[:4] in {"", "5.7."})
    if of_us or (verb == "MAIL" and not _about_the_message(reply)):
        return Deferred(text, Fault.OURS)
    return Refused(text)


def is_no_relay(text: str) -> bool:
    """Tell whether a server says that it passes on nothing of ours."""
    return _NO_RELAY.search(text) is not None


def _about_the_message(reply: SmtpReply) -> bool:
    status = enhanced(reply)
    if status.startswith("5.7."):
        return False
    return reply.code in _OF_THE_MESSAGE or status.startswith(_OF_THE_MESSAGE_ENHANCED)
