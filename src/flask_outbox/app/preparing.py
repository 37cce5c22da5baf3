"""What comes between an app's message and its sealed form, in every way of sending.

The sender, ``before_send``, the Date, the sandbox; then ``seal()``.
"""

import time
from collections.abc import Callable, Iterable, Sized
from copy import copy
from dataclasses import dataclass, field
from typing import Any, cast

from flask_outbox.app import sandbox
from flask_outbox.app.settings import Settings
from flask_outbox.app.tenants import LoadTransport
from flask_outbox.mail.errors import MessageError
from flask_outbox.mail.message import Attachment, Message
from flask_outbox.mail.mime import DEFAULT_LIMITS, Limits, seal
from flask_outbox.mail.submission import Submission

BeforeSend = Callable[[Message], object]
ChooseTransport = Callable[[Message], str | None]


@dataclass(slots=True)
class Hooks:
    """The functions that an app has given its Mail."""

    before_send: list[BeforeSend] = field(default_factory=list[BeforeSend])
    choose_transport: ChooseTransport | None = None
    load_transport: LoadTransport | None = None


CHANGEABLE = (
    *("recipients", "cc", "bcc", "reply_to", "attachments", "mail_options", "rcpt_options"),
    *("alts", "extra_headers", "metadata", "provider"),
)

BIG = 65_536  # octets: beyond it, sealing is felt by an event loop
AN_ADDRESS = 4096  # as many octets take the time of a name and a domain in letters of any script


@dataclass(frozen=True, slots=True)
class Prepared:
    """The message as it goes out, and its submission; none where nobody is left to send it to."""

    message: Message
    submission: Submission | None


def check_kind(message: object) -> None:
    """Raise MessageError for what is no message; also for one of Flask-Mail's own."""
    if not isinstance(message, Message):
        kind = type(message)
        hint = (
            "; call install_as_flask_mail(force=True) before flask_mail is imported"
            if kind.__module__ == "flask_mail"
            else ""
        )
        raise MessageError(f"message must be a flask_outbox.Message, not {kind.__name__}{hint}.")


def own_copy(message: Message) -> Message:
    """Copy a message so far that lists, headers and attachments of the copy may be changed."""
    twin = copy(message)
    for name in CHANGEABLE:
        setattr(twin, name, _own(getattr(message, name)))
    if isinstance(twin.attachments, list):  # pyright: ignore[reportUnnecessaryIsInstance]
        twin.attachments = [_own(each) for each in twin.attachments]
    return twin


def _own(value: Any) -> Any:
    if isinstance(value, Attachment):
        value = copy(value)
        value.headers = _own(value.headers)
        return value
    return copy(cast("object", value)) if isinstance(value, (list, dict, set)) else value


def prepare(  # noqa: PLR0913  what the app and the caller each decide
    message: Message,
    settings: Settings,
    before_send: Iterable[BeforeSend],
    *,
    default_sender: str | tuple[str, str] | None,
    ascii_attachments: bool,
    at: float | None = None,
    return_path: str | None = None,
    transport: str = "default",
) -> Prepared:
    """Give each function the message, contain it, seal it; raise MessageError or MessageCancelled.

    The functions get a copy, so that a message that is sent twice is not changed twice.
    """
    if message.sender is None and default_sender is not None:
        message.sender = Message(sender=default_sender).sender
    now = time.time() if at is None else at
    if message.date is None:
        message.date = now
    functions = list(before_send)
    if functions:
        _ = message.msgId  # made here, so that the copy has the same
        message = own_copy(message)
        for function in functions:
            function(message)
    if sandbox.is_on(settings):
        before, message = message, sandbox.contained(message, settings)
        if before.send_to and not message.send_to:
            return Prepared(message, None)
    if return_path is None and settings.return_path is not None:
        return_path = settings.return_path.addr
    submission = seal(
        message,
        now=now,
        limits=limits(settings),
        roots=settings.attachment_roots,
        text_from_html=settings.text_from_html,
        ascii_attachments=ascii_attachments,
        return_path=return_path,
        transport=transport,
    )
    return Prepared(message, submission)


def limits(settings: Settings) -> Limits:
    """Give the limits of the settings."""
    if settings.max_size is None and settings.max_recipients is None:
        return DEFAULT_LIMITS
    return Limits(
        size=settings.max_size or DEFAULT_LIMITS.size,
        recipients=settings.max_recipients or DEFAULT_LIMITS.recipients,
    )


def is_big(message: Message) -> bool:
    """Tell whether sealing would be felt; what is read while sealing may be of any size.

    What is of a wrong kind has no size here: sealing refuses it by name.
    """
    texts = [message.subject, message.body]
    for named in (message.alts, message.extra_headers):
        texts += _values(named)
    people = (message.recipients, message.cc, message.bcc)
    size = sum(map(_size, texts)) + AN_ADDRESS * sum(map(_size, people))
    for attachment in _values(message.attachments):
        data = getattr(attachment, "data", b"")
        if not isinstance(data, (str, bytes)):
            return True
        size += len(data)
    return size > BIG


def _size(value: object) -> int:
    return len(value) if isinstance(value, Sized) else 0


def _values(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(cast("dict[str, Any]", value).values())
    return list(cast("list[Any]", value)) if isinstance(value, (list, tuple, set)) else []
