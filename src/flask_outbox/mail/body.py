"""Bodies and parts as they are written: transfer encodings, seven bits wide, lines ended by CRLF.

ASCII text stays readable. Other text becomes quoted-printable or base64, whichever is shorter.
Attachments are base64, byte for byte; a message inside the message is left as it is.
"""

import re
import unicodedata
from binascii import b2a_base64, b2a_qp
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from flask_outbox.mail.address import refuse_control_characters
from flask_outbox.mail.errors import BadHeaderError, MessageError
from flask_outbox.mail.files import BLOCK, FilePath
from flask_outbox.mail.headers import (
    LONGEST_LINE,
    encode,
    field_name,
    parameter,
    refuse_hidden_breaks,
    text_field,
    token_field,
)
from flask_outbox.mail.message import Attachment

_B64_LINE = 76
_B64_RAW = 57  # octets that one such line holds
_WORD = r"[!#$%&'*+\-.^_`{|}~a-zA-Z0-9]+"
_TYPE = re.compile(rf"({_WORD})/({_WORD})((?:\s*;\s*{_WORD}=(?:{_WORD}|\"[^\"\\]*\"))*)\s*;?")
_PARAM = re.compile(rf";\s*({_WORD}=(?:{_WORD}|\"[^\"\\]*\"))")
_LONGEST_TYPE = 400  # nothing registered comes near it, and a line could hold any of its parameters
_LONGEST_WORD = 64
_DISPOSITION = re.compile(_WORD)
_BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SPACES = re.compile(r"\s+")


@dataclass(slots=True)
class Part:
    """A body part: its header fields, one string each, and its content in blocks."""

    head: str = field(repr=False)
    names: list[str]
    blocks: Iterable[bytes] = field(default=(), repr=False)
    parts: Sequence["Part"] = ()
    boundary: str = ""
    verbatim: bytes = field(default=b"", repr=False)  # content that could hold a boundary
    eight_bit: bool = False  # a message inside, which is left as it is, takes 8BITMIME


_TEXT_NAMES = ["content-type", "content-transfer-encoding"]


def text_part(text: str, subtype: str, charset: str, params: str = "") -> Part:
    """Write text, its line ends made CRLF."""
    data, label = encode(text, charset)
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    coding, block = _transfer(data)
    return Part(
        f'Content-Type: text/{subtype}; charset="{label}"{params}\r\n'
        f"Content-Transfer-Encoding: {coding}",
        _TEXT_NAMES,
        (block,),
        verbatim=block if coding == "7bit" else b"",
    )


def _transfer(data: bytes) -> tuple[str, bytes]:
    """Choose the transfer encoding of text whose lines end in LF."""
    if data.isascii() and b"\0" not in data and _short_lines(data):
        return "7bit", data.replace(b"\n", b"\r\n")
    qp = quoted_printable(data)
    if len(qp) > len(data) * 1.3:  # base64 takes 1.37 with its line ends
        base64 = b"".join(base64_blocks([data.replace(b"\n", b"\r\n")]))
        if len(base64) < len(qp) + qp.count(b"\n"):
            return "base64", base64
    return "quoted-printable", qp.replace(b"\n", b"\r\n")


def _short_lines(data: bytes) -> bool:
    """Hop to the last line end within reach; where there is none, a line is too long."""
    at, size = 0, len(data)
    while at + LONGEST_LINE < size:
        at = data.rfind(b"\n", at, at + LONGEST_LINE + 1) + 1
        if not at:
            return False
    return True


def quoted_printable(data: bytes) -> bytes:
    """Encode (RFC 2045 section 6.7); line ends go in and come out as LF."""
    encoded = b2a_qp(data)
    if b"=20\n" not in encoded and (b"\t" not in data or b"=09\n" not in encoded):
        return encoded
    # b2a_qp lets a line grow beyond 76 when it encodes the space at its end.
    return b"\n".join(map(_qp_line, data.split(b"\n")))


def _qp_line(line: bytes) -> bytes:
    if line[-1:] not in (b" ", b"\t"):
        return b2a_qp(line)
    start = b2a_qp(line[:-1] + b"x")[:-1]
    last = start.rpartition(b"\n")[2]
    soft = b"=\n" if len(last) + 3 > _B64_LINE else b""
    return start + soft + b"=%02X" % line[-1]


