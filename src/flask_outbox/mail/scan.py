"""The out-guard: reads what the serialiser wrote, byte by byte, and knows nothing of how.

Whatever slips past the checks on single fields ends here, before it is stored or sent.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from flask_outbox.mail.errors import BadHeaderError, MessageError

# Every line ends in CRLF and has at most 998 octets before it (RFC 5322 section 2.1.1).
_LINES = re.compile(rb"(?>(?:.{0,999}+(?<=\r)\n)*)")
# A block is fields, each a name and a colon, and the lines that continue it; none of them blank.
_BLOCK = re.compile(rb"(?>(?:[!-9;-~]++:.*+(?>(?:\n[ \t]++[^ \t\r\n].*+)*)(?:\n|\Z))+)")


_SHORT = 128


def guard(content: bytes, intended: Sequence[Sequence[str]], delimiter: bytes) -> None:
    """Raise MessageError unless the content is made of lines, and of the headers intended.

    ``intended`` holds the names of each header block, the message's own first, in lower case;
    ``delimiter`` is how every boundary between our parts begins.
    """
    if content.count(b"\r") != content.count(b"\n") or not _LINES.fullmatch(content):
        raise MessageError("the message was not sealed: a line of it does not end as mail's must")
    if b"\0" in content:
        raise MessageError("the message was not sealed: it has NUL in it")
    at = 0
    last = len(intended) - 1
    for number, names in enumerate(intended):
        end = content.find(b"\r\n\r\n", at)
        if end < 0 or _names_of(content[at:end]) != ":".join(names):
            raise BadHeaderError(
                "the message was not sealed: its headers would be read as others than were meant",
            )
        at = _next_part(content, end, delimiter)
        if (at < 0) is not (number == last):
            raise BadHeaderError(
                "the message was not sealed: its parts would be read as others than were meant",
            )


def _next_part(content: bytes, at: int, delimiter: bytes) -> int:
    """Find where the next part's headers begin; closing delimiters are passed over."""
    while delimiter and (at := content.find(delimiter, at)) >= 0:
        end = content.find(b"\r\n", at + 2)
        if content[end - 2 : end] != b"--":
            return end + 2
        at = end
    return -1


def _names_of(block: bytes) -> str | None:
    # The short blocks of the parts are the same from mail to mail.
    return _remembered(block) if len(block) < _SHORT else _names(block)


def _names(block: bytes) -> str | None:
    """Give the names that a reader would find, parted by colons; None for what is no header."""
    if not _BLOCK.fullmatch(block):
        return None
    lines = block.split(b"\r\n")
    # A space or a TAB sorts before everything that a name may begin with.
    found = [line.partition(b":")[0] for line in lines if line > b"!"]
    return b":".join(found).lower().decode()


_remembered = lru_cache(maxsize=64)(_names)
