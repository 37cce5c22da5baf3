"""How long to wait for a server: RFC 5321 section 4.5.3.2, where a queue need not hurry it."""

from dataclasses import dataclass

_SLOWEST = 16_384  # bytes a second that a line must carry of a large message


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Wall-clock seconds for each phase; the limit for a whole message stands besides."""

    connect: float = 20.0
    greeting: float = 60.0  # some servers greet late, to scare off what cannot wait
    tls: float = 30.0
    command: float = 120.0  # EHLO, AUTH, MAIL, DATA, RSET
    rcpt: float = 120.0
    block: float = 180.0  # to put commands, or a message of no size, on the wire
    dot: float = 600.0  # the reply to the content: giving up early makes duplicates
    quit: float = 5.0

    def content(self, size: int) -> float:
        """Allow a large message the time that a slow line takes."""
        return self.block + size / _SLOWEST
