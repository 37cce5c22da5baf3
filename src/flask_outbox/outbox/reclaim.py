"""What a dead worker, or a clock that was set back, left behind."""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, Double, String, bindparam, case, func, or_, select, update

from flask_outbox.mail.errors import ConfigurationError, InDoubt
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.outcome import Deferred, Outcome, Refused, Unclear
from flask_outbox.mail.retry import MAX_CRASHES
from flask_outbox.mail.say import Say
from flask_outbox.mail.submission import Receipt, Submission
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.enqueue import uuid7
from flask_outbox.outbox.held import Held, Judge, Kind
from flask_outbox.outbox.record import Recorded, still_fenced
from flask_outbox.outbox.settle import hold, settle
from flask_outbox.outbox.statements import Each
from flask_outbox.outbox.stored import Unreadable, unpack
from flask_outbox.outbox.tables import LEASED, content, message, recipient

log = Say("flask_outbox.outbox")

RECLAIM_MOST = 100
MEND_MOST = 10_000  # of one transaction
POISON = "poison"

_m = message.c
_LEFT_BEHIND = (
    select(message, content.c.content, content.c.cipher)
    .join(content, content.c.message == _m.id, isouter=True)
    .where(
        LEASED,
        or_(
            _m.lease_until <= bindparam("now"),
            # Further ahead than twice its length: the clock was set back since.
            _m.lease_until - bindparam("now") > 2 * (_m.lease_until - _m.leased_at),
        ),
    )
    .limit(RECLAIM_MOST)
    .with_for_update(skip_locked=True, of=message)
)
# Due at a time that a clock told which was ahead. What was never tried says so by its id, which
# begins with the time; what has a delay, was given back or deferred says so by due_from.
_FRESH = (
    _m.id > bindparam("first"),
    _m.due_at == _m.created_at,
    _m.created_at > bindparam("soon"),
    _m.due_from.is_(None),
)
_AGAIN = (_m.due_from > bindparam("soon"), _m.due_at.is_not(None))
_FROM_THE_FUTURE = [select(_m.id).where(*which).limit(1) for which in (_FRESH, _AGAIN)]
_ahead = func.coalesce(_m.due_from, _m.created_at) - bindparam("now")
# Messages before their recipients, as everybody does; what another holds is looked at next time.
_LOCK = [
    select(_m.id.label("row"), _ahead.label("ahead"))
    .where(*which)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
    for which in (_FRESH, _AGAIN)
]
_MEND_MESSAGES = Each(
    {"row": String(), "ahead": Double(), "now": Double()},
    lambda given: (
        update(message)
        .where(_m.id == given["row"])
        .values(
            due_at=_m.due_at - given["ahead"],
            first_due=case(
                (_m.first_due > given["now"], _m.first_due - given["ahead"]), else_=_m.first_due
            ),
            due_from=given["now"],
        )
    ),
)
_MEND_RECIPIENTS = Each(
    {"row": String(), "ahead": Double()},
    lambda given: (
        update(recipient)
        .where(recipient.c.message == given["row"], recipient.c.state == State.QUEUED.value)
        .values(due_at=recipient.c.due_at - given["ahead"])
    ),
)


def reclaim(outbox: Outbox) -> list[Recorded]:
    """Take back expired leases; give what became of those that had been started.

    Never started: queued again, uncharged. Started: unclear, since its last byte may have gone out,
    and claimed alone from then on. Started, claimed alone, and not marked as leaving: it died with
    its worker before the first byte; charged, and poison after MAX_CRASHES of that.
    """
    fences: dict[str, str] = {}
    recorded: list[Recorded] = []
    try:
        with outbox.begin() as connection:
            now = outbox.now(connection)
            _mend(connection, now, outbox.lease)
            rows = connection.execute(_LEFT_BEHIND, {"now": now}).mappings().all()
            held = hold(connection, rows, now)
            fences.update({each.row["id"]: each.row["fence"] for each in held})
            recorded += [one for each in held if (one := _take_back(outbox, each)) is not None]
            settle(connection, held)
    except InDoubt:  # nobody would find them again, and tell of them
        if not recorded or still_fenced(outbox, fences):
            raise
    return recorded


def _take_back(outbox: Outbox, held: Held) -> Recorded | None:
    if held.row["started_at"] is None:
        held.give_back()
        return None
    try:
        addresses = [place.address for place in held.sending()]
        submission = read_back(outbox, held, addresses)
    except Unreadable as error:
        return poisoned(held, error)
    outcome = _outcome(held)
    held.alone = True
    jitter = int.from_bytes(outbox.random(4)) / 2**32
    receipt = Receipt.same(submission, outcome)
    held.end_attempt(receipt, Judge(outbox.patience, jitter, submission.at_most_once))
    return Recorded(submission=submission, receipt=receipt, state=held.state, reason=held.reason)


def read_back(outbox: Outbox, held: Held, addresses: Sequence[str]) -> Submission:
    """Make the submission of a row that is held; without content where that cannot be decrypted."""
    submission = unpack(held.row, addresses)
    try:
        return outbox.keyring.opened(submission, held.row["cipher"])
    except ConfigurationError:  # what it came to is news all the same
        return replace(submission, content=b"")


def _outcome(held: Held) -> Outcome:
    if not held.row["alone"] or held.row["left_at"] is not None:
        return Unclear("its worker died, or lost its lease, after the start")
    held.crashes += 1
    if held.crashes >= MAX_CRASHES:
        return Refused(f"{POISON}: {held.crashes} workers died before its first byte")
    return Deferred("its worker died before the first byte")


def poisoned(held: Held, error: Unreadable) -> Recorded:
    """Fail a row that nobody can send; listeners hear of it with what can still be read."""
    why = f"its row cannot be read ({error})"
    log.warning("Message %s is failed: %s", held.row["id"], why)  # the worker's line is the alert
    addresses = [place.address for place in held.sending()]
    held.move(State.SENDING, State.FAILED, Kind.FAILED, f"{POISON}: {why}")
    submission = remains(held, addresses)
    receipt = Receipt.same(submission, Refused(held.reason))
    return Recorded(submission=submission, receipt=receipt, state=held.state, reason=held.reason)


def remains(held: Held, addresses: Sequence[str]) -> Submission:
    """Make a submission of a row that cannot be read: who and when, and nothing else."""
    row = held.row
    return Submission(
        sender=row["sender"],
        recipients=tuple(addresses),
        content=b"",
        message_id=row["message_id"],
        date=row["created_at"],
        id=row["id"],
        transport=row["transport"],
        route=row["route"],
        fence=row["fence"] or "",
        attempt=row["attempts"],
    )


def _mend(connection: Connection, now: float, lease: float) -> None:
    """Bring due times back that were counted from a clock that stood in the future."""
    soon = now + lease
    terms = {"now": now, "soon": soon, "first": uuid7(soon, 0, bytes(8)), "most": MEND_MOST}
    mended = 0
    for look, lock in zip(_FROM_THE_FUTURE, _LOCK, strict=True):
        if connection.execute(look, terms).first() is None:  # locks nothing, as nearly always
            continue
        if rows := [{**row, "now": now} for row in connection.execute(lock, terms).mappings()]:
            mended += _MEND_MESSAGES.run(connection, rows)
            _MEND_RECIPIENTS.run(connection, rows)
    if mended:
        log.warning(
            "The clock was set back: %d messages were due too late, and are not now.", mended
        )