def base64_blocks(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Encode a stream, whatever the sizes of its blocks, in lines of 76."""
    kept = b""
    between = b""
    for block in blocks:
        data = kept + block if kept else block
        whole = len(data) - len(data) % _B64_RAW
        for at in range(0, whole, BLOCK):
            yield between + _base64_lines(data[at : min(at + BLOCK, whole)])
            between = b"\r\n"
        kept = bytes(data[whole:])
    if kept:
        yield between + _base64_lines(kept)


def _base64_lines(data: bytes) -> bytes:
    text = b2a_base64(data, newline=False)
    return b"\r\n".join([text[at : at + _B64_LINE] for at in range(0, len(text), _B64_LINE)])


def multipart(kind: str, parts: Sequence[Part], boundary: str) -> Part:
    """Wrap parts; what holds a part of eight bits has to say so too (RFC 2045 section 6.4)."""
    head, names = f'Content-Type: multipart/{kind};\r\n boundary="{boundary}"', ["content-type"]
    eight_bit = any([part.eight_bit for part in parts])  # noqa: C419  faster for a few
    if eight_bit:
        head += "\r\nContent-Transfer-Encoding: 8bit"
        names = _TEXT_NAMES
    return Part(
        head,
        names,
        parts=parts,
        boundary=boundary,
        eight_bit=eight_bit,
    )


def attachment_part(
    attachment: Attachment,
    roots: Sequence[str],
    *,
    ascii_names: bool = False,
) -> Part:
    """Write an attachment: its type, its name, its own headers, its bytes."""
    maintype, subtype, params = _content_type(attachment)
    data = attachment.data
    if isinstance(data, str) and maintype == "text" and "charset" not in params:
        params += '; charset="utf-8"'
    head = {"content-type": _fold_type(f"Content-Type: {maintype}/{subtype}", params)}
    if (maintype, subtype) == ("message", "rfc822"):
        block = _message_inside(data, roots)
        coding = "7bit" if block.isascii() else "8bit"
        blocks: Iterable[bytes] = (block,)
    else:
        block, coding = b"", "base64"
        blocks = base64_blocks(_bytes_of(data, roots))
    head["content-transfer-encoding"] = f"Content-Transfer-Encoding: {coding}"
    head["content-disposition"] = _disposition(attachment, ascii_names=ascii_names)
    if attachment.cid:
        cid = refuse_control_characters(attachment.cid, "attachments: cid").strip("<>")
        if not re.fullmatch(r"[!-;=?-~]+", cid):
            raise BadHeaderError("attachments: cid must be printable ASCII without spaces and <>")
        head["content-id"] = token_field("Content-ID", f"<{cid}>", "attachments: cid")
    for given, value in (attachment.headers or {}).items():
        name = field_name(given, "attachments: headers")
        head[name.lower()] = _own_header(name, value)
    return Part(
        "\r\n".join(head.values()),
        list(head),
        blocks,
        verbatim=block,
        eight_bit=not block.isascii(),
    )


def _own_header(name: str, value: str) -> str:
    where = f"attachments: headers[{name}]"
    if name.lower() in {"content-type", "content-transfer-encoding"}:
        raise BadHeaderError(f"{where} is written by us; set content_type instead")
    text = refuse_control_characters(str(value), where)
    if text.isascii():
        return token_field(name, text, where)
    return text_field(name, text)


def _content_type(attachment: Attachment) -> tuple[str, str, str]:
    text = refuse_control_characters(str(attachment.content_type), "attachments: content_type")
    found = _TYPE.fullmatch(text) if len(text) <= _LONGEST_TYPE else None
    if not found:
        raise BadHeaderError("attachments: content_type must look like text/csv")
    refuse_hidden_breaks(text, "attachments: content_type")
    maintype, subtype, params = found.groups()
    if maintype.lower() == "multipart":
        raise MessageError("attachments: content_type cannot be multipart; attach its parts")
    return maintype.lower(), subtype.lower(), params


def _fold_type(head: str, params: str) -> str:
    return head + "".join(f";\r\n {each}" for each in _PARAM.findall(params))


def _disposition(attachment: Attachment, *, ascii_names: bool) -> str:
    kind = refuse_control_characters(attachment.disposition, "attachments: disposition")
    if len(kind) > _LONGEST_WORD or not _DISPOSITION.fullmatch(kind):
        raise BadHeaderError("attachments: disposition must be attachment or inline")
    head = f"Content-Disposition: {kind}"
    if attachment.filename is None:
        return head
    param = parameter("filename", safe_filename(attachment.filename, ascii_only=ascii_names))
    if "\r\n" not in param and len(head) + 2 + len(param) <= _B64_LINE:
        return f"{head}; {param}"
    return f"{head};\r\n {param}"


def safe_filename(name: str, *, ascii_only: bool = False) -> str:
    """Keep the last component, without what changes the direction of reading."""
    refuse_control_characters(name, "attachments: filename")
    base = _BIDI.sub("", name).replace("\\", "/").rpartition("/")[2]
    if ascii_only:
        base = unicodedata.normalize("NFKD", base).encode("ascii", "ignore").decode()
        base = _SPACES.sub(" ", base).strip()
    base = base.strip()
    if base.strip(" .") == "":
        raise MessageError("attachments: filename has no name in it, only a folder or dots")
    return base


def _bytes_of(data: object, roots: Sequence[str]) -> Iterable[bytes]:
    if isinstance(data, FilePath):
        return data.blocks(roots)
    if isinstance(data, str):
        try:
            return (data.encode(),)
        except UnicodeEncodeError:
            raise MessageError(
                "attachments: data has a lone surrogate, which UTF-8 cannot write; attach bytes",
            ) from None
    if isinstance(data, (bytes, bytearray)):
        return (bytes(data),)
    if isinstance(data, Iterable):
        return _checked(data)  # pyright: ignore[reportUnknownArgumentType]
    raise MessageError("attachments: data must be bytes, str, or blocks of bytes")


def _checked(blocks: Iterable[object]) -> Iterator[bytes]:
    for block in blocks:
        if not isinstance(block, bytes):
            raise MessageError("attachments: data must give blocks of bytes")
        yield block


def _message_inside(data: object, roots: Sequence[str]) -> bytes:
    content = b"".join(_bytes_of(data, roots))
    if b"\0" in content:
        raise MessageError("attachments has a message with NUL in it; attach it as another type")
    content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if not _short_lines(content):
        raise MessageError(
            "attachments has a message with lines of more than 998 octets;"
            " attach it as application/octet-stream",
        )
    return content.replace(b"\n", b"\r\n")
