"""Flask-Mail's shape over mail/: what an app that was written for it relies on."""

import re
import time
import warnings
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from email.header import Header
from email.utils import formataddr, parseaddr
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from flask import Flask, current_app, has_app_context

from flask_outbox.app.signals import email_dispatched
from flask_outbox.mail import lenient, message
from flask_outbox.mail.address import parse_address
from flask_outbox.mail.errors import MessageError
from flask_outbox.mail.submission import Receipt

if TYPE_CHECKING:
    from flask_outbox.app.runtime import Runtime
    from flask_outbox.app.sending import Host

NOT_SET_UP = (
    "No app with Flask-Outbox here: call this inside `with app.app_context():`, and Mail(app) or"
    " mail.init_app(app) before it."
)
FOLDING_SPACE = "\t "
LINE_BREAK = re.compile("[\r\n]")


class FlaskMailUnicodeDecodeError(UnicodeDecodeError):
    """Bytes that were to be text and are not."""

    def __init__(self, obj: object, *args: Any) -> None:
        self.obj = obj
        super().__init__(*args)

    def __str__(self) -> str:
        return f"{super().__str__()}. You passed in {type(self.obj)}"


def force_text(s: object, encoding: str = "utf-8", errors: str = "strict") -> str:
    """Turn bytes, lazy strings and anything else into str."""
    if isinstance(s, str):
        return s
    try:
        return str(s, encoding, errors) if isinstance(s, bytes) else str(s)
    except UnicodeDecodeError as error:
        if isinstance(s, Exception):
            return " ".join(force_text(each, encoding, errors) for each in s.args)
        raise FlaskMailUnicodeDecodeError(s, *error.args) from error


def _encoded(text: str, encoding: str) -> str:
    try:
        return Header(text, encoding).encode()
    except UnicodeEncodeError:
        return Header(text, "utf-8").encode()


def sanitize_subject(subject: str, encoding: str = "utf-8") -> str:
    """Encode a subject where it is not ASCII (RFC 2047)."""
    return subject if subject.isascii() else _encoded(subject, encoding)


def sanitize_address(addr: str | tuple[str, str], encoding: str = "utf-8") -> str:
    """Write an address as it may stand in a header."""
    name, spec = parseaddr(force_text(addr)) if isinstance(addr, str) else addr
    try:
        spec = parse_address(spec, "address").addr
    except MessageError:
        spec = LINE_BREAK.sub("", spec)
    return formataddr((_encoded(name, encoding) if name else "", spec))


def sanitize_addresses(
    addresses: Iterable[str | tuple[str, str]], encoding: str = "utf-8"
) -> list[str]:
    """Write several."""
    return [sanitize_address(each, encoding) for each in addresses]


def _has_newline(line: str) -> bool:
    """Tell whether there is a CR or LF in it."""
    return "\n" in line or "\r" in line


def state_of(app: Flask) -> "_Mail":
    """Give the app's state."""
    state = app.extensions.get("mail")
    if not isinstance(state, _Mail):
        raise RuntimeError(NOT_SET_UP)  # noqa: TRY004  as Flask does outside of a context
    return state


def runtime_of(app: Flask) -> "Runtime":
    """Give what sits at ``app.extensions["outbox"]``."""
    try:
        return cast("Runtime", app.extensions["outbox"])
    except KeyError:
        raise RuntimeError(NOT_SET_UP) from None


def _default_sender() -> str | tuple[str, str] | None:
    state = current_app.extensions.get("mail") if has_app_context() else None
    return getattr(state, "default_sender", None)


class Message(message.Message):
    """A message whose sender, where none is given, is the app's MAIL_DEFAULT_SENDER."""

    if not TYPE_CHECKING:  # the signature is the floor's below

        @wraps(message.Message.__init__)
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            if not self.sender:
                self.sender = message.as_text(_default_sender())

    def as_bytes(self) -> bytes:
        """Write it as it would go out; what cannot stand in a header is dropped, not refused."""
        runtime: Runtime | None = None
        if has_app_context():
            runtime = current_app.extensions.get("outbox")
        # Read twice, it is the same twice, although its date is not fixed before it is sent.
        now = self.__dict__.setdefault("_shown_at", time.time())
        if runtime is None:
            return lenient.render(self, now=now)
        return lenient.render(
            self,
            now=now,
            roots=runtime.settings.attachment_roots,
            text_from_html=runtime.settings.text_from_html,
            ascii_attachments=runtime.state.ascii_attachments,
        )

    def as_string(self) -> str:
        """Write it as text."""
        return self.as_bytes().decode("utf-8", "surrogateescape")

    def __str__(self) -> str:
        return self.as_string()

    def __bytes__(self) -> bytes:
        return self.as_bytes()

    def has_bad_headers(self) -> bool:
        """Tell whether a line break stands where none may; a folded subject is allowed."""
        values: list[object] = [self.sender, *self.recipients, *self.cc, *self.bcc, self.reply_to]
        values += [part for pair in (self.extra_headers or {}).items() for part in pair]
        values += [attachment.filename for attachment in self.attachments]
        if any(LINE_BREAK.search(_flat(value)) for value in values if value):
            return True
        return bool(self.subject) and _is_badly_folded(force_text(self.subject))

    def is_bad_headers(self) -> bool:
        """Call ``has_bad_headers``: the old name of it."""
        warnings.warn(
            "'is_bad_headers' is called 'has_bad_headers' now.", DeprecationWarning, stacklevel=2
        )
        return self.has_bad_headers()

    def send(self, connection: "Connection") -> Receipt:
        """Send it over a connection."""
        return connection.send(self)


