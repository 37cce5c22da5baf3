"""How much of anything a message may have."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from flask_outbox.mail.attachment import Attachment
from flask_outbox.mail.body import Part
from flask_outbox.mail.errors import TooLargeError
from flask_outbox.mail.fields import as_list
from flask_outbox.mail.message import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a message may come to at most; one more raises TooLargeError naming the limit.

    ``headers`` and ``field`` hold for the message, for each of its parts, and for tags, metadata
    and options: so many entries, so many octets or letters in all.
    """

    size: int = 25 * 1024 * 1024  # octets, encoded, headers included
    recipients: int = 1000
    headers: int = 100
    field: int = 102_400  # octets of one header field: beyond it Postfix cuts silently


DEFAULT_LIMITS = Limits()

_FIELD_END = re.compile(r"\r\n(?![ \t])")
_OF_A_PART = {"content-disposition": "filename", "content-id": "cid"}


def check_counts(message: Message, limits: Limits) -> None:
    """Refuse too many of anything before any of it is parsed or encoded."""
    count = 0
    for field in ("recipients", "cc", "bcc"):
        if several := getattr(message, field):
            count += len(as_list(several, field))
    if count > limits.recipients:
        raise TooLargeError(
            f"recipients, cc and bcc have {count} addresses; the limit on recipients is"
            f" {limits.recipients}",
        )
    if message.extra_headers:
        _check_number(len(message.extra_headers), "extra_headers", "headers", limits)
    for attachment in message.attachments or ():
        _check_names(attachment, limits)
        data = attachment.data
        if isinstance(data, (str, bytes)) and len(data) > limits.size:
            raise TooLargeError(
                f"attachments has one that is larger than the limit on size, {limits.size} octets",
            )


def _check_names(attachment: Attachment, limits: Limits) -> None:
    headers = attachment.headers or {}
    _check_number(len(headers), "attachments: headers", "headers", limits)
    if isinstance(attachment.filename, str):
        _check_size((attachment.filename,), "attachments: filename", limits)
    for value in headers.values():
        _check_size((str(value),), "attachments: headers", limits)


def check_words(words: Collection[str], field: str, limits: Limits) -> None:
    """Refuse too much of what goes beside the mail: tags, metadata, options."""
    _check_number(len(words), field, "entries", limits)
    _check_size(words, field, limits)


def check_fields(fields: dict[str, str], limits: Limits) -> None:
    """Refuse too many header fields, or one that is too large."""
    if len(fields) > limits.headers:
        raise TooLargeError(f"{len(fields)} headers; the limit on headers is {limits.headers}")
    if sum(map(len, fields.values())) > limits.field:
        for name, field in fields.items():
            _check_size((field,), name, limits)


def check_parts(root: Part, limits: Limits) -> None:
    """Refuse the same in the parts, whose fields are an attachment's."""
    for part in root.parts:
        check_parts(part, limits)
        _check_number(len(part.names), "attachments: headers", "headers", limits)
        if len(part.head) > limits.field:
            for name, field in zip(part.names, _FIELD_END.split(part.head), strict=True):
                own = _OF_A_PART.get(name) or f"headers[{field.partition(':')[0]}]"
                _check_size((field,), f"attachments: {own}", limits)


def _check_number(count: int, field: str, kind: str, limits: Limits) -> None:
    if count > limits.headers:
        raise TooLargeError(f"{field} has {count} {kind}; the limit on headers is {limits.headers}")


def _check_size(values: Collection[str], field: str, limits: Limits) -> None:
    if sum(map(len, values)) > limits.field:
        raise TooLargeError(
            f"{field} is larger than the limit on one header field, {limits.field} octets",
        )
