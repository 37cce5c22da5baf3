"""Writing a message that need not be right: Flask-Mail's ``as_string`` shows rather than refuses.

What cannot stand in a header is dropped, what is missing is left out, and addresses that are none
are shown as they are. Nothing written this way may be sent; ``seal()`` is for that.
"""

import copy
import re
from collections.abc import Sequence
from typing import Any

from flask_outbox.mail.address import Address, parse_address
from flask_outbox.mail.attachment import in_order
from flask_outbox.mail.errors import MessageError
from flask_outbox.mail.fields import Mailboxes, as_str, read_reply_to
from flask_outbox.mail.message import Attachment, Message
from flask_outbox.mail.mime import compose

_BREAK = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def render(
    message: Message,
    *,
    now: float,
    roots: Sequence[str] = (),
    text_from_html: bool = False,
    ascii_attachments: bool = False,
) -> bytes:
    """Write a message as it is; for one that can be sealed, the bytes are those of ``seal()``."""
    clean = copy.copy(message)
    clean.__dict__["msgId"] = _stripped(message.msgId)
    if message.subject:
        clean.subject = _stripped(as_str(message.subject, "subject"))
    if message.extra_headers:
        clean.extra_headers = {
            _stripped(name): _stripped(as_str(value, "extra_headers"))
            for name, value in message.extra_headers.items()
        }
    clean.attachments = [_with_a_clean_name(each) for each in in_order(message.attachments or ())]
    boxes = Mailboxes(
        _address(message.sender, "sender") if message.sender else None,
        _addresses(message.recipients),
        _addresses(message.cc),
        _addresses(message.bcc),
        read_reply_to(message.reply_to, _address) if message.reply_to else [],
    )
    composed = compose(
        clean,
        boxes,
        now=now,
        roots=roots,
        text_from_html=text_from_html,
        ascii_attachments=ascii_attachments,
    )
    return b"".join(composed.blocks())


def _stripped(text: str) -> str:
    return _BREAK.sub("", text.replace("\r\n", "")) if not text.isprintable() else text


def _with_a_clean_name(attachment: Attachment) -> Attachment:
    name = attachment.filename
    if name is None or name.isprintable():
        return attachment
    named = copy.copy(attachment)
    named.filename = _stripped(name)
    return named


def _addresses(values: Any) -> list[Address]:
    return [_address(each, "recipients") for each in in_order(values or ())]


def _address(value: Any, field: str) -> Address:
    try:
        return parse_address(value, field)
    except MessageError:
        pass
    if isinstance(value, (tuple, list)):
        pair: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]
        value = "{} <{}>".format(*pair) if len(pair) == 2 else pair  # noqa: PLR2004  name, addr
    text = _stripped(str(value)).strip()
    try:
        return parse_address(text, field)
    except MessageError:
        return Address("", text.encode("ascii", "replace").decode())