def _flat(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return " ".join(force_text(each) for each in cast("Sequence[object]", value))
    return force_text(value)


def _is_badly_folded(subject: str) -> bool:
    first, *others = subject.split("\r\n")
    if _has_newline(first) or (others and not first.strip()):
        return True
    return any(
        not line.strip() or line[0] not in FOLDING_SPACE or _has_newline(line) for line in others
    )


class _MailMixin:
    def _app(self) -> Flask:
        """Find the app: the current one goes first, then the one that Mail was made for."""
        if has_app_context() and "mail" in current_app.extensions:
            return cast("Flask", cast("Any", current_app)._get_current_object())  # noqa: SLF001  the app itself
        app = getattr(self, "app", None)
        if not isinstance(app, Flask):
            raise RuntimeError(NOT_SET_UP)  # noqa: TRY004  as Flask does outside of a context
        return app

    @contextmanager
    def record_messages(self) -> Generator[list[message.Message]]:
        """Note each message that email_dispatched tells of, in a list."""
        outbox: list[message.Message] = []

        def record(_app: Flask, message: message.Message) -> None:
            outbox.append(message)

        with email_dispatched.connected_to(record):
            yield outbox

    def connect(self, *, transport: str | None = None) -> "Connection":
        """Open a connection, for ``with``; for one of MAIL_TRANSPORTS, where it is named."""
        app = self._app()
        return Connection(state_of(app), app, transport=transport)

    def send(self, message: message.Message, *, transport: str | None = None) -> Receipt:
        """Send it now; see Mail.send."""
        with self.connect(transport=transport) as connection:
            if isinstance(message, Message):
                return message.send(connection)
            return connection.send(message)

    def send_message(self, *args: Any, **kwargs: Any) -> Receipt:
        """Make a Message of the arguments, and send it."""
        return self.send(Message(*args, **kwargs))


class _Mail(_MailMixin):
    """The fields that tests and apps set live; ``suppress`` follows the app until it is set."""

    def __init__(  # noqa: PLR0913, PLR0917  Flask-Mail's eleven, in its order
        self,
        server: str,
        username: str | None,
        password: str | None,
        port: int | None,
        use_tls: bool,  # noqa: FBT001  the same
        use_ssl: bool,  # noqa: FBT001  the same
        default_sender: str | tuple[str, str] | None,
        debug: int,
        max_emails: int | None,
        suppress: bool | None,  # noqa: FBT001  the same
        ascii_attachments: bool,  # noqa: FBT001  the same
    ) -> None:
        self.server = server
        self.username = username
        self.password = password
        self.port = port
        self.use_tls = use_tls
        self.use_ssl = use_ssl
        self.default_sender = default_sender
        self.debug = debug
        self.max_emails = max_emails
        self.ascii_attachments = ascii_attachments
        self._suppress = suppress
        self._testing = False

    @property
    def suppress(self) -> bool:
        """Whether nothing goes out: as set here, else MAIL_SUPPRESS_SEND, else app.testing now."""
        return self.suppressed(current_app.testing if has_app_context() else self._testing)

    @suppress.setter
    def suppress(self, value: bool) -> None:
        self._suppress = value

    def suppressed(self, testing: bool) -> bool:  # noqa: FBT001  it is all there is to know
        """Decide for an app that is testing, or is not."""
        return testing if self._suppress is None else bool(self._suppress)

    def follow(self, testing: bool) -> None:  # noqa: FBT001  the same
        """Note whether the app was testing when it was set up."""
        self._testing = testing


class Connection:
    """Several messages, one after the other, over one line; made by ``mail.connect()``."""

    def __init__(
        self, mail: Any, app: Flask | None = None, *, transport: str | None = None
    ) -> None:
        self.mail = mail
        self._transport = transport
        self.host: Host | None = None
        self.num_emails = 0
        self._app: Flask = mail._app() if app is None else app  # noqa: SLF001  of this file

    @property
    def _suppressed(self) -> bool:
        return runtime_of(self._app).suppressed

    def __enter__(self) -> Self:
        self.host = None if self._suppressed else self.configure_host()
        self.num_emails = 0
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self.host is not None:
            self.host.quit()

    def configure_host(self) -> "Host":
        """Make ready what carries the mail; the line is opened with the first message."""
        return runtime_of(self._app).host()

    def send(
        self,
        message: message.Message,
        envelope_from: str | tuple[str, str] | None = None,
    ) -> Receipt:
        """Send it; ``envelope_from`` is where bounces go.

        Raises MessageError for a message that cannot be sent as it is, MessageCancelled where a
        before_send function says so, SendError where nobody accepted it.
        """
        runtime = runtime_of(self._app)
        path = None if envelope_from is None else parse_address(envelope_from, "envelope_from").addr
        prepared = runtime.prepare(message, return_path=path, transport=self._transport)
        if self.host is None and not self._suppressed:
            self.host = self.configure_host()
        receipt = runtime.send_over(self.host, prepared)
        self._count()
        return receipt

    def _count(self) -> None:
        self.num_emails += 1
        if self.num_emails == self.mail.max_emails:
            self.num_emails = 0
            if self.host is not None:
                self.host.quit()
                self.host = self.configure_host()

    def send_message(self, *args: Any, **kwargs: Any) -> Receipt:
        """Make a Message of the arguments, and send it."""
        return self.send(Message(*args, **kwargs))


__all__ = [
    "Connection", "FlaskMailUnicodeDecodeError", "Message", "_Mail", "_MailMixin", "_has_newline",
    "force_text", "sanitize_address", "sanitize_addresses", "sanitize_subject",
]  # fmt: skip
