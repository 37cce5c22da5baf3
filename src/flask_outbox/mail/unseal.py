"""``unseal()``: sealed bytes back into parts, for APIs that want parts and for assertions in tests.

Reads what ``seal()`` wrote, with the standard library's parser; mail from strangers is not for it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flask_outbox.mail.address import Address

if TYPE_CHECKING:
    from email.message import EmailMessage

_SHOWN_ELSEWHERE = frozenset(
    {
        *("from", "to", "cc", "reply-to", "subject", "date", "message-id", "mime-version"),
        *("content-type", "content-transfer-encoding", "content-disposition", "content-id"),
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsAttachment:
    """An attachment as it arrives. ``cid`` without angle brackets; "" where there is none."""

    filename: str | None
    content_type: str
    data: bytes = field(repr=False)
    disposition: str = "attachment"
    cid: str = ""
    charset: str = ""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def inline(self) -> bool:
        """Whether the HTML shows it by its Content-ID."""
        return bool(self.cid) and self.disposition == "inline"

    @property
    def media_type(self) -> str:
        """Its type and, of a text, its charset."""
        return f"{self.content_type}; charset={self.charset}" if self.charset else self.content_type


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a sealed message says. Bodies have LF line ends; ``alternatives`` is by subtype.

    ``headers`` holds the fields that have no place of their own here, in order. ``bcc`` is never
    said by a message: ``for_whom`` adds it.
    """

    sender: Address
    to: tuple[Address, ...] = ()
    cc: tuple[Address, ...] = ()
    bcc: tuple[Address, ...] = ()
    reply_to: tuple[Address, ...] = ()
    subject: str = field(default="", repr=False)
    text: str | None = field(default=None, repr=False)
    html: str | None = field(default=None, repr=False)
    alternatives: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    attachments: tuple[PartsAttachment, ...] = ()
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    message_id: str = ""
    date: float = 0.0

    def for_whom(self, recipients: Iterable[str]) -> "Parts":
        """Leave of those it names the ones still to be reached; whom it does not name is in bcc.

        For APIs that write to those they are given as To, Cc and Bcc, and want somebody in To.
        """
        left = dict.fromkeys(recipients)
        to = tuple(each for each in self.to if each.addr in left)
        cc = tuple(each for each in self.cc if each.addr in left)
        named = {each.addr for each in (*to, *cc)}
        bcc = tuple(Address("", each) for each in left if each not in named)
        if not to:
            to, cc, bcc = (cc, (), bcc) if cc else (bcc[:1], (), bcc[1:])
        return replace(self, to=to, cc=cc, bcc=bcc)


def unseal(content: bytes) -> Parts:
    """Read sealed bytes."""
    from email import message_from_bytes  # noqa: PLC0415  seldom needed, and it takes 30 ms
    from email.policy import default  # noqa: PLC0415

    parsed: Any = message_from_bytes(content, policy=default)
    texts: dict[str, str] = {}
    attachments: list[PartsAttachment] = []
    _collect(parsed, texts, attachments)
    senders = _addresses(parsed, "from")
    date = parsed["date"].datetime if parsed["date"] is not None else None
    return Parts(
        sender=senders[0] if senders else Address("", ""),
        to=_addresses(parsed, "to"),
        cc=_addresses(parsed, "cc"),
        reply_to=_addresses(parsed, "reply-to"),
        subject=str(parsed["subject"] or ""),
        text=texts.pop("plain", None),
        html=texts.pop("html", None),
        alternatives=texts,
        attachments=tuple(attachments),
        headers=tuple(
            (name, str(value))
            for name, value in parsed.items()
            if name.lower() not in _SHOWN_ELSEWHERE
        ),
        message_id=str(parsed["message-id"] or ""),
        date=date.timestamp() if date is not None else 0.0,
    )


def _addresses(parsed: Any, name: str) -> tuple[Address, ...]:
    header = parsed[name]
    if header is None:
        return ()
    # An address that needs SMTPUTF8 stands there as raw UTF-8, which the parser keeps as escapes.
    return tuple(
        Address(_repaired(each.display_name), _repaired(each.addr_spec))
        for each in header.addresses
    )


def _repaired(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _collect(
    part: Any,
    texts: dict[str, str],
    attachments: list[PartsAttachment],
) -> None:
    """Walk the tree as seal() lays it out; a message within is an attachment, not a branch."""
    if part.get_content_maintype() == "multipart":
        for each in part.iter_parts():
            _collect(each, texts, attachments)
    elif part["content-disposition"] is None and part.get_content_maintype() == "text":
        text = part.get_payload(decode=True).decode(part.get_content_charset("utf-8"), "replace")
        texts[part.get_content_subtype()] = text.replace("\r\n", "\n")
    else:
        attachments.append(_attachment(part))


def _attachment(part: "EmailMessage") -> PartsAttachment:
    if part.get_content_type() == "message/rfc822":
        data = _raw_message(part)
    else:
        payload: Any = part.get_payload(decode=True)
        data = payload or b""
    return PartsAttachment(
        filename=part.get_filename(),
        content_type=part.get_content_type(),
        data=data,
        disposition=part.get_content_disposition() or "attachment",
        cid=str(part["content-id"] or "").strip("<> "),
        charset=part.get_content_charset("") if part.get_content_maintype() == "text" else "",
        headers=tuple(
            (name, str(value))
            for name, value in part.items()
            if name.lower() not in _SHOWN_ELSEWHERE
        ),
    )


def _raw_message(part: Any) -> bytes:
    from email.policy import SMTP  # noqa: PLC0415  as above

    inner: bytes = part.get_content().as_bytes(policy=SMTP.clone(max_line_length=0))
    return inner
