"""How much of anything a message may have."""

from dataclasses import dataclass

from flask_outbox.mail.errors import TooLargeError
from flask_outbox.mail.fields import as_list
from flask_outbox.mail.message import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a message may come to at most; one more raises TooLargeError naming the limit."""

    size: int = 25 * 1024 * 1024  # octets, encoded, headers included
    recipients: int = 1000
    headers: int = 100
    field: int = 102_400  # octets of one header field: beyond it Postfix cuts silently


DEFAULT_LIMITS = Limits()


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
    if message.extra_headers and len(message.extra_headers) > limits.headers:
        raise TooLargeError(
            f"extra_headers has {len(message.extra_headers)} headers; the limit on headers is"
            f" {limits.headers}",
        )
    for attachment in message.attachments or ():
        data = attachment.data
        if isinstance(data, (str, bytes)) and len(data) > limits.size:
            raise TooLargeError(
                f"attachments has one that is larger than the limit on size, {limits.size} octets",
            )


def check_fields(fields: dict[str, str], limits: Limits) -> None:
    """Refuse too many header fields, or one that is too large."""
    if len(fields) > limits.headers:
        raise TooLargeError(f"{len(fields)} headers; the limit on headers is {limits.headers}")
    if sum(map(len, fields.values())) > limits.field and (
        max(map(len, fields.values())) > limits.field
    ):
        field = max(fields, key=lambda key: len(fields[key]))
        raise TooLargeError(
            f"{field} is larger than the limit on one header field, {limits.field} octets",
        )
