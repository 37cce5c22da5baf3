"""How fast: the limits that an app sets, and what has to be remembered of one to keep it.

A ``Meter`` keeps one number, the time from which on the next mail may go (GCRA). What is to go
within ``AHEAD`` is given its time now, and kept by its worker until then: so a busy database costs
nothing, and mails are apart as they should be. In any second there go no more than the rate, and
one.

What finds no place within that time gets a slot, one after another, so that each mail is moved once
however many wait. Urgent mail does not stand behind those: it takes what comes free next, and who
misses a slot for its sake gets one of the next minute.

A limit slows by itself when the far side asks for it: to half of what it was, once for all that was
claimed together, and back up, twice as fast every five minutes.

All times are UNIX seconds, all rates are per second.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, TypeVar

from flask_outbox.mail.outcome import Deferred, Fault, Outcome
from flask_outbox.mail.retry import clamp_retry_after
from flask_outbox.mail.say import printable

T = TypeVar("T")

AHEAD = 0.5  # seconds
TOO_LATE = 0.04  # seconds: who was held up for longer would go along with what comes after it
SHARE = 0.25  # of the time to the next, that one may be late by, where that is more
ROUNDING = 1e-6  # seconds: what sums of floats are out by
SOON = 60.0  # seconds ahead that who missed a slot may get one
NO_LIMIT = 1_000_000_000
SECONDS: Mapping[str, float] = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
FASTEST = 1_000_000.0
DAY = SECONDS["d"]

SLOWED_FIRST = 10.0  # what a domain without a limit of its own is slowed to
SLOWEST = 1 / 60
DOUBLES_IN = 300.0  # seconds
RECOVERED = 100.0  # without a limit of its own: slowed no more

# SocketLabs: "never more than 2x the previous day's volume", within 30 to 90 days
# (https://help.socketlabs.com/docs/warm-up-basics, read 2026-11-29).
WARM_UP_FIRST = 50  # mails on the first day
WARM_UP_GROWS = 1.5  # times the day before
WARM_UP_DAYS = 28

_RATE = re.compile(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*/\s*([smhd])\s*")
# At 421 (RFC 5321 section 3.8) and 4.7.X (RFC 3463: policy) a far side has had too much of us. To
# one that greylists, each mail is new, however slowly they come.
_TOO_FAST = re.compile(r"421\b|\d{3}[ -]4\.7\.\d{1,3}\b")
_ADDRESS = re.compile(r"[^\s<>]+@[^\s<>]+")
_GREYLISTED = re.compile(r"gr[ae]y-?\s?list", re.IGNORECASE)


def per_second(text: str) -> float | None:
    """Read ``50/s``, ``1000/m``, ``20000/h`` or ``50000/d``; None for anything else."""
    found = _RATE.fullmatch(text)
    if not found:
        return None
    rate = float(found[1]) / SECONDS[found[2]]
    return rate if 1 / DAY <= rate <= FASTEST else None


def spoken(rate: float) -> str:
    """Write a rate as a person would."""
    unit = next((unit for unit, seconds in SECONDS.items() if rate * seconds >= 1), "d")
    return f"{rate * SECONDS[unit]:.3g}/{unit}"


def warm_up(days: int) -> float | None:
    """Give the mails a day of a domain that began so many days ago; None when it is over."""
    if days >= WARM_UP_DAYS:
        return None
    return round(WARM_UP_FIRST * WARM_UP_GROWS ** max(0, days))


def asks_to_slow(outcome: Outcome) -> bool:
    """Tell whether the far side says that we are too fast for it."""
    if not isinstance(outcome, Deferred) or outcome.fault is not Fault.TRANSIENT:
        return False
    if outcome.retry_after is not None:
        return True
    return bool(_TOO_FAST.match(outcome.text)) and not _GREYLISTED.search(outcome.text)


@dataclass(frozen=True, slots=True)
class Limit:
    """What is set for one thing: so many a second, so many at once, a warm-up; or none of them."""

    rate: float | None = None
    at_once: int | None = None
    warm_since: float | None = None

    def rate_at(self, at: float) -> float | None:
        """Give what it is at that time; None: as fast as can be."""
        if self.warm_since is None:
            return self.rate
        mails = warm_up(int((at - self.warm_since) // DAY))
        return None if mails is None else mails / DAY


NONE = Limit()
EVERY = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """All that an app sets. Domains are lower-case A-labels; ``*`` is each that is not named."""

    transports: Mapping[str, float] = field(default_factory=dict[str, float])
    at_once: Mapping[str, int] = field(default_factory=dict[str, int])
    domains: Mapping[str, float] = field(default_factory=dict[str, float])
    domains_at_once: Mapping[str, int] = field(default_factory=dict[str, int])
    warm_up: Mapping[str, float] = field(default_factory=dict[str, float])  # its first midnight

    @property
    def are_set(self) -> bool:
        """Whether there is any limit."""
        return any(getattr(self, name) for name in self.__slots__)

    @property
    def are_of_number(self) -> bool:
        """Whether an outcome makes room for another."""
        return bool(self.at_once or self.domains_at_once)

    def of_transport(self, name: str) -> Limit:
        """Give the limit of all that goes by a transport."""
        return Limit(_of(self.transports, name), _of(self.at_once, name))

    def to_domain(self, domain: str) -> Limit:
        """Give the limit of what goes to a domain by any one transport."""
        return Limit(_of(self.domains, domain), _of(self.domains_at_once, domain))

    def from_domain(self, domain: str) -> Limit:
        """Give the limit of what comes from a domain, by all transports together."""
        return Limit(warm_since=self.warm_up.get(domain))


def _of(values: Mapping[str, T], name: str) -> T | None:
    return values.get(name, values.get(EVERY))


class Turn(NamedTuple):
    """From when to when one may begin; it does not if it was held up for longer."""

    begins_at: float
    ends_at: float

    def later_by(self, seconds: float) -> "Turn":
        """Move it."""
        return Turn(self.begins_at + seconds, self.ends_at + seconds)


class Queue(Enum):
    """Who waits with whom: each queue has slots of its own."""

    NOW = "now"  # urgent mail, which stands behind nobody
    NEXT = "next"  # high
    AGAIN = "again"  # who missed a slot
    NORMAL = "normal"
    BULK = "bulk"


_AHEAD_OF_OTHERS = {Queue.NOW, Queue.NEXT}


@dataclass(slots=True)
class Meter:
    """What is remembered of one limit, as it is changed by what goes."""

    name: str
    limit: Limit = NONE
    next_at: float = 0.0
    latest: dict[Queue, float] = field(
        default_factory=dict[Queue, float]
    )  # the latest slot of each
    slow: float | None = None  # the rate when it was slowed
    slowed_at: float = 0.0
    until: float = 0.0  # nothing goes before
    raised: bool = False  # since its slots were handed out; not stored
    reason: str = ""  # why it was slowed
    under_way: int = 0  # not stored
    changed: bool = False

    def rate_at(self, at: float) -> float | None:
        """Give the rate at that time; None: as fast as can be."""
        rate, slowed = self.limit.rate_at(at), self._slowed(at)
        return slowed if rate is None else min(rate, slowed or rate)

    def _slowed(self, at: float) -> float | None:
        if self.slow is None:
            return None
        rate = self.slow * 2.0 ** min((at - self.slowed_at) / DOUBLES_IN, 64)
        whole = self.limit.rate_at(at)
        return rate if rate < (RECOVERED if whole is None else whole) else None

    def is_slowed(self, now: float) -> bool:
        """Tell whether it is slower now than it was set, or closed."""
        return self.until > now or self._slowed(now) is not None

    def holds(self, now: float) -> bool:
        """Tell whether anything may have to wait for it."""
        return self.limit.rate_at(now) is not None or bool(
            self.limit.at_once or self.is_slowed(now)
        )

    def free(self, now: float) -> int:
        """Tell how many may be given their time now."""
        since = self.next_one(now)
        if since > now + AHEAD:
            return 0
        rate, count = self.rate_at(now), NO_LIMIT
        if rate is not None:
            count = int((now + AHEAD - since + ROUNDING) * rate) + 1
        if self.limit.at_once is not None:
            count = min(count, max(0, self.limit.at_once - self.under_way))
        return count

    def opens_at(self, now: float) -> float:
        """Tell when it is worth while to ask again, as far as that is a matter of time."""
        return self.next_one(now) - AHEAD / 2

    def next_one(self, now: float) -> float:
        """Give the time of the next one."""
        since = now if self.rate_at(now) is None else max(self.next_at, now)
        return max(self.until, since)

    def patience(self, at: float) -> float:
        """Tell for how many seconds from its time on one may still begin."""
        rate = self.rate_at(at)
        return math.inf if rate is None else max(TOO_LATE, SHARE / rate)

    def take(self, now: float, at: float = 0.0) -> float:
        """Count one that goes at that time, or at the next there is after it; give its time.

        Urgent mail may go before its time; that is remembered, though for no more than a day.
        """
        rate, since = self.rate_at(now), max(self.next_one(now), at)
        if rate is not None:
            self.next_at = min(since + 1 / rate, now + max(DAY, 1 / rate))
        self.under_way += 1
        self.changed = True
        return since

    def give_back(self, now: float) -> None:
        """Count one less that has not left, if nobody has a turn yet to come.

        Between those who have, there is no room for another.
        """
        rate = self.rate_at(now)
        if rate is not None and self.next_at - 1 / rate <= now:
            self.next_at -= 1 / rate
            self.changed = True

    def passes(self, now: float, queue: Queue, *, had_slot: bool) -> bool:
        """Tell whether one may go now: there is room, and nobody waits in its queue."""
        first = queue in _AHEAD_OF_OTHERS or had_slot or self.latest.get(queue, 0.0) <= now + AHEAD
        return first and self.free(now) > 0

    def slot(self, now: float, queue: Queue, *, had_slot: bool) -> float:
        """Hand out a time; who has it comes back a little before."""
        first = max(now + AHEAD, self.next_one(now))
        again = had_slot and queue not in _AHEAD_OF_OTHERS
        if again and self._after(now, Queue.AGAIN) < first + SOON:
            queue = Queue.AGAIN
        at = max(first, self._after(now, queue))
        self.latest[queue] = at
        self.changed = True
        return at

    def stand_behind(self, queue: Queue, slot: float | None) -> None:
        """Let whoever comes next have the slot after this one; None: nobody waits in the queue."""
        self.latest.pop(queue, None)
        if slot is not None:
            self.latest[queue] = slot
        self.changed = True

    def _after(self, now: float, queue: Queue) -> float:
        latest = self.latest.get(queue, 0.0)
        return latest + 1 / self.slots_a_second(max(latest, now))

    def slots_a_second(self, at: float) -> float:
        """Give the rate of slots; of what is only limited in number, a guess that is too high."""
        rate = self.rate_at(at)
        if self.limit.at_once is not None:
            rate = min(rate or FASTEST, 10.0 * self.limit.at_once)
        return rate or RECOVERED

    def slow_down(self, now: float, claimed_at: float, outcome: Deferred) -> None:
        """Halve the rate, if the mail that met this was claimed after it was halved before."""
        if outcome.retry_after is not None:
            until = now + clamp_retry_after(outcome.retry_after)
            if until > self.until:
                self.until, self.changed = until, True
        if self.slow is not None and claimed_at <= self.slowed_at:
            return
        rate = self.rate_at(now)
        self.slow = SLOWED_FIRST if rate is None else max(SLOWEST, rate / 2)
        self.slowed_at = now
        self.reason = printable(_ADDRESS.sub("…", outcome.text))  # it outlives the mail
        self.changed = True
