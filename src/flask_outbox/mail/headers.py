"""Header fields as they are written: folded, encoded, seven bits wide.

Each function gives one whole field, lines parted by CRLF, without the last one. Lines keep to 78
octets wherever the grammar lets a line be folded (RFC 5322 section 2.1.1); encoded words keep to
75 (RFC 2047 section 2).
"""

import codecs
import re
from binascii import b2a_base64
from collections.abc import Iterable
from functools import lru_cache

from flask_outbox.mail.address import Address
from flask_outbox.mail.errors import BadHeaderError, MessageError

LINE = 78
LONGEST_LINE = 998
_WORD = 75

# As in Python's email package, so that short headers come out as they did with Flask-Mail.
_Q_SAFE = frozenset(b"!*+-/ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_Q_AS_ONE = bytes(sorted(_Q_SAFE | {0x20}))  # of each octet that stays one
_Q = ["_" if b == 0x20 else chr(b) if b in _Q_SAFE else f"={b:02X}" for b in range(256)]  # noqa: PLR2004
_Q_BY_CHARACTER = dict(enumerate(_Q))

_PIECES = re.compile(r"[ \t]*[^ \t]+")
_ATOMS = re.compile(r"[a-zA-Z0-9_!#$%&'*+\-/=?^`{|}~]+(?: [a-zA-Z0-9_!#$%&'*+\-/=?^`{|}~]+)*")
_ODD_SPACE = re.compile(r"^[ \t]|[ \t]$|[ \t]{2}|\t")
_HIDDEN = re.compile(r"=\?[^?\s]+\?[bqBQ]\?[^?\s]*\?=")
_NAME = re.compile(r"[!-9;-~]+")

# What an app may call a charset, and what goes on the wire.
_LABELS = {
    "utf8": "utf-8",
    "ascii": "us-ascii",
    "latin-1": "iso-8859-1",
    "latin1": "iso-8859-1",
    "shift_jis": "iso-2022-jp",
    "shift-jis": "iso-2022-jp",
    "sjis": "iso-2022-jp",
    "euc-jp": "iso-2022-jp",
    "euc_jp": "iso-2022-jp",
}


# Python's codecs that are transformations rather than charsets, and one that marks its beginning.
_NO_CHARSETS = frozenset(
    {"idna", "punycode", "raw-unicode-escape", "unicode-escape", "utf-7", "utf-8-sig", "charmap"},
)


@lru_cache(maxsize=32)
def charset_label(charset: str) -> str:
    """Give the name that a charset has on the wire; raise MessageError for what mail cannot use."""
    try:
        codec = codecs.lookup(charset)
        usable = codec.encode("A")[0] == b"A" and codec.name not in _NO_CHARSETS
    except (LookupError, ValueError, TypeError):
        usable = False
    if not (usable and _NAME.fullmatch(charset) and charset.isascii()):
        raise MessageError("charset must be one that mail can use; leave it out for utf-8")
    label = charset.lower()
    return _LABELS.get(label, label.replace("_", "-"))


def encode(text: str, charset: str) -> tuple[bytes, str]:
    """Encode text, in UTF-8 where the charset lacks a character; give the label that it took."""
    if charset != "utf-8":
        try:
            return text.encode(charset), charset
        except UnicodeEncodeError:
            pass
    return text.encode(), "utf-8"


def field_name(name: object, field: str) -> str:
    """Check a header's name (RFC 5322 section 2.2)."""
    if not (isinstance(name, str) and _NAME.fullmatch(name) and len(name) < _WORD):
        raise BadHeaderError(
            f"{field} has a name that no header can have: it must be printable ASCII"
            f" without spaces and colons, of at most {_WORD} characters",
        )
    return name


def text_field(name: str, text: str, charset: str = "utf-8") -> str:
    """Write unstructured text: as it is where that is safe, else in encoded words."""
    plain = text.isascii() and "=?" not in text and not _ODD_SPACE.search(text)
    if plain and len(name) + 2 + len(text) <= LINE:
        return f"{name}: {text}"
    if plain and (folded := _fold(f"{name}:", f" {text}", LINE)):
        return folded
    return f"{name}:{_fold_words(encoded_words(text, charset, len(name) + 2), len(name) + 1)}"


def token_field(name: str, text: str, field: str) -> str:
    """Write what must never be encoded: URLs, Message-IDs, tokens; folded at its spaces alone."""
    if not text.isascii():
        raise BadHeaderError(f"{field} must be ASCII; percent-encode or drop what is not")
    refuse_hidden_breaks(text, field)
    folded = _fold(f"{name}:", f" {text.strip()}", LONGEST_LINE)
    if folded is None:
        raise BadHeaderError(f"{field} has a word that is too long for a line of a mail")
    return folded


def address_field(name: str, addresses: Iterable[Address], charset: str = "utf-8") -> str:
    """Write a list of mailboxes."""
    line = f"{name}:"
    lines: list[str] = []
    for address in addresses:
        if lines or line[-1] != ":":
            line += ","
        for piece in _mailbox(address, charset, len(line) + 1):
            fits = len(line) + 1 + len(piece) < LINE  # with room for a comma
            if fits or (line[-1] == ":" and len(piece) > LINE - 2):
                line += f" {piece}"
            else:
                lines.append(line)
                line = f" {piece}"
    lines.append(line)
    return "\r\n".join(lines)


def _mailbox(address: Address, charset: str, column: int) -> list[str]:
    """Give the pieces between which a mailbox may be folded."""
    name = address.name
    if not name:
        return [address.addr]
    end = f"<{address.addr}>"
    if name.isascii() and "=?" not in name and not _ODD_SPACE.search(name):
        if _ATOMS.fullmatch(name):
            pieces = name.split(" ")
        else:
            pieces = ['"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"']
        if max(map(len, pieces)) < LINE - 1:
            return [*pieces, end]
    return [*encoded_words(name, charset, column), end]


def encoded_words(text: str, charset: str, column: int) -> list[str]:
    """Encode all of a text (RFC 2047), the first word fitting behind ``column`` where it can.

    B or Q, whichever is shorter; no character is cut in two.
    """
    raw, label = encode(text, charset)
    q_size = 3 * len(raw) - 2 * (len(raw) - len(raw.translate(None, _Q_AS_ONE)))
    kind = "b" if (len(raw) + 2) // 3 * 4 < q_size else "q"
    head = f"=?{label}?{kind}?"
    room = _WORD - len(head) - 2
    size = (len(raw) + 2) // 3 * 4 if kind == "b" else q_size
    if size <= room and column + len(head) + size + 2 <= LINE:
        return [f"{head}{_encoded(raw, kind)}?="]
    first = LINE - column - len(head) - 2
    if first < 12:  # noqa: PLR2004  too little for a character of four octets: begin on a new line
        first = room
    split = _split_utf8 if label == "utf-8" else _split_any
    return [f"{head}{part}?=" for part in split(text, label, kind, min(first, room), room)]


def _split_utf8(text: str, _: str, kind: str, first: int, room: int) -> Iterable[str]:
    """Cut between characters, looking at bytes alone."""
    raw = text.encode()
    at, width = 0, first
    while at < len(raw):
        if kind == "b":
            end = at + width // 4 * 3
        else:
            end, used = at, 0
            while end < len(raw) and (used := used + len(_Q[raw[end]])) <= width:
                end += 1
        if end < len(raw):
            while raw[end] & 0xC0 == 0x80:  # noqa: PLR2004  in the middle of a character
                end -= 1
        yield _encoded(raw[at:end], kind)
        at, width = end, room


def _split_any(text: str, label: str, kind: str, first: int, room: int) -> Iterable[str]:
    """Cut between characters, each part encoded by itself: some charsets keep a state."""
    at, width = 0, first
    while at < len(text):
        end = min(len(text), at + width)
        part = _encoded(text[at:end].encode(label), kind)
        while len(part) > width:
            end -= max(1, (end - at) * (len(part) - width) // len(part) // 2)
            part = _encoded(text[at:end].encode(label), kind)
        yield part
        at, width = end, room


def _encoded(raw: bytes, kind: str) -> str:
    if kind == "b":
        return b2a_base64(raw, newline=False).decode()
    return raw.decode("latin-1").translate(_Q_BY_CHARACTER)


def _fold_words(words: list[str], column: int) -> str:
    """Put encoded words on lines of their own; the first where the field begins, if it fits."""
    start = " " if column + 1 + len(words[0]) <= LINE else "\r\n "
    return start + "\r\n ".join(words)


def _fold(line: str, text: str, longest: int) -> str | None:
    """Fold at spaces to 78; None where a word alone is longer than ``longest``."""
    lines: list[str] = []
    for piece in _PIECES.findall(text):
        if len(line) + len(piece) > LINE and (line[-1] != ":" or lines):
            lines.append(line)
            line = ""
        line += piece
        if len(line) > longest:
            return None
    lines.append(line)
    return "\r\n".join(lines)


def refuse_hidden_breaks(text: str, field: str) -> None:
    """Refuse an encoded word in what is written as it is, if a reader would find a break in it."""
    if "=?" not in text or not _HIDDEN.search(text):
        return
    from email.errors import HeaderParseError  # noqa: PLC0415  hardly a header ever has one
    from email.header import decode_header  # noqa: PLC0415

    try:
        parts = [
            part if isinstance(part, str) else part.decode(charset or "ascii")
            for part, charset in decode_header(text)
        ]
    except (HeaderParseError, LookupError, ValueError):
        parts = ["\0"]
    if any(re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]", part) for part in parts):
        raise BadHeaderError(f"{field} has an encoded word that hides a control character")


def quoted(text: str) -> str:
    """Write a quoted-string (RFC 5322 section 3.2.4)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def parameter(name: str, value: str) -> str:
    """Write a MIME parameter on lines of its own (RFC 2045 section 5.1, RFC 2231)."""
    room = LINE - len(name) - 5
    if value.isascii() and "=?" not in value:  # some readers decode encoded words even in here
        if len(whole := quoted(value)) <= room:
            return f"{name}={whole}"
        room = LINE - len(name) - 10
        parts = [quoted(value[at : at + room // 2]) for at in range(0, len(value), room // 2)]
        star = ""
    else:
        # The label is Flask-Mail's: tests in the wild look for it.
        parts = _percent(value, room - len("*UTF8''"), room - 10)
        parts[0] = f"UTF8''{parts[0]}"
        if len(parts) == 1:
            return f"{name}*={parts[0]}"
        star = "*"
    return ";\r\n ".join(f"{name}*{at}{star}={part}" for at, part in enumerate(parts))


def _percent(value: str, whole: int, room: int) -> list[str]:
    """Percent-encode (RFC 2231 section 7), in parts of at most ``room`` unless all is short."""
    from urllib.parse import quote  # noqa: PLC0415  only for names that are not ASCII

    letters = [quote(char, safe="") for char in value]
    if len(text := "".join(letters)) <= whole:
        return [text]
    parts = [""]
    for letter in letters:
        if len(parts[-1]) + len(letter) > room - 6:
            parts.append("")
        parts[-1] += letter
    return parts
