"""What both drivers know of a line: its state, its failures, how a Write is cut up.

The two drivers differ only in how they wait.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from ssl import SSLError
from time import monotonic
from typing import TYPE_CHECKING

from flask_outbox.mail.errors import TlsError, WireError
from flask_outbox.mail.exchange import HttpResponse, SmtpReply, Tls, Write
from flask_outbox.wire.smtp_replies import Replies
from flask_outbox.wire.tls import Privacy, reason

if TYPE_CHECKING:
    from flask_outbox.wire.http import Answers

RECEIVE = 16_384  # bytes that are asked of the kernel at once
PIECE = 65_536  # bytes that a Write hands to TLS and the kernel at once
LEAST_SHARE = 0.05  # seconds that each address gets, even when the time is all but up

AWAITED = "while a reply was awaited"
OVERDUE = "kept us waiting too long"

Reply = SmtpReply | HttpResponse  # by what the line speaks


class Line:
    """What a line is, whichever driver waits for it."""

    __slots__ = ("_counted", "gone", "privacy", "replies", "sent", "sock", "where")

    def __init__(
        self, sock: socket.socket, where: str, replies: "Replies | Answers | None" = None
    ) -> None:
        self.sock = sock
        self.where = where  # host:port, for texts
        self.replies = Replies() if replies is None else replies
        self.privacy: Privacy | None = None
        self.sent = 0  # bytes of the latest Write that may have reached the far side
        self.gone = ""  # what became of it, where it is of no more use
        self._counted = False  # the record that is going out

    # --- its life ---

    @property
    def local_ip(self) -> str:
        """The address that the far side sees, as far as we know."""
        return str(self.sock.getsockname()[0])

    def close(self) -> None:
        """Close the descriptor and say nothing: no QUIT, no end of TLS."""
        self.abandon()

    def abandon(self) -> None:
        """Close the descriptor in a child: the line is the parent's."""
        self.gone = self.gone or "was closed"
        self.sock.close()

    def is_alive(self) -> bool:
        """Tell whether it can be used again: at rest, and neither a word nor an end waits."""
        self.glance()
        return not self.gone and self.replies.at_rest

    def glance(self) -> None:
        """Take in whatever the kernel has, without waiting."""
        raise NotImplementedError

    # --- what comes in ---

    def receive(self) -> None:
        """Take in what the kernel has; BlockingIOError or TimeoutError: nothing."""
        try:
            data = self.sock.recv(min(self.replies.room, RECEIVE))
        except (BlockingIOError, TimeoutError):
            raise
        except OSError as error:
            self.lost(error)
        else:
            self.hear(data)

    def hear(self, data: bytes) -> None:
        """Take in what was received; nothing means that the far side will say no more."""
        if not data:
            self.gone = self.gone or "closed the connection"
        elif self.privacy is None:
            self.replies.feed(data)
        else:
            self._unseal(self.privacy, data)

    def _unseal(self, privacy: Privacy, records: bytes) -> None:
        try:
            plain = privacy.unseal(records)
        except SSLError as error:  # a forged record; a certificate of ours that it refused
            self.gone = f"gave up the privacy of the line ({reason(error)})"
        else:
            if plain:
                self.replies.feed(plain)
            if privacy.ended:
                self.gone = self.gone or "closed the connection"

    def lost(self, error: OSError) -> None:
        """Note why the kernel gave the line up."""
        if isinstance(error, ConnectionResetError | BrokenPipeError):
            self.gone = "reset the connection"
        else:
            self.gone = f"was lost ({_system_word(error)})"

    def failure(self, when: str, what: str = "", *, reply: SmtpReply | None = None) -> WireError:
        """Give the line up and say what happened when; Reads still get what had been said."""
        self.gone = what or self.gone
        return WireError(f"{self.where} {self.gone} {when}", sent=self.sent, reply=reply)

    # --- what goes out ---

    def begin(self, replies: int) -> int:
        """Begin a Write; tell how many replies are still owed to those before it."""
        heard = self.replies
        earlier = heard.owed
        self.sent = 0
        if self.gone or heard.out_of_turn:
            what = self.gone or heard.error or "spoke out of turn"
            raise self.failure("before we wrote", what, reply=heard.answer_to_latest(earlier))
        heard.owed = earlier + replies
        return earlier

    def outgoing(self, piece: bytes | memoryview) -> memoryview:
        """Turn a piece of a Write into what goes to the kernel."""
        self._counted = False
        return memoryview(self.privacy.seal(piece) if self.privacy else piece)

    def went_out(self, count: int, size: int) -> None:
        """Count what the kernel took. A record of which a part went may have gone whole."""
        if self.privacy is None:
            self.sent += count
        elif count and not self._counted:
            self.sent += size
            self._counted = True

    def settled(self, earlier: int, owed: int) -> bool:
        """Tell whether it makes no sense to write on: all is answered, or the line is gone."""
        heard = self.replies
        if heard.error or len(heard) >= earlier + owed > earlier:
            self.gone = self.gone or heard.error or "answered before it had heard all"
        return bool(self.gone)

    def broken_write(self, question: Write, earlier: int, what: str = "") -> WireError:
        """Say that a Write broke, with the server's last word on it if there was one."""
        size = sum(map(len, question.blocks))
        when = f"when {self.sent} of {size} bytes had gone out"
        return self.failure(when, what, reply=self.replies.answer_to_latest(earlier))

    # --- privacy ---

    def begin_privacy(self, tls: Tls, host: str) -> Privacy:
        """Begin the handshake, unless somebody has slipped plain text in before it."""
        if not self.replies.owed:
            self.glance()  # by STARTTLS, and not from the first byte
        if not self.replies.untouched:
            # What was said in the open must not be taken for what is said in private
            # (CVE-2011-0411, from the server's side).
            raise self.unshaken("went on talking before the TLS handshake")
        if self.gone:
            raise self.unshaken()
        return Privacy(tls, host, self.where)

    def shaken(self, privacy: Privacy) -> bool:
        """Take the handshake a step further."""
        try:
            return privacy.shake()
        except TlsError:
            self.gone = "could not be made private"
            raise

    def unshaken(self, what: str = "") -> TlsError:
        """Say that the handshake broke."""
        self.gone = what or self.gone
        return TlsError(f"{self.where} {self.gone} while the line was made private")

    def private(self, privacy: Privacy) -> None:
        """Go on in private; the first words may have come along with the handshake."""
        self.privacy = privacy
        self._unseal(privacy, b"")


