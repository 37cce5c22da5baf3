"""What a conversation may ask, and what it may be answered.

A transport's ``send`` is a generator. It yields one of the questions below and receives the
answer named there; a driver in ``wire/`` does what was asked. A line that breaks is thrown into
the generator as ``WireError``, so that the transport itself says what it means.

===============  ====================================================  ================
question         asks the driver to                                    answer
===============  ====================================================  ================
``Open``         connect, or hand out a kept line of the same key      ``Opened``
``StartTls``     make the open line private                            None
``Write``        put these blocks on the wire                          None
``Read``         wait for one whole reply                              ``SmtpReply``
``HttpRequest``  send it and wait for its whole answer                 ``HttpResponse``
``Token``        call the token source                                 str
``Sign``         sign a request to AWS                                 ``HttpRequest``
``Report``       pass a receipt on                                     None
``Keep``         keep the line for the next conversation               None
``Close``        close the line                                        None
===============  ====================================================  ================

Seconds are wall-clock limits for the whole question, however slowly the far side dribbles. The
limit for a whole message is the driver's: it starts at Open and again at each Report.
"""

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, cast

from flask_outbox.mail.submission import NOTHING, Receipt, Submission


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


_verified = Tls()
_BLANK: tuple[Any, ...] = (None, "", [], {})


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """One request, for its whole answer. Redirects are answers like any other.

    ``seconds`` bounds all of it, ``connect`` the way to the first byte; ``tls`` is for https. A
    break is a WireError whose ``sent`` counts bytes of the body alone.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=lambda: NOTHING, repr=False)
    body: bytes = field(default=b"", repr=False)
    method: str = "POST"
    seconds: float = 60.0
    connect: float = 20.0
    tls: Tls = _verified

    def __repr__(self) -> str:
        where = self.url.partition("?")[0]  # what follows may be a key
        return f"HttpRequest({self.method} {where}, {len(self.body)} octets)"

    @classmethod
    def json(
        cls,
        url: str,
        *,
        headers: Mapping[str, str],
        body: Mapping[str, Any],
        extra: Mapping[str, Any] = NOTHING,
    ) -> Self:
        """Say it in JSON, without what is blank; ``extra`` is an app's own, and said as it is."""
        said = json.dumps({**_without_blanks(body), **extra}, separators=(",", ":"))
        kind = {"content-type": "application/json", "accept": "application/json"}
        return cls(url=url, headers={**kind, **headers}, body=said.encode())


def _without_blanks(body: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out None and what is empty, below too; False and 0 say something."""
    said = {name: _said(value) for name, value in body.items()}
    return {name: value for name, value in said.items() if value not in _BLANK}


def _said(value: Any) -> Any:
    match value:
        case Mapping():
            return _without_blanks(cast("Mapping[str, Any]", value))
        case list() | tuple():
            return [_said(each) for each in cast("Sequence[Any]", value)]
        case _:
            return value


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """A final answer: status and header fields are whole, by lower-case name.

    ``body`` ends at 1 MiB, or where the line broke. ``sent_all``: whether the request's body was
    out when this came.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=lambda: NOTHING, repr=False)
    body: bytes = field(default=b"", repr=False)
    sent_all: bool = True

    def __repr__(self) -> str:
        return f"HttpResponse({self.status}, {len(self.body)} octets)"

    def header(self, name: str) -> str:
        """Give a field, or nothing."""
        return self.headers.get(name.lower(), "")

    def at(self, *path: str | int) -> Any:
        """Find what stands there in the JSON of the body; None where there is no such thing."""
        try:
            found: Any = json.loads(self.body)
            for step in path:
                found = found[step]
        except (ValueError, RecursionError, LookupError, TypeError):
            return None
        return found

    def text_at(self, *path: str | int) -> str:
        """Find a text; nothing where there is none."""
        found = self.at(*path)
        return found if isinstance(found, str) else ""

    def number_at(self, *path: str | int) -> int | None:
        """Find a whole number; None where there is none."""
        found = self.at(*path)
        return found if isinstance(found, int) else None


@dataclass(frozen=True, slots=True)
class Token:
    """Ask a token source; it may block. ``refused``: the token that a server would not have.

    A source that keeps its tokens has ``renew(refused)``, which gives another than that.
    """

    source: Callable[[], str] = field(repr=False)
    refused: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """Sign a request to AWS (Signature Version 4); to find credentials may block.

    ``account`` is a key's id and its secret; None: what the machine has.
    """

    request: HttpRequest
    service: str
    region: str
    account: tuple[str, str] | None = field(default=None, repr=False)


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


Question = Open | StartTls | Write | Read | HttpRequest | Token | Sign | Report | Keep | Close
Answer = Any  # by question, as in the table above
Conversation = Generator[Question, Answer, None]
