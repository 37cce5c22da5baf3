"""SMTP as a conversation: a batch of submissions over one line, or over the next ones.

Read on: smtp_login.py (how to get in), smtp_dialogue.py (what is said), smtp_batch.py (what a
reply or a break means for each message), smtp_replies.py (the table from code to outcome).
"""

import re
from collections import deque
from collections.abc import Callable, Generator, Sequence
from hashlib import blake2b
from ipaddress import ip_address
from secrets import token_bytes

from flask_outbox.mail.errors import ConfigurationError, WireError
from flask_outbox.mail.exchange import (
    Answer,
    Close,
    Conversation,
    Keep,
    Open,
    Opened,
    Question,
    SmtpReply,
    Tls,
    Write,
)
from flask_outbox.mail.outcome import Deferred, Fault
from flask_outbox.mail.submission import Submission
from flask_outbox.transports.base import Carries
from flask_outbox.transports.smtp_auth import Credentials, LoginRefused, confided
from flask_outbox.transports.smtp_batch import Batch, Transaction
from flask_outbox.transports.smtp_dialogue import Dialogue
from flask_outbox.transports.smtp_login import Door, Security, log_in, trouble
from flask_outbox.transports.smtp_secrets import GuardedRead
from flask_outbox.transports.smtp_session import Session
from flask_outbox.transports.smtp_timeouts import Timeouts

PORTS = {Security.REQUIRED: 587, Security.IMPLICIT: 465}
MOST_WINDOW = 64
FOREVER = 1 << 62

_FINGERPRINT = re.compile(r"(?:[0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}")
_EHLO_NAME = re.compile(r"\w[\w-]*(\.\w[\w-]*)*|\[[\w.:-]+\]", re.ASCII)
_NOT_UTF8 = re.compile("[\ud800-\udfff]")  # how Python reads such bytes of the environment
_process_key = token_bytes(16)
_no_tls, _times = Tls(), Timeouts()


class Smtp:
    """A relay.

    ``port`` 0: 465, 587 or 25, by ``security``. ``security`` None: REQUIRED where there are
    credentials and the host is not loopback, else NONE. ``token`` is a source of OAuth 2 access
    tokens, in place of ``password``; it may block. ``window``: messages on their way unanswered,
    where the server offers CHUNKING. ``max_per_line``: transactions on one connection.
    """

    name = "smtp"

    def __init__(  # noqa: PLR0913  one for each thing that a relay may want
        self,
        host: str,
        port: int = 0,
        *,
        username: str | None = None,
        password: str | None = None,
        token: Callable[[], str] | None = None,
        security: Security | None = None,
        tls: Tls = _no_tls,
        ehlo_name: str | None = None,
        timeouts: Timeouts = _times,
        window: int = 4,
        max_per_line: int | None = None,
    ) -> None:
        credentials = _credentials(username, password, token)
        local = is_loopback(host)
        if security is None:
            required = credentials is not None and not local
            security = Security.REQUIRED if required else Security.NONE
        _check(host, port, ehlo_name, window, max_per_line)
        if tls.fingerprint is not None and not _FINGERPRINT.fullmatch(tls.fingerprint):
            raise ConfigurationError(
                "fingerprint has to be the SHA-256 of the certificate, 64 hexadecimal digits"
            )
        if security is Security.NONE and credentials is not None and not local:
            raise ConfigurationError(
                "MAIL_USERNAME and MAIL_PASSWORD would travel in the open: set MAIL_USE_TLS=True"
                " (smtp://…?tls=required) or MAIL_USE_SSL=True (smtps://…); if you really want"
                " that, say so with ?tls=insecure"
            )
        self._username = username
        self._max_per_line = max_per_line
        self._window = window
        self._door = Door(
            opening=Open(
                host,
                port or PORTS.get(security, 25),
                timeouts.connect,
                tls if security is Security.IMPLICIT else None,
                _account(username, password, token, security, tls, ehlo_name),
            ),
            security=security,
            tls=tls,
            credentials=credentials,
            ehlo_name=ehlo_name,
            times=timeouts,
        )
        self.carries = Carries(window=window, dsn=True)

    def logs_in_by(self, token: Callable[[], str]) -> bool:
        """Tell whether its tokens are from this source."""
        credentials = self._door.credentials
        return credentials is not None and credentials.token is token

    def __repr__(self) -> str:
        opening = self._door.opening
        who = f"{self._username}:***@" if self._username else ""
        return f"<Smtp {who}{opening.host}:{opening.port} tls={self._door.security.value}>"

    def send(self, submissions: Sequence[Submission]) -> Conversation:
        """Send them in order; each line carries on where the one before it could not."""
        waiting = deque(Transaction(submission) for submission in submissions)
        while waiting:
            session = yield from self._enter(waiting)
            if session is not None:
                yield from self._carry(waiting, session)

    @property
    def host(self) -> str:
        """Where it is."""
        return self._door.opening.host

    @property
    def identity(self) -> str:
        """What tells it apart from others of its host; not the password, which may change."""
        opening = self._door.opening
        return f"{self._username or ''}@{opening.host}:{opening.port}"

    @property
    def security(self) -> Security:
        """How its lines are kept from being read."""
        return self._door.security

    @property
    def logs_in(self) -> bool:
        """Whether it says who we are."""
        return self._door.credentials is not None

    def knock(self) -> Conversation:
        """Get in as if to send, and take leave; WireError or TlsError says why there is no way."""
        door = self._door
        secrets = confided(door.credentials)
        try:
            opened: Opened = yield door.opening
            yield from log_in(door, opened, secrets)
        except LoginRefused as error:
            yield from self._quit(secrets.clean)
            raise WireError(trouble(door, error)) from error
        except WireError as error:
            raise type(error)(trouble(door, error)) from error
        yield from self._quit(secrets.clean)
        yield Close()

    def _enter(self, waiting: deque[Transaction]) -> Generator[Question, Answer, Session | None]:
        """Get a line that is ready; no way in is our own fault, and no message's."""
        door = self._door
        is_open = refused = False
        secrets = confided(door.credentials)
        try:
            opened: Opened = yield door.opening
            is_open = True
            return (yield from log_in(door, opened, secrets))
        except (WireError, LoginRefused) as error:
            outcome = Deferred(trouble(door, error), Fault.OURS)
            refused = isinstance(error, LoginRefused)
        while waiting:
            mail = waiting.popleft()
            mail.give(mail.submission.recipients, outcome)
            yield mail.report()
        if refused:
            yield from self._quit(secrets.clean)
        if is_open:
            yield Close()
        return None

    def _carry(self, waiting: deque[Transaction], session: Session) -> Conversation:
        """Speak for the batch on this line, and leave it kept or closed."""
        most = min(self._max_per_line or FOREVER, session.most or FOREVER)
        batch = Batch(waiting, session, most - session.carried)
        try:
            yield from Dialogue(batch, self._door.times, self._window).run()
        except WireError as error:
            batch.breaks(error)
            yield from batch.reports()
            yield Close()
        else:
            if batch.wound is not None:
                yield Close()
            elif session.carried < most:
                yield Keep(session)
            else:
                yield from self._quit(batch.told)
                yield Close()

    def _quit(self, told: Callable[[SmtpReply], SmtpReply]) -> Conversation:
        """Take leave; whatever comes of it changes nothing any more."""
        seconds = self._door.times.quit
        try:
            yield Write((b"QUIT\r\n",), seconds)
            yield GuardedRead(seconds, told)
        except WireError:
            return


