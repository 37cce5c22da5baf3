"""A scripted HTTP server that says anything at any point, and writes down what it was asked.

::

    with HostileHttp({"whole": [then(take, reset), polite]}) as server:
        ...  # server.home, server.requests, server.accepted

A script maps a point to an act of ``hostile``, or to a list of acts that are used up one by one.
Points without an act get a polite answer. The points are

============  =================================================================
``accept``    a connection was accepted, nothing has been read
``head``      a request's head has been read, its body not
``body``      within its body: ``after(n, act)``
``whole``     the request is whole, nothing has been answered; ``take`` accepts
``answered``  the answer has left
============  =================================================================

``answers`` gives what is said to a request: status, fields, body. A provider that honours
``Idempotency-Key`` is one with ``keys=True``: what it has accepted under a key is no second mail.
"""

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from hostile import BOUND, Act, Gone

Said = tuple[int, Mapping[str, str], bytes]


@dataclass(frozen=True)
class Asked:
    """A whole request."""

    method: str
    path: str
    headers: Mapping[str, str]  # by lower-case name
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def fine(asked: Asked, number: int) -> Said:
    """Answer as all providers at once, with an id of its own for each mail."""
    name = f"ref-{number}"
    said = {"id": name, "MessageID": name, "MessageId": name, "ErrorCode": 0, "Message": "OK"}
    return (
        200,
        {"content-type": "application/json", "x-message-id": name},
        json.dumps(said).encode(),
    )


def say(status: int, said: Any = b"", **fields: str) -> Act:
    """Answer this; what is no bytes is said in JSON."""
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return lambda session: session.send(written(status, named, body))


def written(status: int, fields: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"HTTP/1.1 {status} said", *(f"{name}: {value}" for name, value in fields.items())]
    if "transfer-encoding" not in fields:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1") + body


@dataclass
class HostileHttp:
    """The server; it listens from construction on, and serves inside ``with``."""

    script: Mapping[str, Act | list[Act]] = field(default_factory=dict)
    answers: Callable[[Asked, int], Said] = fine
    keys: bool = False
    tls: ssl.SSLContext | None = None
    receive_buffer: int = 0  # bytes that the kernel takes while we do not read; 0: its default

    def __post_init__(self) -> None:
        self.requests: list[Asked] = []
        self.accepted: list[Asked] = []
        self.connections = 0
        self.over = threading.Event()
        self._by_key: dict[str, int] = {}
        self._changed = threading.Condition()
        self._script = {k: list(v) if isinstance(v, list) else v for k, v in self.script.items()}
        self._sessions: list[tuple[threading.Thread, HttpSession]] = []
        self._listener = socket.socket()
        if self.receive_buffer:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def home(self) -> str:
        """Its base URL."""
        return f"https://localhost:{self.port}" if self.tls else f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for thread, session in self._sessions:
            with contextlib.suppress(OSError):
                session.sock.shutdown(socket.SHUT_RDWR)
            thread.join()

    def wait_until(self, condition: Callable[["HostileHttp"], Any]) -> None:
        """Wait for something that the server sees."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), BOUND)

    def changed(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def act_at(self, point: str) -> Act | None:
        """Find what is to be done there, using it up where it is one of a list."""
        with self._changed:
            found = self._script.get(point)
            if isinstance(found, list):
                return found.pop(0) if found else None
            return found

    def take(self, asked: Asked) -> int:
        """Accept a mail, unless it is a repeat; give its number."""
        key = asked.headers.get("idempotency-key", "") if self.keys else ""
        with self._changed:
            if key not in self._by_key:
                self.accepted.append(asked)
                if not key:
                    return len(self.accepted)
                self._by_key[key] = len(self.accepted)
            return self._by_key[key]

    def _serve(self) -> None:
        while not self.over.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            session = HttpSession(self, sock)
            thread = threading.Thread(target=session.run, daemon=True)
            self._sessions.append((thread, session))
            thread.start()


class HttpSession:
    """One connection; shaped as the acts of ``hostile`` want it."""

    def __init__(self, server: HostileHttp, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.asked = Asked("", "", {}, b"")
        self._buffer = bytearray()
        self._polite: Callable[[], None] = lambda: None

    def send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise Gone from error

    def polite(self) -> None:
        self._polite()

    def fill(self, count: int) -> None:
        """Read until that many bytes stand in the buffer."""
        while len(self._buffer) < count:
            self._more()

    def take(self) -> None:
        """Accept the mail, and do not say so."""
        self.server.take(self.asked)
        self.server.changed()

    def run(self) -> None:
        """Serve it to its end."""
        try:
            self._at("accept")
            if self.server.tls:
                self.sock = self.server.tls.wrap_socket(self.sock, server_side=True)
            while True:
                self._serve_one()
        except (Gone, OSError):
            pass
        finally:
            self.sock.close()

    def _serve_one(self) -> None:
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        self._buffer = bytearray(rest)
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        fields = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        self.asked = Asked(method, path, fields, b"")
        self._at("head")
        self._at("body")
        size = int(fields.get("content-length", "0"))
        self.fill(size)
        self.asked = Asked(method, path, fields, bytes(self._buffer[:size]))
        del self._buffer[:size]
        self.server.requests.append(self.asked)
        self.server.changed()
        self._at("whole", self._answer)
        self._at("answered")

    def _answer(self) -> None:
        number = self.server.take(self.asked)
        self.send(written(*self.server.answers(self.asked, number)))
        self.server.changed()

    def _at(self, point: str, answer: Callable[[], None] = lambda: None) -> None:
        self._polite = answer
        act = self.server.act_at(point)
        if act is None:
            answer()
        else:
            act(self)

    def _more(self) -> None:
        try:
            data = self.sock.recv(65_536)
        except OSError as error:
            raise Gone from error
        if not data:
            raise Gone
        self._buffer += data