def pieces(blocks: Sequence[bytes]) -> Iterator[bytes | memoryview]:
    """Cut a Write into what goes out at once: small neighbours joined, large blocks sliced."""
    small: list[bytes] = []
    waiting = 0
    for block in blocks:
        if waiting + len(block) <= PIECE:
            small.append(block)
            waiting += len(block)
            continue
        if small:
            yield b"".join(small)
            small, waiting = [], 0
        view = memoryview(block)
        for at in range(0, len(block), PIECE):
            yield view[at : at + PIECE]
    if small:
        yield b"".join(small)


def share(until: float, among: int) -> float:
    """Give one of several addresses its part of the time that is left."""
    return max((until - monotonic()) / among, LEAST_SHARE)


def is_address(host: str) -> bool:
    """Tell whether there is nothing to be looked up, so that nothing can block."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def unknown_host(where: str, error: Exception) -> WireError:
    """Say that the name could not be looked up."""
    late = "it took too long" if isinstance(error, TimeoutError) else "not a host name"
    why = getattr(error, "strerror", None) or late
    return WireError(f"{where}: the host name could not be looked up ({why})")


def unreachable(where: str, error: OSError | None) -> WireError:
    """Say that none of the addresses answered."""
    if error is None or isinstance(error, TimeoutError):
        return WireError(f"{where}: no connection in time")
    return WireError(f"{where}: no connection ({_system_word(error)})")


def _system_word(error: OSError) -> str:
    """Put the error into the system's words: asyncio has some of its own."""
    return os.strerror(error.errno) if error.errno else type(error).__name__
