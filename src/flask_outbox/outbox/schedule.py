"""When a message is to go, and by which name its app may ask for it again; knows no database."""

import math
from dataclasses import dataclass
from enum import Enum

from flask_outbox.mail.errors import MessageError

KEY_MOST = 255


class Priority(Enum):
    """The stored word is the word in the code; in the order in which they are claimed."""

    URGENT = "urgent"  # somebody stands and waits for it: a login code
    HIGH = "high"
    NORMAL = "normal"
    BULK = "bulk"  # a newsletter


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What ``enqueue`` is told besides the submission; all times are UNIX seconds.

    ``at``: not before; None is now. ``expires``: not begun from then on. ``key``: unique among all
    messages that are kept; the same key with the same ``fingerprint`` is the same message.
    Raises MessageError for what cannot be meant.
    """

    at: float | None = None
    expires: float | None = None
    priority: Priority = Priority.NORMAL
    key: str | None = None
    fingerprint: str = ""

    def __post_init__(self) -> None:
        for name, value in (("at", self.at), ("expires", self.expires)):
            if value is not None and not math.isfinite(value):
                raise MessageError(f"{name}= must be a finite number of seconds.")
        if self.at is not None and self.expires is not None and self.expires <= self.at:
            raise MessageError("expires= must be later than at=, else it can never be sent.")
        if self.key is not None and not (0 < len(self.key) <= KEY_MOST and self.key.isprintable()):
            raise MessageError(f"key= must have 1 to {KEY_MOST} printable characters.")
