"""The verdict over a run of kills: what the server accepted, against what the outbox says.

A message is lost where nobody has it and nobody knows: it must be accepted by the server, or stand
as ``unknown`` with the history that explains it. It is stuck where a killed worker still has it two
leases later. A copy is excused only by a kill at which this
very message was in flight, that is started and not recorded, as read from the database.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flask_outbox.mail.retry import Patience

UNKNOWN_MOST = 0.01  # of the messages
ENOUGH = 0.5  # of the kills must hit between the first MAIL and the record


@dataclass(frozen=True)
class Kill:
    """One worker that was killed, and the Message-IDs that it had in flight."""

    point: str
    in_flight: frozenset[str]


@dataclass(frozen=True)
class Row:
    """What the outbox says of a message in the end."""

    state: str
    unclear: int  # outcomes in its history
    seconds: float = 0.0  # from when it was first due to its end


@dataclass
class Verdict:
    """Empty lists: all is well."""

    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    copies: int = 0
    excused: int = 0
    unknown: int = 0
    between: int = 0
    kills: int = 0

    @property
    def holds(self) -> bool:
        """Whether the promise was kept."""
        return not (self.lost or self.stuck or self.wrong)

    def lines(self) -> Iterable[str]:
        """Print it."""
        yield f"lost                   {len(self.lost)}"
        yield f"stuck after two leases {len(self.stuck)}"
        yield f"copies beyond one      {self.copies} (at most {self.excused} were in flight)"
        yield f"unknown                {self.unknown}"
        yield f"kills                  {self.kills}, {self.between} between MAIL and the record"
        yield from (f"LOST  {each}" for each in self.lost[:20])
        yield from (f"STUCK {each}" for each in self.stuck[:20])
        yield from (f"WRONG {each}" for each in self.wrong[:20])


def judge(  # noqa: PLR0913  what a run is judged by
    rows: Mapping[str, Row],
    accepted: Sequence[str],
    kills: Sequence[Kill],
    stuck: Iterable[str] = (),
    *,
    patience: Patience,
    wanted: int | None = None,
    enough: float = ENOUGH,
) -> Verdict:
    """Judge a run.

    ``stuck``: what the dead still had when it was to be taken over. ``wanted``: how many kills
    there should have been. ``enough``: the share of them that has to hit.
    """
    copies = Counter(accepted)
    flown = Counter(each for kill in kills for each in kill.in_flight)
    verdict = Verdict(
        copies=sum(count - 1 for count in copies.values()),
        excused=sum(flown.values()),
        unknown=sum(row.state == "unknown" for row in rows.values()),
        between=sum(bool(kill.in_flight) for kill in kills),
        kills=len(kills),
    )
    verdict.lost = [name for name, row in rows.items() if _is_lost(row, copies[name])]
    verdict.stuck = sorted(stuck)
    verdict.wrong = [
        *(f"{name} was never enqueued" for name in copies if name not in rows),
        *_unexplained(rows, patience),
        *_too_many(copies, flown, patience.max_unclear),
    ]
    if verdict.unknown > UNKNOWN_MOST * len(rows):
        verdict.wrong.append(f"{verdict.unknown} of {len(rows)} messages are unknown")
    if verdict.between < enough * len(kills):
        verdict.wrong.append(f"only {verdict.between} of {len(kills)} kills hit a mail in flight")
    if wanted is not None and len(kills) < wanted:
        verdict.wrong.append(f"{len(kills)} kills, not {wanted}")
    return verdict


def _is_lost(row: Row, copies: int) -> bool:
    return not (row.state == "unknown" or (row.state == "accepted" and copies))


def _unexplained(rows: Mapping[str, Row], patience: Patience) -> Iterable[str]:
    for name, row in rows.items():
        too_often = row.unclear > patience.max_unclear
        too_late = row.unclear and row.seconds >= patience.give_up
        if row.state == "unknown" and not (too_often or too_late):
            yield f"{name} is unknown after {row.unclear} unclear outcomes, {row.seconds:.0f} s"


def _too_many(copies: Mapping[str, int], flown: Mapping[str, int], most: int) -> Iterable[str]:
    for name, count in copies.items():
        if count > 1 + most:
            yield f"{name} was accepted {count} times"
        elif count - 1 > flown.get(name, 0):
            yield f"{name} was accepted {count} times, and in flight at {flown.get(name, 0)} kills"
