"""What one attempt came to, for one recipient: a value, never an exception.

``Accepted``  the far side took responsibility (RFC 5321 section 4.2.5).
``Deferred``  not this time; it did not leave, so it may be tried again, anywhere.
``Refused``   not now and not later, for this recipient.
``Unclear``   the last byte went out and no answer came: it may or may not have been accepted.
"""

from dataclasses import dataclass
from enum import Enum


class Fault(Enum):
    """Whose doing a deferral was, which decides what it costs."""

    TRANSIENT = "transient"  # greylisting, a full mailbox: uses up an attempt of this recipient
    OURS = "ours"  # AUTH or sender refused, relay down: the route pauses, no attempt is used up
    NONE = "none"  # somebody else's line broke under it: tried again at once, no attempt is used up


@dataclass(frozen=True, slots=True)
class Accepted:
    """The far side answered for it; ``reference`` is the id that it gave, where it gave one."""

    text: str = ""
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Deferred:
    """It did not leave. ``retry_after``: seconds that the far side asked us to wait."""

    text: str
    fault: Fault = Fault.TRANSIENT
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The far side will not take it for this recipient, however often we ask."""

    text: str


@dataclass(frozen=True, slots=True)
class Unclear:
    """It went out past the point of no return, and no whole answer came back."""

    text: str


Outcome = Accepted | Deferred | Refused | Unclear
