"""What every way out is: a name, a declaration of what it carries, and a conversation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from flask_outbox.mail.exchange import Conversation
from flask_outbox.mail.submission import Submission


@dataclass(frozen=True, slots=True, kw_only=True)
class Carries:
    """What a transport can take, declared so that enqueue can refuse what it cannot."""

    window: int = 1  # submissions in doubt at most when a line breaks
    dsn: bool = False
    dkim: bool = True  # sends the octets on as they are; False: whoever is there signs them


class Transport(Protocol):
    """A way out. Third parties need not import us."""

    @property
    def name(self) -> str:
        """The scheme in its URL."""
        ...

    @property
    def carries(self) -> Carries:
        """What it can take."""
        ...

    def send(self, submissions: Sequence[Submission]) -> Conversation:
        """Send them in order; yield a Report for each, once, as soon as it is known."""
        ...
