"""A scripted SMTP server that says anything at any point, and writes down what it accepted.

::

    with Hostile({"RCPT": [say(b"250 ok"), say(b"550 no")], "dot": reset}) as server:
        ...  # server.port, server.accepted, server.heard

A script maps a point of the dialogue to an act, or to a list of acts that are used up one by one,
over all connections. Points without an act get a polite answer. The points are the verbs (EHLO,
HELO, STARTTLS, AUTH, MAIL, RCPT, DATA, BDAT, RSET, NOOP, QUIT, and ``?`` for any other line) and

============  ==================================================================
``greet``     a connection was accepted, nothing has been said
``body``      within a message's content: ``after(n, act)``; 0 bytes: after the 354
``dot``       the content is whole, nothing has been answered; ``take`` writes it down
``answered``  the answer to the content has left
============  ==================================================================
"""

import base64
import contextlib
import os
import re
import signal
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

Act = Callable[["Session"], None]
Script = Mapping[str, Act | list[Act]]

EXTENSIONS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "SIZE 50000000")
STRICT = re.compile(rb"(?:\A|\r\n)\.\r\n")
LENIENT = re.compile(rb"(?:\A|\r\n|\n|\r)\.(?:\r\n|\n|\r)")  # what careless servers end at
BOUND = 10.0  # seconds after which a wait of a test has failed


class Gone(Exception):  # noqa: N818  says what happened
    """The far side left, or the session is over."""


# --- acts ---


def say(data: bytes) -> Act:
    """Say this instead of the polite answer; a missing line end is added, once."""
    return lambda session: session.send(data if data.endswith(b"\n") else data + b"\r\n")


def raw(data: bytes) -> Act:
    """Say exactly this instead of the polite answer."""
    return lambda session: session.send(data)


def polite(session: "Session") -> None:
    """Do what a good server does."""
    session.polite()


def reset(session: "Session") -> None:
    """Break the connection with RST."""
    session.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise Gone


def hang_up(session: "Session") -> None:
    """End the connection with FIN; nothing unread is left, so that it is no RST."""
    session.sock.shutdown(socket.SHUT_WR)
    with contextlib.suppress(OSError):
        session.sock.settimeout(BOUND)
        while session.sock.recv(65_536):
            pass
    raise Gone


def take(session: "Session") -> None:
    """For ``dot``: write the message down as accepted, and do not say so."""
    session.take()


def stall(session: "Session") -> None:
    """Neither read nor say anything more."""
    session.server.over.wait()
    raise Gone


def dribble(data: bytes, every: float = 1.0) -> Act:
    """Say it one byte at a time."""

    def act(session: Session) -> None:
        for byte in data:
            session.send(bytes([byte]))
            if session.server.over.wait(every):
                raise Gone

    return act


def flood(data: bytes) -> Act:
    """Say it again and again."""

    def act(session: Session) -> None:
        while not session.server.over.is_set():
            session.send(data)

    return act


def kill(pid: int | Callable[[], int], signum: int = signal.SIGKILL) -> Act:
    """Kill that process, then go on politely."""

    def act(session: Session) -> None:
        os.kill(pid() if callable(pid) else pid, signum)
        session.polite()

    return act


def later(seconds: float, act: Act = polite) -> Act:
    """Take that long."""

    def slow(session: Session) -> None:
        if session.server.over.wait(seconds):
            raise Gone
        act(session)

    return slow


def then(*acts: Act) -> Act:
    """Do one after the other."""

    def act(session: Session) -> None:
        for each in acts:
            each(session)

    return act


def after(count: int, act: Act) -> Act:
    """For ``body``: do it once that many bytes of content have come."""

    def late(session: Session) -> None:
        session.fill(count)
        act(session)

    return late


# --- the server ---


