"""The out-guard: reads what the serialiser wrote, byte by byte, and knows nothing of how.

Whatever slips past the checks on single fields ends here, before it is stored or sent.
"""

import re
from collections.abc import Sequence

from flask_outbox.mail.errors import BadHeaderError, MessageError

# Every line ends in CRLF and has at most 998 octets before it (RFC 5322 section 2.1.1).
_LINES = re.compile(rb"(?:.{0,999}+(?<=\r)\n)*+")
_NAME = re.compile(rb"[!-9;-~]++(?=:)")


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
        if end < 0 or _names(content[at:end]) != list(names):
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


def _names(block: bytes) -> list[str]:
    names: list[str] = []
    for line in block.split(b"\r\n"):
        if line[:1] in (b" ", b"\t"):
            if not names or not line.strip():
                return ["?"]
        elif name := _NAME.match(line):
            names.append(name[0].decode().lower())
        else:
            return ["?"]
    return names
