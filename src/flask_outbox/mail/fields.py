"""From a message to its header fields: which there are, and what may stand in them."""

import math
import re
from collections.abc import Callable, Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from flask_outbox.mail.address import Address, parse_address, refuse_control_characters
from flask_outbox.mail.attachment import in_order
from flask_outbox.mail.errors import BadHeaderError, MessageError, MissingFieldError
from flask_outbox.mail.headers import (
    LONGEST_LINE,
    address_field,
    charset_label,
    field_name,
    text_field,
    token_field,
)
from flask_outbox.mail.message import Message

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()  # noqa: SIM905  a table
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MESSAGE_ID = re.compile(r"<[!-;=?-~]+>")
_URL = re.compile(r"(?:https?|mailto|ftp|news|nntp):[!#-;=?-~]+", re.IGNORECASE)
_AUTO_SUBMITTED = re.compile(r"[A-Za-z-]+(?:\s*;.+)?")  # RFC 3834 section 5
_LIST_ID = re.compile(r"[a-zA-Z0-9_!#$%&'*+\-/=?^`{|}~.]{1,255}")
_FOLDED = re.compile(r"\r\n(?=[ \t]+[^\s])")

_LIST_FIELDS = (
    ("List-Help", "list_help"),
    ("List-Unsubscribe", "list_unsubscribe"),
    ("List-Subscribe", "list_subscribe"),
    ("List-Post", "list_post"),
    ("List-Owner", "list_owner"),
    ("List-Archive", "list_archive"),
)
_MAILBOXES = frozenset(
    {
        *("from", "sender", "reply-to", "to", "cc", "errors-to", "resent-from", "resent-sender"),
        *("resent-to", "resent-cc", "disposition-notification-to", "return-receipt-to"),
    },
)
_NOT_BY_HAND = {
    "bcc": "every recipient would read it; use bcc=",
    "resent-bcc": "every recipient would read it; use bcc=",
    "content-type": "it is written by us, with the parts",
    "content-transfer-encoding": "it is written by us, with the parts",
    "mime-version": "it is written by us",
}


@dataclass(frozen=True, slots=True)
class Mailboxes:
    """Everybody that a message names, parsed."""

    sender: Address | None
    to: list[Address]
    cc: list[Address]
    bcc: list[Address]
    reply_to: list[Address]


def read_mailboxes(message: Message) -> Mailboxes:
    """Parse them all; raise MessageError naming the field."""
    if not message.sender:
        raise MissingFieldError(
            "sender is missing: the message does not specify a sender and a default sender has"
            " not been configured; pass sender= or set MAIL_DEFAULT_SENDER",
        )
    if not (message.recipients or message.cc or message.bcc):
        raise MissingFieldError("recipients is missing: No recipients have been added")
    return Mailboxes(
        _known(message.sender, "sender"),
        _parsed(message.recipients, "recipients") if message.recipients else [],
        _parsed(message.cc, "cc") if message.cc else [],
        _parsed(message.bcc, "bcc") if message.bcc else [],
        read_reply_to(message.reply_to, parse_address) if message.reply_to else [],
    )


def read_reply_to(
    value: Any,
    parse: Callable[[Any, str], Address],
) -> list[Address]:
    """One mailbox, as with Flask-Mail, or a list of them."""
    if isinstance(value, list):
        several: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
        return [parse(each, "reply_to") for each in several]
    return [parse(value, "reply_to")]


def as_list(values: Any, field: str) -> Collection[Any]:
    """Refuse what would be read letter by letter, or not at all; a set gets an order."""
    if type(values) is list or isinstance(values, (list, tuple, AbstractSet)):
        several: Collection[Any] = in_order(values)
        return several
    raise MessageError(f"{field} must be a list; write {field}=[...] around the address")


def _parsed(values: Any, field: str) -> list[Address]:
    return [parse_address(each, field) for each in as_list(values, field)]


def _known(value: Any, field: str) -> Address:
    """Parse what is mostly the same in every message of an app."""
    try:
        return _remembered(value, field)
    except TypeError:  # a list, which cannot be a key
        return parse_address(value, field)


_remembered = lru_cache(maxsize=64)(parse_address)


@lru_cache(maxsize=64)
def _from(sender: Address, charset: str) -> str:
    return address_field("From", (sender,), charset)


def header_fields(message: Message, boxes: Mailboxes, now: float) -> dict[str, str]:
    """Give each field as it is written, by its name in lower case, in order."""
    charset = charset_label(message.charset) if message.charset else "utf-8"
    date = now if message.date is None else message.date
    fields = {"date": f"Date: {date_text(date)}"}
    if boxes.sender is not None:
        fields["from"] = _from(boxes.sender, charset)
    for name, key, several in (
        ("To", "to", boxes.to),
        ("Cc", "cc", boxes.cc),
        ("Reply-To", "reply-to", boxes.reply_to),
    ):
        if several:
            once = several if len(several) == 1 else dict.fromkeys(several)
            fields[key] = address_field(name, once, charset)
    if message.subject and (subject := as_str(message.subject, "subject")):
        fields["subject"] = text_field("Subject", unfolded(subject, "subject"), charset)
    fields["message-id"] = f"Message-ID: {_message_id(message.msgId, 'msgId')}"
    if message.in_reply_to:
        fields["in-reply-to"] = _ids("In-Reply-To", message.in_reply_to, "in_reply_to")
    if message.references:
        fields["references"] = _ids("References", message.references, "references")
    if message.auto_submitted:
        fields["auto-submitted"] = _auto_submitted(message.auto_submitted)
    _list_fields(message, fields, charset)
    if message.extra_headers:
        for name, value in message.extra_headers.items():
            _extra(fields, name, value, charset)
    return fields


