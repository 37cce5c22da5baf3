"""What may be asked of the domain name system, and what may come of it; ``wire/dns.py`` asks.

A rule about records is a generator: it yields an ``Ask``, is sent the ``Found``, and returns what
it comes to. That a name is not there, and that nobody could say, are two answers.
"""

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

T = TypeVar("T")


class How(Enum):
    """How a look-up ended."""

    FOUND = "found"
    EMPTY = "the name has no such record"
    NO_NAME = "there is no such name"
    FAILED = "its name servers fail"  # SERVFAIL, REFUSED, or none that could be asked
    TIMEOUT = "no name server answered in time"
    NO_SENSE = "it is no name"


@dataclass(frozen=True, slots=True)
class Ask:
    """One question; ``kind``: TXT, MX, A, AAAA or PTR. For PTR the name is an IP address."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Found:
    """The records, as text: of TXT its strings as one, of MX ``10 mx.example.com``.

    Names have no dot at their end; the null MX (RFC 7505) is ``0 .``.
    """

    how: How
    records: tuple[str, ...] = ()

    @property
    def void(self) -> bool:
        """Whether it is known that there is nothing (RFC 7208 section 4.6.4)."""
        return self.how in {How.EMPTY, How.NO_NAME, How.NO_SENSE}

    @property
    def unknown(self) -> bool:
        """Whether nobody could say; it may be there."""
        return self.how in {How.FAILED, How.TIMEOUT}


Looking = Generator[Ask, Found, T]
