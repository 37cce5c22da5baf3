"""``at=``, ``delay=`` and ``expires=``: what an app may say of time, in UNIX seconds."""

from datetime import datetime, timedelta

from flask_outbox.mail.errors import MessageError
from flask_outbox.outbox.schedule import TOO_LATE, Schedule

Moment = datetime | float
Span = timedelta | float

EARLIEST = 1e9  # 2001: whoever says less means a number of seconds from now
LATEST = 253_370_764_800.0  # 9999: the last year that a Date can name


def moment(value: Moment, field: str) -> float:
    """Read a point in time; a datetime must know its zone."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise MessageError(
                f"{field} must be a datetime with a time zone, like datetime.now(UTC), or UNIX"
                " seconds."
            )
        return _within(value.timestamp(), field)
    if isinstance(value, bool) or not isinstance(value, (int, float)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise MessageError(f"{field} must be a datetime with a time zone, or UNIX seconds.")
    if value < EARLIEST:
        instead = "a timedelta" if field == "expires" else "delay"
        raise MessageError(
            f"{field} must be a point in time: a datetime with a time zone, or UNIX seconds. For a"
            f" number of seconds from now, use {instead}."
        )
    return _within(value, field)


def _within(seconds: float, field: str) -> float:
    if not seconds < LATEST:
        raise MessageError(f"{field} must lie before the year 9999.")
    return float(seconds)


def span(value: Span, field: str) -> float:
    """Read a length of time."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise MessageError(f"{field} must be a timedelta, or a number of seconds.")
    _within(abs(value), field)
    return float(value)


def schedule_of(
    at: Moment | None, delay: Span | None, expires: Moment | timedelta | None, now: float
) -> Schedule:
    """Read all that was said of time; ``now`` is for what cannot be meant."""
    if at is not None and delay is not None:
        raise MessageError("at and delay say the same thing: give one of them.")
    start = None if at is None else moment(at, "at")
    later = None if delay is None else span(delay, "delay")
    _within(now + (later or 0.0), "delay")
    end = lasts = None
    if isinstance(expires, timedelta):
        lasts = expires.total_seconds()
    elif expires is not None:
        end = moment(expires, "expires")
    schedule = Schedule(at=start, delay=later, expires=end, lasts=lasts)
    _within(schedule.due(now) + (lasts or 0.0), "expires")
    if end is not None and later is not None and end <= now + later:
        raise MessageError(TOO_LATE)
    return schedule
