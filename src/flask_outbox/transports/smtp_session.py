"""What we know of a line that is logged in: what the server offers, and how the line stands."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Self

from flask_outbox.transports.smtp_secrets import Secrets

_NOTHING: Mapping[str, str] = MappingProxyType({})


class Session:
    """Left with the driver while the line rests, and handed back with it."""

    __slots__ = (
        "auth",
        "carried",
        "chunking",
        "dirty",
        "dsn",
        "eightbit",
        "most",
        "pipelining",
        "secrets",
        "size",
        "smtputf8",
        "starttls",
        "tells",
        "worn",
    )

    def __init__(self, offers: Mapping[str, str] = _NOTHING) -> None:
        self.pipelining = "PIPELINING" in offers  # RFC 2920
        self.chunking = "CHUNKING" in offers  # RFC 3030
        self.eightbit = "8BITMIME" in offers  # RFC 6152
        self.smtputf8 = "SMTPUTF8" in offers  # RFC 6531
        self.starttls = "STARTTLS" in offers  # RFC 3207
        self.dsn = "DSN" in offers  # RFC 3461
        self.size = _number(offers.get("SIZE", ""))  # RFC 1870; 0: no limit said
        self.most = _mail_max(offers.get("LIMITS", ""))  # RFC 9422; 0: no limit said
        self.auth = frozenset(offers.get("AUTH", "").upper().split())  # RFC 4954
        self.secrets = Secrets()  # what the line was told in confidence
        self.carried = 0  # transactions begun on this line
        self.worn = False  # it rested, or carried mail: that it fails now says nothing of the mail
        self.tells = False  # its replies to MAIL and RCPT cannot be mistaken for one to a content
        self.dirty = False  # a transaction stands half done: RSET leads the next

    @classmethod
    def offered(cls, lines: Iterable[str]) -> Self:
        """Read the reply to EHLO; its first line is the greeting."""
        offers: dict[str, str] = {}
        for line in list(lines)[1:]:
            word, _, rest = line.replace("AUTH=", "AUTH ", 1).partition(" ")
            word = word.upper()
            offers[word] = f"{offers.get(word, '')} {rest}".strip()
        return cls(offers)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0  # noqa: PLR2004  RFC 1870: at most 20 digits


def _mail_max(text: str) -> int:
    values = (item[8:] for item in text.upper().split() if item.startswith("MAILMAX="))
    return next((_number(value) for value in values), 0)
