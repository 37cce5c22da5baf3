"""What a worker does besides: keep leases, show that it lives, take over from the dead, forget."""

import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress

from flask_outbox.mail.errors import OutboxUnavailable
from flask_outbox.outbox.claim import extend, reclaim
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.record import Recorded
from flask_outbox.outbox.slots import bring_forward
from flask_outbox.outbox.workers import Badge, WorkerLost, heartbeat
from flask_outbox.worker.lanes import Lanes
from flask_outbox.worker.leased import Leased
from flask_outbox.worker.retention import Retention

OFTEN = 4  # times in one lease
SLOTS_EVERY = 20.0  # seconds
BEAT_WITHIN = 7.5  # seconds: whose lease is longer is not lost to others, whose lease is shorter


class Upkeep:
    """Done by the worker's own thread, between two turns; ``at`` is monotonic time."""

    def __init__(
        self, outbox: Outbox, leased: Leased, lanes: Lanes, badge: Badge, retention: Retention
    ) -> None:
        self._beat_at = 0.0
        self._minded_at = float("inf")
        self._takes_over_at = 0.0
        self._slots_at = 0.0
        self._slots_after = ""
        self._retention = retention
        self._outbox = outbox
        self._leased = leased
        self._lanes = lanes
        self._badge = badge
        self._news: list[Recorded | WorkerLost] = []

    @property
    def at(self) -> float:
        """When there is something to do."""
        return min(self._beat_at, self._retention.at)

    @property
    def has_forgotten(self) -> bool:
        """Whether nothing is left to be forgotten now."""
        return self._retention.is_over

    def mind(self) -> list[Recorded | WorkerLost]:
        """Do it if it is time; give what became of the mail of workers that died, and who did."""
        if (now := time.monotonic()) < self._beat_at:
            self._retention.mind(self._outbox)
            return []
        outbox, name = self._outbox, self._leased.worker
        # However long a send takes, its lease does not run out.
        extend(outbox, [*self._leased, *self._lanes.begun()])
        misses = self._misses(now)
        if misses:
            self._news += reclaim(outbox)  # kept, should the next step fail
        host, pid = platform.node(), os.getpid()
        self._news += heartbeat(outbox, name, host=host, pid=pid, badge=self._badge, misses=misses)
        if now >= self._slots_at:
            self._slots_after = bring_forward(outbox, self._slots_after).after
            self._slots_at = now + SLOTS_EVERY
        self._minded_at = now
        self._beat_at = now + min(outbox.lease / OFTEN, BEAT_WITHIN)
        news, self._news = self._news, []
        return news

    def _misses(self, now: float) -> bool:
        """Tell whether who is silent is missed.

        After a lease without the database others may be alive, and have something to record: they
        have a lease to come back. A database that is always so slow gives it every second time.
        """
        was_away = now - self._minded_at > self._outbox.lease
        if was_away and self._takes_over_at < self._minded_at:
            self._takes_over_at = now + self._outbox.lease
        return now >= self._takes_over_at

    def end(self, farewell: Callable[[Outbox, str], None]) -> None:
        """Say so, where there is somebody to say it to."""
        with suppress(OutboxUnavailable):
            farewell(self._outbox, self._leased.worker)
