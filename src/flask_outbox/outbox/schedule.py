"""When a message is to go, and by which name its app may ask for it again; knows no database."""

import math
from dataclasses import dataclass
from enum import Enum

from flask_outbox.mail.errors import MessageError

KEY_MOST = 255
TOO_LATE = "expires= must be later than at= or delay=, else it can never be sent."


class Priority(Enum):
    """The stored word is the word in the code; in the order in which they are claimed."""

    URGENT = "urgent"  # somebody stands and waits for it: a login code
    HIGH = "high"
    NORMAL = "normal"
    BULK = "bulk"  # a newsletter


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What ``enqueue`` is told besides the submission; all times are UNIX seconds.

    ``at``, or ``delay`` seconds from now: not before. ``expires``, or ``lasts`` seconds after it
    is due: not begun from then on. Seconds count by the database's clock, so a host whose own is
    wrong changes no delay and no lifetime. ``key``: unique among all messages that are kept; the
    same key with the same ``fingerprint`` is the same message.
    Raises MessageError for what cannot be meant.
    """

    at: float | None = None
    delay: float | None = None
    expires: float | None = None
    lasts: float | None = None
    priority: Priority = Priority.NORMAL
    key: str | None = None
    fingerprint: str = ""

    def due(self, now: float) -> float:
        """Tell when it is to go, if it is written down now."""
        start = self.at if self.delay is None else now + self.delay
        return now if start is None else max(start, now)

    def end(self, due: float) -> float | None:
        """Tell from when on it is of no use, if it is due then."""
        return self.expires if self.lasts is None else due + self.lasts

    def __post_init__(self) -> None:
        times = (self.at, self.delay, self.expires, self.lasts)
        for name, value in zip(("at", "delay", "expires", "expires"), times, strict=True):
            if value is not None and not math.isfinite(value):
                raise MessageError(f"{name}= must be a finite number of seconds.")
        waits = self.at is not None or self.delay is not None
        ends_before = self.at is not None and self.expires is not None and self.expires <= self.at
        if ends_before or (waits and self.lasts is not None and self.lasts <= 0):
            raise MessageError(TOO_LATE)
        if self.key is not None and not (0 < len(self.key) <= KEY_MOST and self.key.isprintable()):
            raise MessageError(f"key= must have 1 to {KEY_MOST} printable characters.")
