"""A message on its way (RFC 6409, RFC 8621), and the receipt of one attempt to send it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from flask_outbox.mail.outcome import Accepted, Deferred, Outcome, Refused, Unclear
from flask_outbox.mail.rates import Turn

if TYPE_CHECKING:
    from flask_outbox.mail.unseal import Parts

NOTHING: Mapping[str, Any] = MappingProxyType({})
ROW = "outbox_id"  # what our row's id is called where a provider keeps metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Dsn:
    """Delivery status notifications that the sender asks for (RFC 3461).

    ``notify`` holds NEVER alone, or any of SUCCESS, FAILURE, DELAY, by recipient;
    the key ``*`` speaks for every recipient that is not named. ``ret`` is FULL or HDRS.
    """

    notify: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    ret: str | None = None
    envid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One sealed message with its envelope; frozen, so that a repeat is the same bytes.

    Addresses are canonical addr-specs: local part as given, domain as lower-case A-labels.
    ``recipients`` are those still to be reached. ``content`` is the finished MIME, every line
    ended by CRLF, not dot-stuffed. ``date`` is UNIX seconds, the value of the Date field.
    """

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    message_id: str
    date: float
    utf8: bool = False  # an address in it needs SMTPUTF8 (RFC 6531)
    dsn: Dsn | None = None
    mail_options: tuple[str, ...] = ()
    rcpt_options: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    provider: Mapping[str, Any] = field(default_factory=lambda: NOTHING)  # in its own words
    track_opens: bool | None = None  # None: as the provider's account is set
    track_clicks: bool | None = None
    sensitive: bool = False
    at_most_once: bool = False

    # What the outbox adds: which row, by which way, and how often so far.
    id: str = ""
    transport: str = "default"
    route: str = ""
    fence: str = ""
    attempt: int = 0
    claimed_at: float | None = None  # by the database's clock
    began_at: float | None = None  # the attempt under way, by the same
    turn: Turn | None = None  # where there is a rate (monotonic)
    alone: bool = False  # it was on the line, or being signed, when a worker died

    def __repr__(self) -> str:
        which = self.id or self.message_id
        many, size = len(self.recipients), len(self.content)
        return f"<Submission {which}: recipients={many}, octets={size}, attempt={self.attempt}>"

    @property
    def idempotency_key(self) -> str:
        """Derive the far side's key from the row and whom it is still to reach."""
        whom = "\n".join((self.id or self.message_id, *sorted(self.recipients)))
        return sha256(whom.encode()).hexdigest()

    def begun(self, now: float) -> Self:
        """Count an attempt that begins; slot by slot, since ``replace`` takes thrice as long."""
        twin = object.__new__(type(self))
        for put, value in zip(_PUT, _GET(self), strict=True):
            put(twin, value)
        object.__setattr__(twin, "attempt", self.attempt + 1)
        object.__setattr__(twin, "began_at", now)
        return twin

    @property
    def author(self) -> str:
        """Read whom From names: not ``sender``, where the mail has a return path of its own."""
        from flask_outbox.mail.outline import author  # noqa: PLC0415  seldom needed

        return author(self.content)

    def parts(self) -> "Parts":
        """Take the content apart, for who does not take it as it is."""
        from flask_outbox.mail.unseal import unseal  # noqa: PLC0415  seldom needed

        return unseal(self.content)

    def only(self, recipients: Iterable[str]) -> Self:
        """Narrow it to these recipients."""
        return replace(self, recipients=tuple(recipients))


_GET = attrgetter(*Submission.__slots__)
_PUT = [vars(Submission)[name].__set__ for name in Submission.__slots__]


class Receipt(dict[str, Outcome]):
    """Recipient → outcome of one attempt, in the order of the envelope."""

    def __init__(self, outcomes: Mapping[str, Outcome] = MappingProxyType({})) -> None:
        super().__init__(outcomes)

    @classmethod
    def same(cls, submission: Submission, outcome: Outcome) -> Self:
        """Give every recipient of the submission one outcome."""
        return cls(dict.fromkeys(submission.recipients, outcome))

    def _that_are(self, kind: type[Outcome]) -> list[str]:
        return [recipient for recipient, outcome in self.items() if isinstance(outcome, kind)]

    @property
    def accepted(self) -> list[str]:
        """Recipients that the far side answered for."""
        return self._that_are(Accepted)

    @property
    def deferred(self) -> list[str]:
        """Recipients to be tried again."""
        return self._that_are(Deferred)

    @property
    def refused(self) -> list[str]:
        """Recipients that it will not take."""
        return self._that_are(Refused)

    @property
    def unclear(self) -> list[str]:
        """Recipients that may or may not have been reached."""
        return self._that_are(Unclear)

    @property
    def reference(self) -> str:
        """The id that the far side gave the submission, or nothing."""
        return next((o.reference for o in self.values() if isinstance(o, Accepted)), "")
