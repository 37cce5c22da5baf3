"""Forgetting in passing: now and then a worker goes through what ended long ago, piece by piece."""

import math
import time
from collections import deque
from collections.abc import Iterator

from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.prune import Keep, Pruned, pieces

EVERY = 3600.0  # seconds from the end of one round to the next
BETWEEN = 0.5  # seconds from one piece to the next, in which others write, at most
SHARE = 9  # times as long as a piece took it waits before the next


class Retention:
    """Shared by the workers of an app in one process; ``at``, monotonic, is when there is work."""

    def __init__(self, keep: Keep) -> None:
        self.at = math.inf if keep.everything else 0.0
        self._keep = keep
        self._round: deque[Iterator[Pruned]] = deque(maxlen=1)  # taken out by whoever works on it

    @property
    def is_over(self) -> bool:
        """Whether nothing is left of this hour's round, or somebody else has it in hand."""
        return not self._round and time.monotonic() < self.at

    def mind(self, outbox: Outbox) -> None:
        """Forget one piece, if it is time."""
        if (began := time.monotonic()) < self.at:
            return
        self.at = began + EVERY  # first: should it fail, nobody tries it all the time
        round_ = self._round.pop() if self._round else pieces(outbox, self._keep)
        if next(round_, None) is not None:
            self._round.append(round_)
            now = time.monotonic()
            self.at = now + min(BETWEEN, SHARE * (now - began))
