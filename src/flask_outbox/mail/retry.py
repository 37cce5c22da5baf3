"""When to try again: a value that a test can read.

===================  =======  =======  ==================================================
outcome              charged  pauses   next attempt
===================  =======  =======  ==================================================
Deferred, transient  yes      no       full jitter under 1 min, 2 min, 4 min … 1 h
Deferred, ours       no       route    when the route comes back
Deferred, none       no       no       at once
Unclear              yes      no       after 1/576, then 1/8 of the give-up time, then never
Refused              yes      no       never
===================  =======  =======  ==================================================

All times are UNIX seconds, ``jitter`` is a number in [0, 1).
"""

from dataclasses import dataclass

from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Outcome, Refused, Unclear

BACKOFF_FIRST = 60.0
BACKOFF_MOST = 3600.0
BACKOFF_LEAST = 1.0
UNCLEAR_SPREAD = (1 / 576, 1 / 8)  # of the give-up time: 5 minutes and 6 hours of 2 days
RETRY_AFTER = (1.0, 3600.0)  # what we believe of a far side's Retry-After
MAX_CRASHES = 3  # attempts in which a worker died before the first byte, then `poison`


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often; ``give_up`` in seconds from when it was first due."""

    give_up: float = 2 * 86400.0
    max_unclear: int = 2


def backoff(attempt: int, jitter: float) -> float:
    """Full jitter: anywhere between nothing and a ceiling that doubles with each attempt."""
    ceiling = min(BACKOFF_MOST, BACKOFF_FIRST * 2.0 ** min(attempt - 1, 16))
    return max(BACKOFF_LEAST, jitter * ceiling)


def clamp_retry_after(seconds: float) -> float:
    """Believe a far side within reason."""
    least, most = RETRY_AFTER
    return min(max(seconds, least), most)


def next_attempt(  # noqa: PLR0913  the six things that the table above speaks of
    attempt: int,
    outcome: Outcome,
    now: float,
    jitter: float,
    *,
    first_due: float,
    patience: Patience,
    unclear: int = 0,
) -> float | None:
    """Tell when, or never (None).

    ``attempt`` counts from 1; ``unclear`` counts the recipient's Unclear outcomes with this one.
    """
    last = first_due + patience.give_up
    match outcome:
        case Accepted() | Refused():
            return None
        case Unclear():
            if unclear > patience.max_unclear:
                return None
            share = UNCLEAR_SPREAD[min(unclear, len(UNCLEAR_SPREAD)) - 1]
            return now + share * patience.give_up
        case Deferred(fault=Fault.OURS | Fault.NONE):
            return now if now < last else None
        case Deferred(retry_after=asked):
            wait = backoff(attempt, jitter)
            if asked is not None:
                wait = max(wait, clamp_retry_after(asked))
            due = now + wait
            return due if due <= last else (last if now < last else None)
