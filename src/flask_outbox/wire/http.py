"""HTTP/1.1 over a line (RFC 9110, RFC 9112): one request, its answer, and the line rests.

h11 knows the protocol. The socket, its privacy, its limits and the count of what the kernel took
are the line's, as for SMTP, so what a break means is known to the byte. Nothing is repeated but on
a kept line that was gone before we wrote; redirects, cookies, proxies and compressed answers are
nobody's wish here.
"""

from dataclasses import replace
from urllib.parse import urlsplit

import h11

from flask_outbox.mail.errors import WireError
from flask_outbox.mail.exchange import HttpRequest, HttpResponse, Open, Write
from flask_outbox.version import __version__

MOST_HEAD = 65_536  # octets of status line and header
MOST_BODY = 1 << 20  # octets that are kept of a body; the rest is left unread
MOST_EARLY = 32  # answers that are not final (1xx): each may follow the one before without a wait
ROOM = 65_536
_PORTS = {"http": 80, "https": 443}


class Answers:
    """The far side of an HTTP line, for the line to feed: its answers, one at a time.

    Once status and header are whole, what happens to the body changes nothing that is decided by
    them: then ``cut`` is the answer.
    """

    __slots__ = ("_body", "_early", "_ended", "_head", "_http", "_size", "error", "owed")

    def __init__(self) -> None:
        self.error = ""  # what is wrong with what came
        self.owed = 0
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEAD)
        self._begin()

    def _begin(self) -> None:
        self._head: h11.Response | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._early = 0
        self._ended = False

    def say(self, request: HttpRequest) -> bytes:
        """Give the head of a request as it goes out; its body follows as it is."""
        parts = urlsplit(request.url)
        target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        fields = {
            "host": parts.netloc.rpartition("@")[2],
            "user-agent": f"flask-outbox/{__version__}",
            "accept-encoding": "identity",
            **{name.lower(): value for name, value in request.headers.items()},
            "content-length": str(len(request.body)),
        }
        try:
            head = h11.Request(method=request.method, target=target, headers=list(fields.items()))
            said = self._http.send(head)
            self._http.send(h11.Data(data=request.body))
            self._http.send(h11.EndOfMessage())
        except (h11.LocalProtocolError, UnicodeError):  # whose texts quote it
            raise WireError("the URL or a header of the request cannot be sent") from None
        return said or b""

    # --- as a line sees it ---

    @property
    def room(self) -> int:
        """How many bytes may still be fed; none for what is broken anyway."""
        return 0 if self.error else ROOM

    def __len__(self) -> int:
        return int(self._ended)

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        if self._ended or not self.owed:
            self.error = self.error or "spoke out of turn"
            return
        try:
            self._http.receive_data(data)
            while not self._ended and self._heard(self._http.next_event()):
                pass
        except h11.RemoteProtocolError:
            self.error = "sent what is no HTTP answer"

    def _heard(self, event: object) -> bool:
        """Take in one event; tell whether another may follow."""
        match event:
            case h11.InformationalResponse():
                self._early += 1
                if self._early > MOST_EARLY:
                    self.error = "never came to a final answer"
                return not self.error
            case h11.Response():
                self._head = event
                return True
            case h11.Data():
                self._body.append(bytes(event.data))
                self._size += len(event.data)
                self._ended = self._size >= MOST_BODY
                return True
            case h11.EndOfMessage():
                self._ended = True
                return False
            case _:
                return False

    def take(self) -> HttpResponse | None:
        """Hand out the answer, once it is whole, and be ready for the next one."""
        return self.cut() if self._ended else None

    def cut(self) -> HttpResponse | None:
        """Hand out what has come of an answer, if its status and header have."""
        head = self._head
        if head is None:
            return None
        fields: dict[str, str] = {}
        for raw, value in head.headers:
            name = raw.decode("latin-1")
            said = value.decode("latin-1")
            fields[name] = f"{fields[name]}, {said}" if name in fields else said
        body = b"".join(self._body)[:MOST_BODY]
        self._rest()
        return HttpResponse(status=head.status_code, headers=fields, body=body)

    def _rest(self) -> None:
        done = (self._http.our_state, self._http.their_state) == (h11.DONE, h11.DONE)
        if done and not self.error:
            self._http.start_next_cycle()
            self.owed = 0
        else:
            self.error = self.error or "has no more to say"
        self._begin()

    def answer_to_latest(self, earlier: int) -> None:
        """Say nothing: whoever has a request under way asks for the answer itself."""

    @property
    def out_of_turn(self) -> bool:
        """Tell whether the far side said what nobody asked for."""
        return bool(self.error)

    @property
    def untouched(self) -> bool:
        """Tell whether nothing has come since the last answer."""
        return not (self.error or self._head or self._http.trailing_data[0])

    @property
    def at_rest(self) -> bool:
        """Tell whether the line is fit for another request."""
        return not self.owed and self.untouched


class Exchange:
    """One request on its way: what the two drivers do with it, but for waiting."""

    def __init__(self, request: HttpRequest) -> None:
        parts = urlsplit(request.url)
        tls = request.tls if parts.scheme == "https" else None
        self.opening = Open(
            parts.hostname or "",
            parts.port or _PORTS[parts.scheme],
            request.connect,
            tls,
            "an HTTP line",  # never one of SMTP's
        )
        self._request = request
        self._head = 0

    def write(self, answers: Answers) -> Write:
        """Say it."""
        head = answers.say(self._request)
        self._head = len(head)
        return Write((head, self._request.body), self._request.seconds)

    def broken(self, answers: Answers, error: WireError) -> HttpResponse:
        """Give what was answered before the line broke, else raise what the break was."""
        sent = max(0, error.sent - self._head)
        answer = answers.cut()
        if answer is None:
            raise WireError(str(error), sent=sent) from error
        return replace(answer, sent_all=sent >= len(self._request.body))
