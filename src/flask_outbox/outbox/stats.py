"""Figures about what is open, and who works on it; flat in what was accepted long ago."""

from dataclasses import dataclass

from sqlalchemy import func, select, text

from flask_outbox.mail.lifecycle import State
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.rates import SlowedRate, slowed
from flask_outbox.outbox.tables import LEASED, message, route
from flask_outbox.outbox.workers import Worker, workers

_m = message.c
# Each by its own index.
_QUEUED = select(func.count(), func.min(_m.due_at)).where(_m.due_at.is_not(None))
_SENDING = select(func.count()).where(LEASED)
_ENDED = (
    select(_m.state, func.count())
    .where(_m.ended_at.is_not(None), text("state <> 'accepted'"))
    .group_by(_m.state)
)
_PAUSED = select(route).where(route.c.paused_until.is_not(None)).order_by(route.c.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class PausedRoute:
    """A route that failed by our own fault and has not worked since."""

    name: str
    until: float
    failures: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What is not accepted, by state; times are UNIX seconds by the database's clock."""

    counts: dict[State, int]  # without those that were accepted
    oldest_due: float | None
    now: float
    routes: tuple[PausedRoute, ...]
    slowed: tuple[SlowedRate, ...]
    workers: tuple[Worker, ...]
    ended: tuple[Worker, ...]  # drains, the latest of each kind


def stats(outbox: Outbox) -> Stats:
    """Count."""
    with outbox.read() as connection:
        known = {each.value: each for each in State}  # a newer version may have more
        queued, oldest = connection.execute(_QUEUED).one()
        counts = {
            State.QUEUED: queued,
            State.SENDING: connection.execute(_SENDING).scalar_one(),
            **{
                known[state]: count for state, count in connection.execute(_ENDED) if state in known
            },
        }
        now = outbox.now(connection)
        everybody = workers(connection)
        return Stats(
            counts={state: count for state, count in counts.items() if count},
            oldest_due=oldest,
            now=now,
            routes=tuple(
                PausedRoute(
                    name=each.name,
                    until=each.paused_until,
                    failures=each.failures,
                    reason=each.reason,
                )
                for each in connection.execute(_PAUSED)
            ),
            slowed=tuple(slowed(connection, outbox.rates, now)),
            workers=tuple(each for each in everybody if not each.has_ended),
            ended=tuple(each for each in everybody if each.has_ended),
        )
