"""When each of what a worker has claimed may begin, where a rate says so, and who came too late."""

import math
import time
from collections import deque
from collections.abc import Sequence

from flask_outbox.mail.rates import Turn
from flask_outbox.mail.submission import Submission

TOGETHER = 0.01  # seconds: what a rate lets go one by one begins with what follows within that
REMEMBERS = 3  # claims: one that stood still says nothing of the next


class Pace:
    """The turns of what waits for its time, by id; all times are monotonic."""

    def __init__(self) -> None:
        self._took: deque[float] = deque(maxlen=REMEMBERS)  # seconds, claims that brought something
        self._turns: dict[str, Turn] = {}

    @property
    def takes(self) -> float:
        """How many seconds a claim takes about: the median of the latest."""
        return sorted(self._took)[(len(self._took) - 1) // 2] if self._took else 0.0

    def put(self, claimed: Sequence[Submission], took: float) -> None:
        """Take in the turns of what a claim brought, and how many seconds that took.

        A turn may come while the next claim is made, and is not over then.
        """
        if claimed:
            self._took.append(took)
        takes = self.takes
        for each in claimed:
            if each.turn is not None:
                begins_at, ends_at = each.turn
                ends_at = max(ends_at, begins_at + takes + TOGETHER)
                self._turns[each.id] = Turn(begins_at, ends_at)

    def ready(self, waiting: Sequence[Submission]) -> Sequence[Submission]:
        """Leave out those whose time has not come."""
        if not self._turns:
            return waiting
        now = time.monotonic()
        early = {id_ for id_, turn in self._turns.items() if turn.begins_at > now}
        return [each for each in waiting if each.id not in early]

    @property
    def begins_at(self) -> float:
        """When the next of them begins; infinity for never."""
        return min((turn.begins_at for turn in self._turns.values()), default=math.inf) + TOGETHER

    def missed(self) -> set[str]:
        """Forget the turns that have come, and name those of them that are over by now.

        Who waits for a lane from then on has not missed its turn.
        """
        now = time.monotonic()
        come = {id_: turn for id_, turn in self._turns.items() if turn.begins_at <= now}
        for id_ in come:
            del self._turns[id_]
        return {id_ for id_, turn in come.items() if turn.ends_at < now}

    def forget(self, one: Submission) -> None:
        """Let go of one, whatever its turn."""
        self._turns.pop(one.id, None)
