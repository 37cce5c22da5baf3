"""What the linter reads of a mail, whoever wrote it: any bytes at all come out as parts.

``unseal()`` reads what ``seal()`` wrote, and may stumble over anything else; a file given to the
linter is from anywhere. So headers and bodies are decoded here with a fallback for each lie that
they may tell, and no more of a text is kept than LONGEST letters.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flask_outbox.mail.errors import MessageError
from flask_outbox.mail.lint_page import Page, page_of

if TYPE_CHECKING:
    from email.message import Message as Parsed

LONGEST = 1_000_000  # letters of one text
_MOST_PARTS = 100  # boundaries, since the standard library's parser asks each of them at each line
_LONGEST_FIELD = 10_000  # octets of a header field
_MAILS_OWN = frozenset({"from", "to", "subject", "date", "message-id", "received", "return-path"})
# Codecs of Python's that no mail is written in; with punycode, decoding takes quadratic time.
_NO_CHARSETS = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"})
_BOUNDARY = re.compile(rb"boundary[*0-9\s]*+=", re.IGNORECASE)
_CONTENT_TYPE = re.compile(
    rb"^content-type[ \t]*+:[^\r\n]*+(?>(?:\r?\n?[ \t][^\r\n]*+)*)", re.IGNORECASE | re.MULTILINE
)
_URL = re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]{1,20}+://[^\s<>\"']++")
_FOLD = re.compile(r"\r?\n(?=[ \t])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A mail as its reader sees it. ``None``: there is no such part.

    ``headers``: decoded, by lower-case name. ``html_size``: octets of the HTML, decoded.
    ``attached``: the texts among the attachments, one after the other.
    """

    headers: dict[str, list[str]] = field(repr=False)
    text: str | None = field(default=None, repr=False)
    html_size: int | None = None
    page: Page = field(default_factory=Page, repr=False)
    attached: str = field(default="", repr=False)
    cut: bool = False  # a text was longer than what is read of it

    def header(self, name: str) -> str:
        """Give the first of that name, or nothing."""
        return next(iter(self.headers.get(name, ())), "")

    def texts(self) -> Iterator[tuple[str, str]]:
        """Give each text that a person may read, and what to call it."""
        yield "The subject", self.header("subject")
        yield "The text", self.text or ""
        yield "The HTML", self.page.text
        yield "An attachment", self.attached


def without_links(text: str) -> str:
    """Take the web addresses out of a text."""
    return _URL.sub(" ", text)


def read(content: bytes) -> Letter:
    """Take a mail apart; raise MessageError for what is none."""
    from email import message_from_bytes  # noqa: PLC0415  seldom needed, and it takes 30 ms

    _refuse_slow(content)
    try:
        parsed = message_from_bytes(content)
    except RecursionError:
        raise MessageError("the mail has parts in parts, deeper than can be read") from None
    headers: dict[str, list[str]] = {}
    for name, value in parsed.raw_items():
        headers.setdefault(name.lower(), []).append(_decoded(str(value)))
    if not _MAILS_OWN & headers.keys():
        raise MessageError("this is no mail: it has neither From nor To, Subject nor Date")
    plain: list[str] = []
    html: list[str] = []
    attached: list[str] = []
    kinds = {"plain": plain, "html": html}
    html_size = 0
    for part, kind in _text_parts(parsed):
        payload = _payload(part)
        html_size += len(payload) if kind == "html" else 0
        kinds.get(kind, attached).append(_text(payload, part))
    text, shown, others = ("\n".join(several) for several in (plain, html, attached))
    return Letter(
        headers=headers,
        text=text[:LONGEST] if plain else None,
        html_size=html_size if html else None,
        page=page_of(shown[:LONGEST]),
        attached=others[:LONGEST],
        cut=max(map(len, (text, shown, others))) > LONGEST,
    )


def _refuse_slow(content: bytes) -> None:
    """Refuse what the standard library's parser takes quadratic time for, and no mail has."""
    if len(_BOUNDARY.findall(content)) > _MOST_PARTS:
        raise MessageError(f"the mail has more than {_MOST_PARTS} parts that have parts")
    if any(len(found[0]) > _LONGEST_FIELD for found in _CONTENT_TYPE.finditer(content)):
        raise MessageError(f"the mail has a Content-Type of more than {_LONGEST_FIELD} octets")


def _text_parts(parsed: "Parsed[str, str]") -> Iterator[tuple[Any, str]]:
    """Walk the parts in order; a message within is an attachment, not a branch."""
    left: list[Any] = [parsed]
    while left:
        part = left.pop()
        if part.is_multipart():
            if part.get_content_maintype() == "multipart":
                left += reversed(part.get_payload())
        elif part.get_content_maintype() == "text":
            subtype = part.get_content_subtype()
            is_body = part.get("content-disposition") is None or _is_inline(part)
            yield part, subtype if is_body and subtype in {"plain", "html"} else "attached"


def _is_inline(part: "Parsed[str, str]") -> bool:
    disposition = str(part.get("content-disposition")).partition(";")
    return disposition[0].strip().lower() == "inline" and "filename" not in disposition[2].lower()


def _payload(part: Any) -> bytes:
    try:
        payload: object = part.get_payload(decode=True)
    except ValueError:  # uuencode that is none
        return b""
    return payload if isinstance(payload, bytes) else b""


def _text(payload: bytes, part: "Parsed[str, str]") -> str:
    """Decode it, at most one letter more than is read; whatever is wrong with it is replaced."""
    most = payload[: 4 * (LONGEST + 1)]
    try:
        charset = codecs.lookup(str(part.get_content_charset("utf-8"))).name
        if charset in _NO_CHARSETS:
            charset = "utf-8"
        text = most.decode(charset, "replace")
    except (LookupError, ValueError):  # unknown, or such as cannot replace
        text = most.decode("utf-8", "replace")
    return text.replace("\r\n", "\n")[: LONGEST + 1]


def _decoded(value: str) -> str:
    """Decode a header's encoded words; raw UTF-8 stands there as escapes."""
    from email.errors import HeaderParseError  # noqa: PLC0415  as above
    from email.header import decode_header, make_header  # noqa: PLC0415  as above

    raw = value[:_LONGEST_FIELD].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    raw = _FOLD.sub("", raw)
    try:
        return str(make_header(decode_header(raw)))
    except (HeaderParseError, LookupError, ValueError):
        return raw
