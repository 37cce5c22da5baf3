"""``outline()``: what a sealed mail is made of, at a glance.

For questions that do not need the parts themselves, such as whether a provider could carry them:
``unseal`` takes a hundred times as long. Reads what ``seal()`` wrote, as ``unseal`` does.
"""

import re
from binascii import a2b_base64, a2b_qp
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_FIELD = re.compile(r"^([!-9;-~]+):[ \t]*(.*(?:\n[ \t].*)*)", re.MULTILINE)
_BOUNDARY = re.compile(r'multipart/.*; *boundary="(=_[0-9a-f]+_)\d"')
_CHARSET = re.compile(r'charset="?([^";\s]+)', re.IGNORECASE)
_DECODE: dict[str, Callable[[bytes], bytes]] = {"base64": a2b_base64, "quoted-printable": a2b_qp}
# What an attachment has that is no header of its own.
USUAL = frozenset(
    {"content-type", "content-transfer-encoding", "content-disposition", "content-id"}
)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A part that has no parts: its header fields by lower-case name, and its size as written."""

    fields: dict[str, str] = field(repr=False)
    content: bytes = field(repr=False)  # as it is written: still encoded

    @property
    def kind(self) -> str:
        """Its media type."""
        return self.fields.get("content-type", "text/plain").partition(";")[0].strip().lower()

    @property
    def is_text(self) -> bool:
        """Whether it is a body of the mail, and not attached."""
        return "content-disposition" not in self.fields and self.kind.startswith("text/")

    @property
    def text(self) -> str:
        """Decode it."""
        coding = self.fields.get("content-transfer-encoding", "7bit")
        raw = _DECODE[coding](self.content) if coding in _DECODE else self.content
        charset = _CHARSET.search(self.fields.get("content-type", ""))
        return raw.decode(charset[1] if charset else "utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Outline:
    """A mail's header fields by lower-case name, as they are written, and its parts in order."""

    fields: dict[str, str] = field(repr=False)
    leaves: tuple[Leaf, ...]
    names: tuple[str, ...] = ()  # of the fields, as they are written

    @property
    def author(self) -> str:
        """The address in From."""
        value = self.fields.get("from", "")
        return value.rpartition("<")[2].removesuffix(">")

    @property
    def texts(self) -> dict[str, Leaf]:
        """Its bodies, by subtype."""
        return {each.kind.partition("/")[2]: each for each in self.leaves if each.is_text}

    @property
    def attachments(self) -> list[Leaf]:
        """What is not a body."""
        return [each for each in self.leaves if not each.is_text]


def outline(content: bytes) -> Outline:
    """Look over sealed bytes."""
    end = content.find(b"\r\n\r\n")
    pairs = _pairs(content[:end])
    fields = _by_name(pairs)
    boundary = _BOUNDARY.match(fields.get("content-type", ""))
    if boundary is None:
        leaves = [Leaf(fields, content[end + 4 :])]
    else:
        leaves = list(_leaves(content, end, f"\r\n--{boundary[1]}".encode()))
    return Outline(fields, tuple(leaves), tuple(name for name, _ in pairs))


def author(content: bytes) -> str:
    """Read whom From names, and nothing else."""
    return Outline(_by_name(_pairs(content[: content.find(b"\r\n\r\n")])), ()).author


def _leaves(content: bytes, at: int, delimiter: bytes) -> Iterator[Leaf]:
    """Walk from one delimiter to the next; all of a mail's begin alike."""
    at = content.find(delimiter, at)
    while at >= 0:
        start = content.find(b"\r\n", at + 2) + 2
        after = content.find(delimiter, start - 2)
        if content[start - 4 : start - 2] != b"--":
            end = content.find(b"\r\n\r\n", start)
            fields = _by_name(_pairs(content[start:end]))
            if not fields.get("content-type", "").startswith("multipart/"):
                yield Leaf(fields, content[end + 4 : after])
        at = after


def _pairs(block: bytes) -> list[tuple[str, str]]:
    text = block.replace(b"\r\n", b"\n").decode("utf-8", "replace")
    return [(name, value.replace("\n", "")) for name, value in _FIELD.findall(text)]


def _by_name(pairs: list[tuple[str, str]]) -> dict[str, str]:
    return {name.lower(): value for name, value in pairs}