def is_loopback(host: str) -> bool:
    """Tell whether what we say never leaves this machine."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _credentials(
    username: str | None, password: str | None, token: Callable[[], str] | None
) -> Credentials | None:
    if not username:
        if password or token:
            raise ConfigurationError("MAIL_USERNAME is not set, but MAIL_PASSWORD (or a token) is")
        return None
    if password is None and token is None:
        raise ConfigurationError(
            "MAIL_PASSWORD is not set, nor MAIL_OAUTH2_TOKEN, but MAIL_USERNAME is"
        )
    if password is not None and token is not None:
        raise ConfigurationError("MAIL_PASSWORD and a token source are both set: choose one")
    if "\0" in username or "\0" in (password or ""):
        raise ConfigurationError("MAIL_USERNAME and MAIL_PASSWORD may not hold a NUL character")
    for key, value in (("MAIL_USERNAME", username), ("MAIL_PASSWORD", password or "")):
        if _NOT_UTF8.search(value):  # looked for, since an error of encode() would quote it
            raise ConfigurationError(f"{key} holds a byte that is not UTF-8: write it in UTF-8")
    return Credentials(username, password, token)


def _check(
    host: str, port: int, ehlo_name: str | None, window: int, max_per_line: int | None
) -> None:
    if not host or not host.isprintable() or " " in host:
        raise ConfigurationError("MAIL_SERVER has to be a host name or an address")
    if not 0 <= port < 1 << 16:
        raise ConfigurationError("MAIL_PORT has to be a number from 1 to 65535")
    if ehlo_name is not None and not _EHLO_NAME.fullmatch(ehlo_name):
        raise ConfigurationError("MAIL_EHLO_NAME has to be a host name, or an address in brackets")
    if not 1 <= window <= MOST_WINDOW:
        raise ConfigurationError(f"window has to be a number from 1 to {MOST_WINDOW}")
    if max_per_line is not None and max_per_line < 1:
        raise ConfigurationError("MAIL_MAX_EMAILS has to be at least 1, or not set")


def _account(*who: object) -> str:
    """Tell lines apart by all that makes them somebody's, and say nothing of it to a reader."""
    return blake2b(repr(who).encode(), key=_process_key, digest_size=16).hexdigest()
