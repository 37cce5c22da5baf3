"""When to try again: a value that a test can read.

===============  ===================  =======  =============  ==================================
whose doing      outcome              charged  pauses         next attempt
===============  ===================  =======  =============  ==================================
nobody's         Deferred, TRANSIENT  yes      no             full jitter under 1, 2, 4 min … 1 h,
                                                              or when the far side asks, if later
the recipient's  Refused              yes      no             never: failed
ours             Deferred, OURS       no       the route      when a route is open
a neighbour's    Deferred, NONE       no       no             at once
unclear          Unclear              yes      third in row   after 1/576, then 1/8 of the give-up
                                                              time, then never: unknown
===============  ===================  =======  =============  ==================================

No deferral is tried again later than the give-up time, 2 days from when it was first due: then it
has failed, or is unknown if it was ever unclear. But what was not its own attempt ends nothing, and
who came to its first one so late, after an outage, has one more: a greylist asks it of everybody.
How long a route pauses, how one mail at a time probes it, and who may take another, stands in
``mail/route.py``.

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
    """Believe a far side within reason; what is no number at all is the least."""
    least, most = RETRY_AFTER
    return min(seconds, most) if seconds > least else least


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
        case Deferred(fault=Fault.NONE):
            return now
        case Deferred(fault=Fault.OURS):
            return now if now < last else None
        case Deferred(retry_after=asked):
            wait = backoff(attempt, jitter)
            if asked is not None:
                wait = max(wait, clamp_retry_after(asked))
            due = min(now + wait, last) if now < last else now + wait
            return due if now < last or attempt == 1 else None