@dataclass(frozen=True)
class Mail:
    """What was accepted."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    message_id: str


@dataclass
class Hostile:
    """The server; it listens from construction on, and serves inside ``with``."""

    script: Script = field(default_factory=dict)
    extensions: Sequence[str] = EXTENSIONS
    lenient: bool = False
    tls: ssl.SSLContext | None = None  # offers STARTTLS
    implicit: bool = False  # TLS from the first byte
    auth: str = ""  # mechanisms that EHLO names, such as "PLAIN LOGIN"
    careless: bool = False  # takes content that is for nobody, after MAIL
    receive_buffer: int = 0  # bytes that the kernel takes while we do not read; 0: its default

    def __post_init__(self) -> None:
        self.accepted: list[Mail] = []
        self.heard: list[bytes] = []  # command lines, without their ends
        self.logins: list[tuple[str, list[bytes]]] = []  # mechanism, what the client said
        self.connections = 0
        self.over = threading.Event()
        self._changed = threading.Condition()
        self._script = {k: list(v) if isinstance(v, list) else v for k, v in self.script.items()}
        self._sessions: list[tuple[threading.Thread, Session]] = []
        self._listener = socket.socket()
        if self.receive_buffer:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(256)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

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

    @property
    def message_ids(self) -> list[str]:
        """Every acceptance, repeats included."""
        return [mail.message_id for mail in self.accepted]

    def verbs(self) -> list[str]:
        """What was asked, in order."""
        return [line.split(b" ")[0].decode("latin-1").upper() for line in self.heard]

    def wait_until(self, condition: Callable[["Hostile"], Any], seconds: float = BOUND) -> None:
        """Wait for something that the server sees; an AssertionError once the time is up."""
        with self._changed:
            happened = self._changed.wait_for(lambda: condition(self), seconds)
        assert happened, f"not within {seconds} s; heard {self.heard}"

    def changed(self) -> None:
        """Wake who waits."""
        with self._changed:
            self._changed.notify_all()

    def act_at(self, point: str) -> Act:
        """Find what is to be done there, using it up where it is one of a list."""
        with self._changed:
            found = self._script.get(point, polite)
            if isinstance(found, list):
                return found.pop(0) if found else polite
            return found

    def _serve(self) -> None:
        while not self.over.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            session = Session(self, sock)
            thread = threading.Thread(target=session.run, daemon=True)
            self._sessions.append((thread, session))
            thread.start()
            self.changed()


class Session:
    """One connection."""

    def __init__(self, server: Hostile, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.line = b""  # the command that is being answered
        self.secure = server.implicit
        self._said = b""  # in answer to that command
        self._buffer = bytearray()
        self._polite: Callable[[], None] = self._greet
        self._sender, self._recipients, self._begun = "", list[str](), False
        self._content = bytearray()
        self._mail = Mail("", (), b"", "")

    # --- bytes ---

    def send(self, data: bytes) -> None:
        """Say exactly this."""
        self._said = self._said or data
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise Gone from error

    def fill(self, count: int) -> None:
        """Read until that many bytes stand in the buffer."""
        while len(self._buffer) < count:
            self._more()

    def _more(self) -> None:
        try:
            data = self.sock.recv(65_536)
        except OSError as error:
            raise Gone from error
        if not data:
            raise Gone
        self._buffer += data

    def _take(self, count: int) -> bytes:
        self.fill(count)
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def _take_line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            self._more()
        return self._take(end + 1).rstrip(b"\r\n")

    def _take_content(self) -> bytes:
        ends = LENIENT if self.server.lenient else STRICT
        start = 0
        while not (end := ends.search(self._buffer, start)):
            start = max(0, len(self._buffer) - 4) if len(self._buffer) > 4 else 0
            self._more()
        content = bytes(self._buffer[: end.start()])
        content += b"\r\n" if end.start() else b""
        del self._buffer[: end.end()]
        return re.sub(rb"(\A|\r\n)\.", rb"\1", content)

    # --- dialogue ---

    def run(self) -> None:
        """Serve it to its end."""
        try:
            if self.server.implicit:
                self.shake()
            self._at("greet", self._greet)
            while True:
                self.line = self._take_line()
                self.server.heard.append(self.line)
                self.server.changed()
                verb = self.line.split(b" ")[0].decode("latin-1").upper()
                if verb == "BDAT":  # its content follows, whatever the answer will be
                    self._take_chunk()
                answer = getattr(self, f"_answer_{verb.lower()}", None)
                self._said = b""
                self._at(verb if answer else "?", answer or self._unknown)
                if verb == "RCPT" and self._said.startswith(b"2"):
                    self._recipients.append(_path(self.line))
        except (Gone, OSError):
            pass
        finally:
            self.sock.close()

    def _at(self, point: str, answer: Callable[[], None]) -> None:
        self._polite = answer
        self.server.act_at(point)(self)

    def polite(self) -> None:
        """Give the answer that a good server gives here."""
        self._polite()

    def shake(self) -> None:
        """Shake hands as a server."""
        assert self.server.tls is not None
        try:
            self.sock = self.server.tls.wrap_socket(self.sock, server_side=True)
        except OSError as error:
            raise Gone from error
        self.secure = True

    def _greet(self) -> None:
        self.send(b"220 hostile.test ESMTP\r\n")

    def _answer_ehlo(self) -> None:
        words = ["hostile.test", *self.server.extensions]
        if self.server.tls and not self.secure:
            words.append("STARTTLS")
        if self.server.auth:
            words.append(f"AUTH {self.server.auth}")
        lines = [f"250-{word}\r\n" for word in words]
        lines[-1] = lines[-1].replace("250-", "250 ", 1)
        self.send("".join(lines).encode())

    def _answer_helo(self) -> None:
        self.send(b"250 hostile.test\r\n")

    def _answer_starttls(self) -> None:
        self.send(b"220 2.0.0 go ahead\r\n")
        self.shake()

    def _answer_auth(self) -> None:
        mechanism, *initial = self.line.split(b" ")[1:]
        said = [base64.b64decode(text) for text in initial]
        asks = {b"PLAIN": [b""], b"LOGIN": [b"Username:", b"Password:"], b"XOAUTH2": [b""]}
        for ask in asks.get(mechanism, [b"<1.2@hostile.test>"])[len(said) :]:
            self.send(b"334 " + base64.b64encode(ask) + b"\r\n")
            said.append(base64.b64decode(self._take_line()))
        self.server.logins.append((mechanism.decode(), said))
        self.send(b"235 2.7.0 welcome\r\n")

    def _answer_mail(self) -> None:
        self._forget()
        self._sender, self._begun = _path(self.line), True
        self.send(b"250 2.1.0 ok\r\n")

    def _answer_rcpt(self) -> None:
        self.send(b"250 2.1.5 ok\r\n")

    def _answer_rset(self) -> None:
        self._forget()
        self.send(b"250 2.0.0 ok\r\n")

    def _answer_data(self) -> None:
        if self._for_nobody():
            self.send(b"503 5.5.1 nobody to send it to\r\n")
            return
        self.send(b"354 go on\r\n")
        self._at("body", lambda: None)
        self._content += self._take_content()
        self._finish()

    def _take_chunk(self) -> None:
        self._at("body", lambda: None)
        self._content += self._take(int(self.line.split(b" ")[1]))

    def _answer_bdat(self) -> None:
        if self._for_nobody():
            self.send(b"503 5.5.1 nobody to send it to\r\n")
            return
        if self.line.upper().endswith(b" LAST"):
            self._finish()
        else:
            self.send(b"250 2.0.0 chunk\r\n")

    def _finish(self) -> None:
        content = bytes(self._content)
        found = re.search(rb"(?im)^message-id:\s*(\S+)", content)
        name = found[1].decode() if found else ""
        self._mail = Mail(self._sender, tuple(self._recipients), content, name)
        self._forget()
        self._at("dot", self._accept)
        self._at("answered", lambda: None)

    def take(self) -> None:
        """Write the message down as accepted."""
        self.server.accepted.append(self._mail)
        self.server.changed()

    def _accept(self) -> None:
        self.take()
        self.send(b"250 2.0.0 queued as %d\r\n" % len(self.server.accepted))

    def _for_nobody(self) -> bool:
        return self._begun and not self._recipients and not self.server.careless

    def _forget(self) -> None:
        self._sender, self._recipients, self._begun = "", [], False
        self._content.clear()

    def _answer_noop(self) -> None:
        self.send(b"250 2.0.0 ok\r\n")

    def _answer_quit(self) -> None:
        self.send(b"221 2.0.0 bye\r\n")
        raise Gone

    def _unknown(self) -> None:
        self.send(b"500 5.5.2 what?\r\n")


def _path(line: bytes) -> str:
    found = re.search(rb"<([^>]*)>", line)
    return found[1].decode() if found else ""
