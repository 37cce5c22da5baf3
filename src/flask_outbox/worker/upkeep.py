"""What a worker does besides: keep its leases, show that it lives, take over from the dead."""

import os
import platform
import time
from contextlib import suppress

from flask_outbox.mail.errors import OutboxUnavailable
from flask_outbox.outbox.claim import extend, reclaim
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.record import Recorded
from flask_outbox.outbox.workers import goodbye, heartbeat
from flask_outbox.worker.lanes import Lanes
from flask_outbox.worker.leased import Leased

OFTEN = 4  # times in one lease


class Upkeep:
    """Done by the worker's own thread, between two turns; ``at`` is monotonic time."""

    def __init__(self, outbox: Outbox, leased: Leased, lanes: Lanes) -> None:
        self.at = 0.0
        self._outbox = outbox
        self._leased = leased
        self._lanes = lanes

    def mind(self) -> list[Recorded]:
        """Do it if it is time; give what became of the mail of workers that died."""
        if (now := time.monotonic()) < self.at:
            return []
        # However long a send takes, its lease does not run out.
        extend(self._outbox, [*self._leased, *self._lanes.begun()])
        recorded = reclaim(self._outbox)
        heartbeat(self._outbox, self._leased.worker, host=platform.node(), pid=os.getpid())
        self.at = now + self._outbox.lease / OFTEN
        return recorded

    def end(self) -> None:
        """Say goodbye, where there is somebody to say it to."""
        with suppress(OutboxUnavailable):
            goodbye(self._outbox, self._leased.worker)
