"""From a connection to a line that mail may go over: greeting, EHLO, STARTTLS, EHLO, AUTH.

What is required is had before AUTH and MAIL, or nothing is sent: there is no way back to plain
text, and only what was offered inside TLS counts (RFC 3207 section 4.2).
"""

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv6Address, ip_address

from flask_outbox.mail.errors import TlsError, WireError
from flask_outbox.mail.exchange import (
    Answer,
    Open,
    Opened,
    Question,
    SmtpReply,
    StartTls,
    Tls,
    Write,
)
from flask_outbox.transports.smtp_auth import Credentials, LoginRefused, authenticate
from flask_outbox.transports.smtp_secrets import GuardedRead, Secrets
from flask_outbox.transports.smtp_session import Session
from flask_outbox.transports.smtp_timeouts import Timeouts

HELLO_UNKNOWN = frozenset({500, 502, 504, 550, 554})


class Security(Enum):
    """How a line is kept from being read; the word is the one in a URL's ``tls``."""

    NONE = "none"  # in the open; with credentials only on loopback
    REQUIRED = "required"  # STARTTLS, or nothing is sent
    IMPLICIT = "implicit"  # TLS from the first byte
    INSECURE = "insecure"  # in the open, credentials too: asked for by name


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where a server is, and how to get in."""

    opening: Open
    security: Security
    tls: Tls
    credentials: Credentials | None
    ehlo_name: str | None
    times: Timeouts

    @property
    def private(self) -> bool:
        """Whether nobody on the way can read along."""
        return self.security in {Security.REQUIRED, Security.IMPLICIT}


Entering = Generator[Question, Answer, Session]
Hearing = Generator[Question, Answer, SmtpReply]


def log_in(door: Door, opened: Opened, secrets: Secrets) -> Entering:
    """Make the line ready; WireError or LoginRefused: it could not be."""
    if isinstance(opened.session, Session):
        opened.session.worn = True
        return opened.session
    yield from _greeting(door, secrets)
    name = door.ehlo_name or address_literal(opened.local_ip)
    session = yield from _hello(door, name, secrets)
    if door.security is Security.REQUIRED:
        yield from _start_tls(door, session, secrets)
        session = yield from _hello(door, name, secrets)
    if door.credentials is not None:
        yield from authenticate(
            session.auth, door.credentials, secrets, door.times, private=door.private
        )
    session.secrets = secrets
    return session


def _greeting(door: Door, secrets: Secrets) -> Generator[Question, Answer, None]:
    try:
        reply: SmtpReply = yield GuardedRead(door.times.greeting, secrets.clean)
    except WireError as error:
        if door.security is Security.IMPLICIT:
            raise
        raise WireError(
            f"{error}; if this port wants TLS from the first byte, as 465 does, set"
            " MAIL_USE_SSL (smtps://) and not MAIL_USE_TLS"
        ) from error
    if reply.code != 220:  # noqa: PLR2004  RFC 5321 section 4.3.2
        raise LoginRefused(f"the server does not want us: it greets with {secrets.clean(reply)}")


def _ask(door: Door, command: str, secrets: Secrets) -> Hearing:
    yield Write((f"{command}\r\n".encode(),), door.times.block)
    reply: SmtpReply = yield GuardedRead(door.times.command, secrets.clean)
    return reply


def _hello(door: Door, name: str, secrets: Secrets) -> Entering:
    reply = yield from _ask(door, f"EHLO {name}", secrets)
    if reply.code == 250:  # noqa: PLR2004  RFC 5321 section 4.3.2
        return Session.offered(reply.lines)
    if door.private or door.credentials or reply.code not in HELLO_UNKNOWN:
        raise LoginRefused(f"EHLO was answered with {secrets.clean(reply)}")
    reply = yield from _ask(door, f"HELO {name}", secrets)
    if reply.code == 250:  # noqa: PLR2004  the same
        return Session()
    raise LoginRefused(f"HELO was answered with {secrets.clean(reply)}")


def _start_tls(door: Door, session: Session, secrets: Secrets) -> Generator[Question, Answer, None]:
    if not session.starttls:
        raise LoginRefused(
            "the server offers no STARTTLS, and TLS is required: nothing was sent;"
            " if it wants TLS from the first byte, set MAIL_USE_SSL (smtps://)"
        )
    reply = yield from _ask(door, "STARTTLS", secrets)
    if reply.code != 220:  # noqa: PLR2004  RFC 3207 section 4
        raise LoginRefused(
            f"TLS is required, and STARTTLS was answered with {secrets.clean(reply)}"
        )
    yield StartTls(door.tls, door.opening.host, door.times.tls)


def address_literal(local_ip: str) -> str:
    """Name ourselves by our address (RFC 5321 section 4.1.3): no look-up, never a lie."""
    try:
        address = ip_address(local_ip.partition("%")[0])
    except ValueError:
        return "[127.0.0.1]"
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    if mapped is None and isinstance(address, IPv6Address):
        return f"[IPv6:{address}]"
    return f"[{mapped or address}]"


def trouble(door: Door, error: WireError | LoginRefused) -> str:
    """Say why there is no line, and which switch to turn."""
    where = f"{door.opening.host}:{door.opening.port}"
    text = str(error)
    if where not in text:
        text = f"{where}: {text}"
    if not isinstance(error, TlsError):
        return text
    if "certificate" in text.lower() and "MAIL_TLS_CA_FILE" not in text:
        return (
            f"{text}; for an authority of your own set MAIL_TLS_CA_FILE (?ca_file=), or pin the"
            " certificate with ?fingerprint="
        )
    if door.security is Security.IMPLICIT:
        return (
            f"{text}; if this port begins in plain text, as 587 and 25 do, set MAIL_USE_TLS"
            " (?tls=required) and not MAIL_USE_SSL"
        )
    return text
