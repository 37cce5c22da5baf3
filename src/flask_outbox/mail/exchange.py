"""What a conversation may ask, and what it may be answered.

A transport's ``send`` is a generator. It yields one of the questions below and receives the
answer named there; a driver in ``wire/`` does what was asked. A line that breaks is thrown into
the generator as ``WireError``, so that the transport itself says what it means.

=============  ======================================================  ==================
question       asks the driver to                                      answer
=============  ======================================================  ==================
``Open``       connect, or hand out a kept line of the same key        ``Opened``
``StartTls``   make the open line private                              None
``Write``      put these blocks on the wire                            None
``Read``       wait for one whole reply                                ``SmtpReply``
``Token``      call the token source                                   str
``Report``     pass a receipt on                                       None
``Keep``       keep the line for the next conversation                 None
``Close``      close the line                                          None
=============  ======================================================  ==================

Seconds are wall-clock limits for the whole question, however slowly the far side dribbles. The
limit for a whole message is the driver's: it starts at Open and again at each Report.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from flask_outbox.mail.submission import Receipt, Submission


@dataclass(frozen=True, slots=True)
class Tls:
    """How a line is to be made private; verified unless it says otherwise."""

    verify: bool = True
    ca_file: str | None = None  # trust these authorities instead of the system's
    cert_file: str | None = None  # the client's own certificate
    key_file: str | None = None
    fingerprint: str | None = None  # SHA-256 of the server's certificate, hex: trust exactly this


@dataclass(frozen=True, slots=True)
class Open:
    """Connect; ``tls`` here means from the first byte. Equal ones may share kept lines."""

    host: str
    port: int
    seconds: float
    tls: Tls | None = None
    account: str = ""  # who logs in: a line is never handed to somebody else


@dataclass(frozen=True, slots=True)
class Opened:
    """The line. ``session`` is what Keep left with it: None on a fresh one."""

    session: Any  # the transport's own, opaque to the driver
    local_ip: str


@dataclass(frozen=True, slots=True)
class StartTls:
    """Shake hands; whatever stands unread in the buffer aborts (CVE-2011-0411)."""

    tls: Tls
    host: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Write:
    """Put the blocks on the wire as one; ``replies``: how many replies they will draw.

    What the server says when no reply is owed is unsolicited, and breaks the line.
    """

    blocks: Sequence[bytes]
    seconds: float
    replies: int = 1

    def __repr__(self) -> str:
        size = sum(map(len, self.blocks))
        return f"Write({size} octets, seconds={self.seconds}, replies={self.replies})"


@dataclass(frozen=True, slots=True)
class Read:
    """Wait for one whole reply, all its lines."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Token:
    """Ask a token source; it may block."""

    source: Callable[[], str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one submission, said as soon as it is known."""

    submission: Submission
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Keep:
    """The line is at rest: keep it, with what the transport knows of it."""

    session: Any  # opaque to the driver


@dataclass(frozen=True, slots=True)
class Close:
    """The line is of no more use."""


@dataclass(frozen=True, slots=True)
class SmtpReply:
    """One reply (RFC 5321 section 4.2): its code and the text of its lines."""

    code: int
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.code} {' '.join(self.lines)}".rstrip()


Question = Open | StartTls | Write | Read | Token | Report | Keep | Close
Answer = Any  # by question, as in the table above
Conversation = Generator[Question, Answer, None]
