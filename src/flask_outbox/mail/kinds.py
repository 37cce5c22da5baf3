"""Fields of a wrong kind altogether: said once, by name, before anything is written."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from flask_outbox.mail.attachment import Invitation
from flask_outbox.mail.errors import MessageError
from flask_outbox.mail.message import Message
from flask_outbox.mail.submission import Dsn

_LIST = (list, tuple, AbstractSet)
_WORDS = (str, list, tuple)
_MAPPING = (dict, Mapping)

# By field: the kinds that it may be of, and the same in words. What is empty is as good as unset.
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "alts": (_MAPPING, "a dict from subtype to text, such as {'html': …}"),
    "attachments": (_LIST, "a list of Attachment"),
    "charset": ((str,), "the name of a charset; leave it out for utf-8"),
    "dsn": ((Dsn,), "a Dsn"),
    "extra_headers": (_MAPPING, "a dict from name to value"),
    "in_reply_to": (_WORDS, "a Message-ID, such as <1@example.org>"),
    "invitation": ((Invitation, str), "an Invitation or the text of an iCalendar object"),
    "mail_options": (_LIST, "a list of options"),
    "metadata": (_MAPPING, "a dict from str to str"),
    "provider": (_MAPPING, "a dict, in the provider's own words"),
    "rcpt_options": (_LIST, "a list of options"),
    "references": (_WORDS, "a list of Message-IDs"),
    "track_clicks": ((bool,), "True or False"),
    "track_opens": ((bool,), "True or False"),
    "tags": (_LIST, "a list; write tags=[...] around the tag"),
    "list_id": (_WORDS, "such as 'news.example.org', or ('News', 'news.example.org')"),
    **{
        f"list_{each}": (_WORDS, "a URL or a list of URLs")
        for each in ("unsubscribe", "help", "subscribe", "post", "owner", "archive")
    },
}


def check_kinds(message: Message) -> None:
    """Raise MessageError naming the first field that is of no kind it may be of."""
    for field, value in message.__dict__.items():
        if value and field in _KINDS:
            _check(field, value)
    for each in message.attachments or ():
        if not hasattr(each, "data"):
            raise MessageError(f"attachments must be Attachment objects, not {_kind(each)}")
        headers: Any = each.headers
        if headers and not isinstance(headers, _MAPPING):
            raise MessageError("attachments: headers must be a dict from name to value")


def _check(field: str, value: Any) -> None:
    kinds, wanted = _KINDS[field]
    if not isinstance(value, kinds):
        raise MessageError(f"{field} must be {wanted}, not {_kind(value)}")


def _kind(value: Any) -> str:
    return type(value).__name__
