"""When each of a claim's mails goes, where several limits hold it: at a time that all of them have.

Each limit goes on from that time, so that none lets more go than it is set to. Who can go soonest
is given a turn first: whoever has to wait for one limit keeps no other waiting that others could
use.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush

from flask_outbox.mail.rates import Meter, Turn


class _Line:
    """Those whom the same limits hold, in their order."""

    def __init__(self, own: Meter | None, others: Sequence[Meter]) -> None:
        self.waiting: deque[str] = deque()
        self._own = own
        self._others = others
        self.limits = [*others, own] if own is not None else others

    def opens_at(self, now: float) -> float:
        """When the next goes, as far as the others say."""
        return max((each.next_one(now) for each in self._others), default=now)

    def follows(self, now: float) -> float:
        """When, as far as its own says, which is the same for many lines."""
        return now if self._own is None else self._own.next_one(now)


def give_turns(
    mails: Iterable[tuple[str, Meter | None, Sequence[Meter]]], now: float
) -> dict[str, Turn]:
    """Give each mail its turn, by its id: the limit of its transport and the others that hold it.

    The limits are advanced. What none holds back, and none would call late, has no turn.
    """
    lines: dict[tuple[str, ...], _Line] = {}
    for id_, own, others in mails:
        key = (own.name if own else "", *(each.name for each in others))
        lines.setdefault(key, _Line(own, others)).waiting.append(id_)
    turns: dict[str, Turn] = {}
    heap = [(line.opens_at(now), number) for number, line in enumerate(lines.values())]
    by_number = [*lines.values()]
    heapify(heap)
    while heap:
        _, number = heappop(heap)
        line = by_number[number]
        opens_at, follows = line.opens_at(now), line.follows(now)
        if heap and opens_at > max(heap[0][0], follows):
            heappush(heap, (opens_at, number))
            continue
        id_, at = line.waiting.popleft(), max(opens_at, follows)
        patience = min((each.patience(now) for each in line.limits), default=math.inf)
        for each in line.limits:
            each.take(now, at)
        if at > now or patience < math.inf:
            turns[id_] = Turn(at, at + patience)
        if line.waiting:
            heappush(heap, (line.opens_at(now), number))
    return turns
