"""``seal()``: from a message to a submission, in one pass, seven bits wide.

RFC 5322, 2045 to 2047 and 2231. Everything is checked before it is written, and what was written
is read again by ``scan.guard``, which knows nothing of how it was made. The same message gives
the same bytes each time: boundaries derive from its Message-ID.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from flask_outbox.mail.address import parse_address
from flask_outbox.mail.alternatives import alternatives
from flask_outbox.mail.attachment import in_order
from flask_outbox.mail.body import Part, attachment_part, multipart
from flask_outbox.mail.envelope import read_dsn, read_metadata, read_options, read_tags
from flask_outbox.mail.errors import TooLargeError
from flask_outbox.mail.fields import Mailboxes, header_fields, read_mailboxes
from flask_outbox.mail.fingerprint import fingerprint
from flask_outbox.mail.headers import charset_label
from flask_outbox.mail.kinds import check_kinds
from flask_outbox.mail.limits import (
    DEFAULT_LIMITS,
    Limits,
    check_counts,
    check_fields,
    check_parts,
)
from flask_outbox.mail.message import Attachment, Message
from flask_outbox.mail.provider import read_provider
from flask_outbox.mail.scan import guard
from flask_outbox.mail.submission import NOTHING, Submission
from flask_outbox.mail.unseal import Parts, unseal

__all__ = [
    "DEFAULT_LIMITS",
    "Composed",
    "Limits",
    "Parts",
    "blocks",
    "compose",
    "fingerprint",
    "seal",
    "unseal",
]


@dataclass(frozen=True, slots=True)
class Composed:
    """A message as it will be written: its fields by name, its body, its boundaries' token."""

    fields: dict[str, str] = field(repr=False)
    root: Part
    token: str

    def intended(self) -> list[list[str]]:
        """List the names of each header block, in the order in which they are written."""
        own = [*self.fields, *self.root.names]
        return [own, *_names_below(self.root)] if self.root.parts else [own]

    def blocks(self) -> Iterator[bytes]:
        """Write it, attachments block by block as they are read."""
        head = "\r\n".join([*self.fields.values(), self.root.head, "\r\n"])
        yield head.encode()
        if self.root.parts:
            yield from _written(self.root)
        else:
            yield from _ended(self.root.blocks)


def seal(  # noqa: PLR0913  what an app decides once for all its messages
    message: Message,
    *,
    now: float,
    limits: Limits = DEFAULT_LIMITS,
    roots: Sequence[str] = (),
    text_from_html: bool = False,
    ascii_attachments: bool = False,
    return_path: str | None = None,
    transport: str = "default",
) -> Submission:
    """Check and write a message; raise MessageError naming the field and the fix.

    The Date is the message's, else ``now``. ``roots`` are the folders that files may be attached
    from. ``return_path`` is where bounces go, else the sender; "" or "<>" asks for none.
    """
    check_kinds(message)
    check_counts(message, limits)
    boxes = read_mailboxes(message)
    composed = compose(
        message,
        boxes,
        now=now,
        roots=roots,
        text_from_html=text_from_html,
        ascii_attachments=ascii_attachments,
    )
    check_fields(composed.fields, limits)
    check_parts(composed.root, limits)
    content = _join(composed.blocks(), limits)
    guard(content, composed.intended(), f"\r\n--=_{composed.token}".encode())
    recipients = tuple(dict.fromkeys([a.addr for a in (*boxes.to, *boxes.cc, *boxes.bcc)]))
    sender = boxes.sender.addr if boxes.sender else ""
    if return_path is not None:
        path = "" if return_path in ("", "<>") else parse_address(return_path, "return_path").addr
        sender = path
    return Submission(
        sender=sender,
        recipients=recipients,
        content=content,
        message_id=composed.fields["message-id"].partition(": ")[2],
        date=now if message.date is None else message.date,
        utf8=_takes_utf8(content, composed, (sender, *recipients)),
        dsn=read_dsn(message.dsn, recipients) if message.dsn else None,
        mail_options=read_options(message.mail_options, "mail_options", limits),
        rcpt_options=read_options(message.rcpt_options, "rcpt_options", limits),
        tags=read_tags(message.tags, limits) if message.tags else (),
        metadata=read_metadata(message.metadata, limits) if message.metadata else NOTHING,
        provider=read_provider(message, limits) if message.provider else NOTHING,
        track_opens=message.track_opens,
        track_clicks=message.track_clicks,
        sensitive=message.sensitive,
        at_most_once=message.at_most_once,
        transport=transport,
    )


