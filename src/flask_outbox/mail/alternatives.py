"""The texts in which a message says the same: plain, HTML, others by subtype, an invitation."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from flask_outbox.mail.attachment import Invitation
from flask_outbox.mail.body import Part, text_part
from flask_outbox.mail.errors import BadHeaderError, MessageError
from flask_outbox.mail.fields import as_str
from flask_outbox.mail.message import Message

_LONGEST = 127  # letters of a subtype (RFC 6838 section 4.2)

# The field that it stands in, the text, its subtype, its charset, and further parameters.
_Text = tuple[str, Any, str, str, str]


def alternatives(message: Message, charset: str, *, text_from_html: bool) -> dict[str, Part]:
    """Write the texts by subtype, plainest first; raise MessageError where two share one."""
    parts: dict[str, Part] = {}
    fields: dict[str, str] = {}
    for field, text, subtype, label, params in _texts(message, charset, derive=text_from_html):
        if subtype in parts:
            raise MessageError(
                f"{fields[subtype]} and {field} are both text/{subtype}; leave one of them out",
            )
        fields[subtype] = field
        try:
            parts[subtype] = text_part(as_str(text, field), subtype, label, params)
        except UnicodeEncodeError:
            raise MessageError(
                f"{field} has a lone surrogate, which no charset can write; remove it",
            ) from None
    first = {"plain": parts.pop("plain")} if "plain" in parts else {}
    return {**first, **parts} or {"plain": text_part("", "plain", charset)}


def _texts(message: Message, charset: str, *, derive: bool) -> Iterator[_Text]:
    alts = cast("Mapping[Any, Any]", message.alts)
    body = message.body
    if body is None and derive and (html := alts.get("html")) and not _has_plain(alts):
        from flask_outbox.mail.text import text_of  # noqa: PLC0415  only where asked for

        body = text_of(as_str(html, "html"))
    if body is not None:
        yield "body", body, "plain", charset, ""
    for key, content in alts.items():
        if key == "html" and content is not None:
            yield "html", content, "html", charset, ""
        elif content is not None:
            yield f"alts[{key}]", content, _subtype(key), charset, ""
    if message.invitation:
        invitation = message.invitation
        if not isinstance(invitation, Invitation):
            invitation = Invitation(invitation)
        if not _is_token(invitation.method):
            raise BadHeaderError("invitation has a method that is not a word, such as REQUEST")
        params = f"; method={invitation.method}"
        yield "invitation", invitation.content, "calendar", "utf-8", params


def _has_plain(alts: Mapping[Any, Any]) -> bool:
    return any(str(key).lower() == "plain" for key in alts)


def _subtype(key: Any) -> str:
    if not isinstance(key, str):
        raise MessageError(f"alts has a key that must be str, not {type(key).__name__}")
    if not _is_token(key):
        raise BadHeaderError("alts has a key that cannot be the subtype of text/…, such as html")
    return key.lower()


def _is_token(text: str) -> bool:
    plain = text.replace("-", "").replace(".", "").replace("+", "")
    return len(text) <= _LONGEST and text.isascii() and plain.isalnum()
