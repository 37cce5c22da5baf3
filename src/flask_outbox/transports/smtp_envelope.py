"""From a submission to the commands of one transaction, or the reason why there can be none."""

import re
from collections.abc import Sequence

from flask_outbox.mail.submission import Dsn, Submission
from flask_outbox.transports.smtp_session import Session

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x80-\x9f\u2028\u2029\ud800-\udfff]")
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
    if not _clean(submission):
        return "the envelope or its options hold a control character"
    if (b"\n." in content or b"\r." in content) and _BARE.search(content):
        return "the content has a bare CR or LF before a dot, which could end it too early"
    return ""


def needs_utf8(submission: Submission) -> bool:
    """Tell whether it needs SMTPUTF8."""
    return submission.utf8 or not (
        submission.sender.isascii() and all(map(str.isascii, submission.recipients))
    )


def _clean(submission: Submission) -> bool:
    """Let nothing by that could begin a command of its own; the quick answer first."""
    said = (
        submission.sender,
        *submission.recipients,
        *submission.mail_options,
        *submission.rcpt_options,
    )
    return all(map(str.isprintable, said)) or not any(map(_CONTROL.search, said))


def mail_command(submission: Submission, session: Session) -> bytes:
    """Build MAIL with what the server offers and the message needs."""
    line = f"MAIL FROM:<{submission.sender}>"
    if session.size or session.eightbit or session.smtputf8 or submission.mail_options:
        line += _parameters(submission, session)
    dsn = submission.dsn
    if dsn is not None and session.dsn:
        line += _with_values(RET=dsn.ret, ENVID=dsn.envid and xtext(dsn.envid))
    return f"{line}\r\n".encode()


def _parameters(submission: Submission, session: Session) -> str:
    given = [option.upper() for option in submission.mail_options]
    ours: list[str] = []
    if session.size:
        ours.append(f"SIZE={len(submission.content)}")
    if session.eightbit and not submission.content.isascii():
        ours.append("BODY=8BITMIME")
    if session.smtputf8 and needs_utf8(submission):
        ours.append("SMTPUTF8")
    words = {option.partition("=")[0] for option in given}
    return "".join(
        f" {option}"
        for option in (
            *(option for option in ours if option.partition("=")[0] not in words),
            *submission.mail_options,
        )
    )


def rcpt_command(recipient: str, submission: Submission, session: Session) -> bytes:
    """Build RCPT."""
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


def dotted(content: bytes) -> tuple[Sequence[bytes], int]:
    """Give the content as DATA wants it, final dot included, as blocks; and how long they are.

    Most content has no line that begins with a dot: then it goes out as it is, uncopied.
    """
    if b"\r\n." in content or content.startswith(b"."):
        content = content.replace(b"\r\n.", b"\r\n..")
        if content.startswith(b"."):
            content = b"." + content
    end = b".\r\n" if content.endswith(b"\r\n") or not content else b"\r\n.\r\n"
    return (content, end), len(content) + len(end)