def compose(  # noqa: PLR0913  as seal
    message: Message,
    boxes: Mailboxes,
    *,
    now: float,
    roots: Sequence[str] = (),
    text_from_html: bool = False,
    ascii_attachments: bool = False,
) -> Composed:
    """Lay out a message; nothing is read from files before its blocks are asked for."""
    fields = header_fields(message, boxes, now)
    charset = charset_label(message.charset) if message.charset else "utf-8"
    texts = alternatives(message, charset, text_from_html=text_from_html)
    inline: list[Part] = []
    others: list[Part] = []
    for attachment in in_order(message.attachments or ()):
        part = attachment_part(attachment, roots, ascii_names=ascii_attachments)
        (inline if _is_inline(attachment) and "html" in texts else others).append(part)
    token = _token(fields["message-id"], [*texts.values(), *inline, *others])
    root = _layout(texts, inline, others, f"=_{token}_")
    fields["mime-version"] = "MIME-Version: 1.0"
    return Composed(fields, root, token)


def blocks(
    message: Message,
    *,
    now: float,
    roots: Sequence[str] = (),
    text_from_html: bool = False,
    ascii_attachments: bool = False,
) -> Iterator[bytes]:
    """Write a message block by block: what seal joins, checks and guards."""
    return compose(
        message,
        read_mailboxes(message),
        now=now,
        roots=roots,
        text_from_html=text_from_html,
        ascii_attachments=ascii_attachments,
    ).blocks()


def _is_inline(attachment: Attachment) -> bool:
    """Whether the HTML shows it: it has a Content-ID, ours or in Flask-Mail's way."""
    return bool(attachment.cid) or (
        attachment.disposition == "inline"
        and any(name.lower() == "content-id" for name in attachment.headers or ())
    )


def _layout(
    texts: dict[str, Part],
    inline: list[Part],
    others: list[Part],
    boundary: str,
) -> Part:
    """mixed(alternative(plain, related(html, images)), attachments), less what is empty."""
    if inline:
        texts["html"] = multipart("related", [texts["html"], *inline], f"{boundary}3")
    several = list(texts.values())
    root = several[0] if len(several) == 1 else multipart("alternative", several, f"{boundary}2")
    return multipart("mixed", [root, *others], f"{boundary}1") if others else root


def _token(message_id: str, parts: Iterable[Part]) -> str:
    """Derive what the boundaries share; quoted-printable and base64 cannot contain ``=_``."""
    token = sha256(message_id.encode()).hexdigest()[:24]
    verbatim = [part.verbatim for part in parts if part.verbatim]
    while any([f"=_{token}".encode() in each for each in verbatim]):  # noqa: C419  faster for a few
        token = sha256(token.encode()).hexdigest()[:24]
    return token


def _names_below(part: Part) -> Iterator[list[str]]:
    for each in part.parts:
        yield each.names
        if each.parts:
            yield from _names_below(each)


def _written(part: Part) -> Iterator[bytes]:
    """Write the parts of a multipart."""
    between = f"--{part.boundary}\r\n"
    for each in part.parts:
        yield f"{between}{each.head}\r\n\r\n".encode()
        yield from _written(each) if each.parts else each.blocks
        between = f"\r\n--{part.boundary}\r\n"
    yield f"\r\n--{part.boundary}--\r\n".encode()


def _ended(lines: Iterable[bytes]) -> Iterator[bytes]:
    """End the last line of a mail that is one part; SMTP's final dot needs it."""
    last = b""
    for block in lines:
        yield block
        last = block or last
    if last and not last.endswith(b"\r\n"):
        yield b"\r\n"


def _join(source: Iterator[bytes], limits: Limits) -> bytes:
    """Join once; stop as soon as it is too much, whatever a file said of its size."""
    kept: list[bytes] = []
    size = 0
    for block in source:
        size += len(block)
        if size > limits.size:
            raise TooLargeError(
                f"the message is larger than the limit on size, {limits.size} octets encoded",
            )
        kept.append(block)
    return b"".join(kept)


def _takes_utf8(content: bytes, composed: Composed, envelope: tuple[str, ...]) -> bool:
    """Tell an address that needs SMTPUTF8 from a message inside that needs 8BITMIME."""
    if not "".join(envelope).isascii():
        return True
    return not content.isascii() and not "".join(composed.fields.values()).isascii()
