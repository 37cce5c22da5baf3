"""What makes two messages the same to ``key=``: all that was composed, nothing that was added."""

import json
from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict
from hashlib import sha256
from typing import Any, cast

from flask_outbox.mail.address import Address
from flask_outbox.mail.attachment import in_order
from flask_outbox.mail.files import FilePath, OpenFile
from flask_outbox.mail.message import Attachment, Invitation, Message
from flask_outbox.mail.submission import Dsn

_FIELDS = (
    *("subject", "sender", "recipients", "cc", "bcc", "reply_to", "body", "alts", "charset"),
    *("extra_headers", "mail_options", "rcpt_options", "attachments", "in_reply_to", "references"),
    *("auto_submitted", "list_id", "list_unsubscribe", "list_unsubscribe_post", "list_help"),
    *("list_subscribe", "list_post", "list_owner", "list_archive", "invitation", "dsn", "tags"),
    *("metadata", "provider", "track_opens", "track_clicks", "sensitive", "at_most_once"),
)


def fingerprint(message: Message) -> str:
    """Hash what was composed; Date, Message-ID, boundaries and a set's own order do not count.

    A file counts by its path, an open file by what can be read from it, any other iterable of
    blocks, which may only be read once, by its attachment's name and type alone.
    """
    composed = {name: _plain(getattr(message, name)) for name in _FIELDS}
    text = json.dumps(composed, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:  # noqa: PLR0911  a table of types
    match value:
        case None | bool() | int() | float() | str():
            return value
        case bytes() | bytearray():
            return sha256(bytes(value)).hexdigest()
        case Address(name, addr):
            return [name, addr]
        case Attachment():
            return _plain(vars(value))
        case FilePath(path):
            return ["path", path]
        case OpenFile():
            return _streamed(value)
        case Invitation() | Dsn():
            return _plain(asdict(value))
        case Mapping():
            pairs: Mapping[Any, Any] = value  # pyright: ignore[reportUnknownVariableType]
            return {str(key): _plain(each) for key, each in pairs.items()}
        case list() | tuple() | AbstractSet():
            return [_plain(each) for each in in_order(cast("Collection[Any]", value))]
        case _:
            return "" if hasattr(value, "__iter__") else str(value)


def _streamed(file: OpenFile) -> str:
    if file.start is None:
        return ""
    digest = sha256()
    for block in file:
        digest.update(block)
    return digest.hexdigest()