def as_str(value: Any, field: str) -> str:
    """Resolve lazy strings and bytes, as Flask-Mail does."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise MessageError(f"{field} has bytes that are not UTF-8; pass str") from None
    return value if type(value) is str else str(value)


def unfolded(subject: str, field: str) -> str:
    """Undo folding (CRLF and a space), which Flask-Mail lets stand; refuse all other breaks."""
    if "\r\n" in subject:
        subject = _FOLDED.sub("", subject)
    return refuse_control_characters(subject, field)


def date_text(date: float) -> str:
    """Write a date (RFC 5322 section 3.3) in UTC, whatever the locale and the zone."""
    try:
        return _date_text(math.floor(date))
    except (TypeError, ValueError, OverflowError):
        raise MessageError("date must be seconds since 1970, as time.time() gives them") from None


@lru_cache(maxsize=8)
def _date_text(second: int) -> str:
    at = _EPOCH + timedelta(seconds=second)
    day = f"{_DAYS[at.weekday()]}, {at.day:02d} {_MONTHS[at.month - 1]} {at.year:04d}"
    return f"{day} {at:%H:%M:%S} +0000"


def _message_id(value: Any, field: str) -> str:
    text = refuse_control_characters(as_str(value, field), field)
    if not _MESSAGE_ID.fullmatch(text) or len(text) > LONGEST_LINE - 20 or "=?" in text:
        raise BadHeaderError(f"{field} must look like <something@example.org>")
    return text


def _ids(name: str, value: Sequence[str] | str, field: str) -> str:
    several = value.split(" ") if isinstance(value, str) else value
    ids = [_message_id(each, field) for each in several if each]
    return token_field(name, " ".join(ids), field)


def _auto_submitted(value: Any) -> str:
    text = refuse_control_characters(value, "auto_submitted")
    if not _AUTO_SUBMITTED.fullmatch(text):
        raise BadHeaderError("auto_submitted must be a word, such as auto-generated")
    return token_field("Auto-Submitted", text, "auto_submitted")


def _list_fields(message: Message, fields: dict[str, str], charset: str) -> None:
    """Add what speaks of a mailing list (RFC 2369, RFC 2919, RFC 8058)."""
    if message.list_id:
        fields["list-id"] = _list_id(message.list_id, charset)
    for name, field in _LIST_FIELDS:
        if value := getattr(message, field):
            urls = [value] if isinstance(value, str) else list(value)
            text = ", ".join([_url(url, field) for url in urls])
            fields[name.lower()] = token_field(name, text, field)
    if message.list_unsubscribe_post:
        if "<https:" not in fields.get("list-unsubscribe", ""):
            raise MessageError("list_unsubscribe_post needs an https URL in list_unsubscribe")
        fields["list-unsubscribe-post"] = "List-Unsubscribe-Post: List-Unsubscribe=One-Click"


def _url(value: Any, field: str) -> str:
    url = refuse_control_characters(as_str(value, field), field)
    if field == "list_post" and url == "NO":
        return url
    if url.startswith("<") and url.endswith(">"):
        url = url[1:-1]
    if not _URL.fullmatch(url):
        raise BadHeaderError(
            f"{field} must be a URL such as https://… or mailto:…, percent-encoded",
        )
    return f"<{url}>"


def _list_id(value: str | tuple[str, str], charset: str) -> str:
    phrase, name = ("", value) if isinstance(value, str) else _two(value)
    refuse_control_characters(phrase, "list_id")
    refuse_control_characters(name, "list_id")
    name = name.removeprefix("<").removesuffix(">")
    if not _LIST_ID.fullmatch(name) or "=?" in name:
        raise BadHeaderError(
            "list_id must look like news.example.org, or ('News', 'news.example.org')"
        )
    if not phrase:
        return f"List-Id: <{name}>"
    return address_field("List-Id", (Address(phrase, name),), charset)


def _two(value: Sequence[str]) -> Sequence[str]:
    if len(value) != 2:  # noqa: PLR2004  a phrase, a name
        raise MessageError(
            "list_id must be 'news.example.org' or ('News', 'news.example.org'),"
            f" not a {type(value).__name__} of {len(value)}",
        )
    return value


def _extra(fields: dict[str, str], name: Any, value: Any, charset: str) -> None:
    """Add one of ``extra_headers``, in place of ours where we have one of that name."""
    key = field_name(name, "extra_headers").lower()
    where = f"extra_headers[{name}]"
    if why := _NOT_BY_HAND.get(key):
        raise BadHeaderError(f"{where} cannot be set: {why}")
    text = as_str(value, where)
    text = unfolded(text, where) if key == "subject" else refuse_control_characters(text, where)
    text = text.strip()
    if not text:
        fields.pop(key, None)
    elif key == "subject":
        fields[key] = text_field(name, text, charset)
    elif key == "date":
        fields[key] = token_field(name, _date_by_hand(text, where), where)
    elif key == "message-id":
        fields[key] = f"{name}: {_message_id(text, where)}"
    elif key in _MAILBOXES and not text.isascii():
        fields[key] = address_field(name, (parse_address(text, where),), charset)
    elif key == "list-id" and not text.isascii():
        phrase, _, listed = text.rpartition(" ")
        fields[key] = _list_id((phrase.strip('"'), listed), charset)
    elif text.isascii() or key.startswith("list-") or key in {"references", "in-reply-to"}:
        fields[key] = token_field(name, text, where)
    else:
        fields[key] = text_field(name, text, charset)


def _date_by_hand(text: str, where: str) -> str:
    from email.utils import parsedate_tz  # noqa: PLC0415  few write the date themselves

    if parsedate_tz(text) is None:
        raise BadHeaderError(f"{where} must be a date such as Tue, 01 Jul 2025 10:00:00 +0200")
    return text
