"""What a worker works with, and whom it tells."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from flask_outbox.mail.route import RouteNews, Routing
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.prune import Keep
from flask_outbox.outbox.record import Recorded
from flask_outbox.outbox.workers import UNKNOWN, Badge, WorkerLost
from flask_outbox.transports.base import Signing, Transport, unsigned
from flask_outbox.worker.retention import Retention
from flask_outbox.worker.ways import Load, Ways

Alert = RouteNews | WorkerLost


def _nobody(heard: Recorded | Alert) -> None:
    """Observe nothing."""


def never() -> bool:
    """Stay."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a worker works with; all times in seconds.

    ``transports`` are by route, and each is a transport of that name but for those that
    ``routings`` put together; ``load`` makes those of other names, for as long as a window takes.
    ``connections`` are per route, ``timeout`` bounds one message on the wire, ``grace`` what
    is under way when the worker is told to stop. ``observe`` hears what became of each message,
    in a thread of its own and in order, after it was committed, and ``alert`` what somebody should
    look at; what they raise is logged and forgotten. ``badge`` says what this worker runs with,
    ``retention`` what it forgets in passing.
    """

    outbox: Outbox
    transports: Mapping[str, Transport]
    routings: Sequence[Routing] = ()
    load: Load | None = None
    connections: int = 5
    timeout: float = 600.0
    grace: float = 30.0
    poll: float = 1.0
    observe: Callable[[Recorded], None] = _nobody
    alert: Callable[[Alert], None] = _nobody
    badge: Badge = UNKNOWN
    retention: Retention = field(default_factory=lambda: Retention(Keep()))
    sign: Signing = unsigned

    @property
    def ways(self) -> Ways:
        """What can be sent for."""
        return Ways(self.transports, self.routings, self.load)
