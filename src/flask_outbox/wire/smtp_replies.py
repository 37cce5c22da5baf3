"""What the server says: parsed as it comes, bounded, and counted against what is owed."""

from collections import deque
from functools import lru_cache

from flask_outbox.mail.exchange import SmtpReply

# Everything that a server has said and nobody has taken, whole replies included. Beyond it the
# drivers stop receiving, so that TCP itself tells the server to wait.
MOST_BUFFERED = 65_536
MOST_LINES = 256  # of one reply; EHLO is the longest one, with some twenty lines

# A table instead of int(): int() also reads "²50", "+25" and " 25" (RFC 5321 section 4.2).
_CODES = {str(code).encode(): code for code in range(200, 600)}
_LAST = (b" ", b"")  # what follows the code of a reply's last line
_MORE = b"-"
_SHORT = 64  # bytes of a line that is worth knowing again


class Replies:
    """The server's side of a line: parsed as it comes, bounded, and counted against what is owed.

    What is malformed is an error only once the whole replies before it have been taken: each of
    them may be the last word on a message.
    """

    __slots__ = ("_code", "_held", "_lines", "_size", "_tail", "_whole", "error", "owed")

    def __init__(self) -> None:
        self.error = ""  # what is wrong with what comes after the whole ones
        self.owed = 1  # the greeting
        self._whole: deque[tuple[SmtpReply, int]] = deque()
        self._held = 0  # bytes of the whole ones
        self._tail = bytearray()  # a line that has no end yet
        self._lines: list[str] = []  # of a reply that has no end yet
        self._code = 0
        self._size = 0  # bytes of that reply

    @property
    def room(self) -> int:
        """How many bytes may still be fed; none for what is broken anyway."""
        if self.error:
            return 0
        return MOST_BUFFERED - self._held - self._size - len(self._tail)

    def __len__(self) -> int:
        return len(self._whole)

    def feed(self, data: bytes) -> None:
        """Add what was received: at most ``room`` bytes."""
        tail = self._tail
        if tail or b"\n" not in data:
            tail += data
            if b"\n" not in data:
                return self._cap()
            data = bytes(tail)
            tail.clear()
        *lines, rest = data.split(b"\n")
        tail += rest
        for line in lines:
            if self.error:
                return None
            known = _known(line) if len(line) <= _SHORT and not self._lines else None
            if known is None:
                self._add(line)
            else:
                self._whole.append((known, len(line) + 1))
                self._held += len(line) + 1
        return self._cap() if rest or self._lines else None

    def _cap(self) -> None:
        """Give up on a reply that fills the buffer alone."""
        if self._size + len(self._tail) >= MOST_BUFFERED:
            self._fail("a reply of 64 kB and no end")

    def _add(self, line: bytes) -> None:
        """Take in one line, without its LF."""
        code = _CODES.get(line[:3])
        after = line[3:4] if line[3:4] != b"\r" else b""
        if line[-1:] != b"\r":
            return self._fail("a line that does not end in CRLF")
        if code is None or (after not in _LAST and after != _MORE):
            return self._fail("no code")
        if self._lines and code != self._code:
            return self._fail(f"codes {self._code} and {code} in one reply")
        text = _text(line[4:-1])
        if text is None:
            return self._fail("neither ASCII nor UTF-8")
        size = len(line) + 1
        if after == _MORE:
            self._code = code
            self._size += size
            self._lines.append(text)
            if len(self._lines) >= MOST_LINES:
                self._fail(f"a reply of more than {MOST_LINES} lines")
            return None
        size += self._size
        self._whole.append((SmtpReply(code, (*self._lines, text)), size))
        self._held += size
        if self._lines:
            self._lines.clear()
            self._size = 0
        return None

    def _fail(self, why: str) -> None:
        self.error = f"sent what is no SMTP reply ({why})"
        self._tail.clear()

    def take(self) -> SmtpReply | None:
        """Hand out the oldest whole reply; None: there is none yet."""
        if self._whole:
            reply, size = self._whole.popleft()
            self._held -= size
            if self.owed:
                self.owed -= 1
            return reply
        return None

    def answer_to_latest(self, earlier: int) -> SmtpReply | None:
        """Look at the first reply beyond the ``earlier`` ones, which are owed to older Writes."""
        return self._whole[earlier][0] if len(self._whole) > earlier else None

    @property
    def out_of_turn(self) -> bool:
        """Tell whether the server said more than it was asked."""
        more = len(self._whole) - self.owed
        return more > 0 or (more == 0 and bool(self._tail or self._lines or self.error))

    @property
    def untouched(self) -> bool:
        """Tell whether nothing stands in the buffer, whole or not."""
        return not (self._whole or self._tail or self._lines or self.error)

    @property
    def at_rest(self) -> bool:
        """Tell whether everything asked was answered, and nothing else was said."""
        return not self.owed and self.untouched


@lru_cache(maxsize=256)  # servers say the same few things over and over
def _known(line: bytes) -> SmtpReply | None:
    """Read a reply of a single line; None: it is not as simple as that."""
    if line[3:4] != b" " or line[-1:] != b"\r" or (code := _CODES.get(line[:3])) is None:
        return None
    text = _text(line[4:-1])
    return None if text is None else SmtpReply(code, (text,))


def _text(raw: bytes) -> str | None:
    """Decode the text of a reply line: ASCII, or UTF-8 (RFC 6531); None for anything else."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
