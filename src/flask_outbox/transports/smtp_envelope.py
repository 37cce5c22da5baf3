"""From a submission to the commands of one transaction, or the reason why there can be none."""

import re

from flask_outbox.mail.submission import Dsn, Submission
from flask_outbox.transports.smtp_session import Session

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x80-\x9f\u2028\u2029\ud800-\udfff]")
# These jump from line end to line end: a third of the time of b"\n." in content, for every mail.
_AFTER_LF, _AFTER_CR = re.compile(rb"\n\.").search, re.compile(rb"\r\.").search
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


def obstacle(submission: Submission, session: Session) -> str:
    """Say why this server cannot take it, before a word is said; nothing: it can."""
    content = submission.content
    if 0 < session.size < len(content):
        return (
            f"the message has {len(content)} bytes and the server takes at most {session.size}"
            " (SIZE)"
        )
    if not session.smtputf8 and needs_utf8(submission):
        return "the message needs SMTPUTF8, for an address or a header, and the server lacks it"
    if not session.eightbit and not content.isascii():
        return "the message has 8-bit content and the server lacks 8BITMIME"
    if not submission.recipients:
        return "it has no recipients"
    if not _clean(submission):
        return "the envelope or its options hold a control character"
    return ""


def smuggles(content: bytes) -> bool:
    """Tell whether a bare CR or LF before a dot could end it too early, at a lenient server.

    https://www.postfix.org/smtp-smuggling.html. Only for content that has such a dot.
    """
    return _BARE.search(content) is not None


def needs_utf8(submission: Submission) -> bool:
    """Tell whether it needs SMTPUTF8."""
    if submission.utf8 or not submission.sender.isascii():
        return True
    return not all(map(str.isascii, submission.recipients))


def _clean(submission: Submission) -> bool:
    """Let nothing by that could begin a command of its own; the quick answer first."""
    said = (*submission.mail_options, *submission.rcpt_options)
    if submission.dsn is not None:
        asked = (word for words in submission.dsn.notify.values() for word in words)
        said = (*said, *asked, submission.dsn.ret or "")
    recipients = submission.recipients
    if not (submission.sender.isprintable() and all(map(str.isprintable, recipients))):
        said = (*said, submission.sender, *recipients)
    return not any(map(_CONTROL.search, said))


def mail_command(submission: Submission, session: Session) -> bytes:
    """Build MAIL with what the server offers and the message needs."""
    line = f"MAIL FROM:<{submission.sender}>"
    if session.size:
        line += f" SIZE={len(submission.content)}"
    if submission.mail_options:
        line += _options(submission, session)
    else:
        if session.eightbit and not submission.content.isascii():
            line += " BODY=8BITMIME"
        if session.smtputf8 and needs_utf8(submission):
            line += " SMTPUTF8"
    dsn = submission.dsn
    if dsn is not None and session.dsn:
        line += _with_values(RET=dsn.ret, ENVID=dsn.envid and xtext(dsn.envid))
    return f"{line}\r\n".encode()


def _options(submission: Submission, session: Session) -> str:
    """Add what the app asks for by itself, and ours where it has not."""
    options = list(submission.mail_options)
    words = {option.upper().partition("=")[0] for option in options}
    if session.smtputf8 and "SMTPUTF8" not in words and needs_utf8(submission):
        options.insert(0, "SMTPUTF8")
    if session.eightbit and "BODY" not in words and not submission.content.isascii():
        options.insert(0, "BODY=8BITMIME")
    return "".join(f" {option}" for option in options if not _is_size(option))


def _is_size(option: str) -> bool:
    return option.upper().startswith("SIZE=")  # ours is the true one


def rcpt_command(recipient: str, submission: Submission, session: Session) -> bytes:
    """Build RCPT."""
    if submission.dsn is None and not submission.rcpt_options:
        return f"RCPT TO:<{recipient}>\r\n".encode()
    line = f"RCPT TO:<{recipient}>"
    if submission.rcpt_options:
        line += "".join(f" {option}" for option in submission.rcpt_options)
    if submission.dsn is not None and session.dsn:
        line += _dsn_parameters(recipient, submission.dsn)
    return f"{line}\r\n".encode()


def _dsn_parameters(recipient: str, dsn: Dsn) -> str:
    """Ask for notifications on this recipient (RFC 3461 section 4; RFC 6533 for non-ASCII)."""
    notify = dsn.notify.get(recipient, dsn.notify.get("*", ()))
    kind, coded = ("rfc822", xtext) if recipient.isascii() else ("utf-8", _unitext)
    return _with_values(NOTIFY=",".join(notify), ORCPT=f"{kind};{coded(recipient)}")


def _with_values(**parameters: str | None) -> str:
    return "".join(f" {word}={value}" for word, value in parameters.items() if value)


def xtext(value: str) -> str:
    """Write a value in xtext (RFC 3461 section 4): what is not plain becomes +XX."""
    return "".join(
        chr(byte) if 33 <= byte <= 126 and byte not in b"+=" else f"+{byte:02X}"  # noqa: PLR2004  the printable ones
        for byte in value.encode()
    )


def _unitext(value: str) -> str:
    return re.sub(r"[\x00-\x20+=\\\x7f]", lambda found: f"\\x{{{ord(found.group()):X}}}", value)


def has_dots(content: bytes) -> bool:
    """Tell whether a line begins with a dot, whatever may count as the end of a line."""
    return bool(_AFTER_LF(content) or content.startswith(b".") or _AFTER_CR(content))


def dotted(content: bytes) -> tuple[bytes, bytes]:
    """Give the content and its end as DATA wants them (RFC 5321 section 4.5.2)."""
    content = content.replace(b"\r\n.", b"\r\n..")
    if content.startswith(b"."):
        content = b"." + content
    return plain(content)


def plain(content: bytes) -> tuple[bytes, bytes]:
    """Give content without such dots, uncopied, and its end."""
    if content.endswith(b"\r\n") or not content:
        return content, b".\r\n"
    return content, b"\r\n.\r\n"
