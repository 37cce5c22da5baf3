"""What a person asks of the outbox, and what a person may do: look, cancel, retry."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, select, update

from flask_outbox.mail.errors import InDoubt, MessageError, OutboxUnavailable
from flask_outbox.mail.lifecycle import OPEN, State
from flask_outbox.mail.submission import Submission
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.held import Held, Kind, Place
from flask_outbox.outbox.prune import Pruned, prune
from flask_outbox.outbox.schedule import Priority
from flask_outbox.outbox.settle import ROWS, hold, settle
from flask_outbox.outbox.statements import by_key
from flask_outbox.outbox.stats import Stats, stats
from flask_outbox.outbox.stored import unpack
from flask_outbox.outbox.tables import content, event, message

__all__ = [
    "Entry", "Pruned", "Recipient", "Stats", "Status", "cancel", "history", "list_messages",
    "prune", "retry", "stats", "status", "submission",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """How far a message came with one recipient."""

    address: str
    state: State
    attempts: int  # those that counted
    unclear: int
    due_at: float | None
    reply: str  # the latest
    reference: str  # the far side's own id


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How far a message came; times are UNIX seconds by the database's clock."""

    id: str
    message_id: str
    state: State
    reason: str
    recipients: tuple[Recipient, ...]
    transport: str
    route: str
    priority: Priority | str  # the word itself, where only a newer version knows it
    sender: str
    size: int
    key: str | None
    attempts: int
    crashes: int
    created_at: float
    due_at: float | None
    expires_at: float | None
    started_at: float | None
    ended_at: float | None
    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a message's history."""

    at: float
    kind: Kind | str  # the word itself, where only a newer version knows it
    recipient: str | None  # None: all of them
    attempt: int
    text: str


_m = message.c
_STATE = select(_m.state).where(_m.id == bindparam("id"))
_ONE = select(message).where(_m.id == bindparam("id"))  # without a lock: who asks never waits
_LIST = (
    select(message)
    .where(_m.id < bindparam("before"))
    .order_by(_m.id.desc())
    .limit(bindparam("most"))
)
_LIST_STATE = _LIST.where(_m.state == bindparam("state"))
_HISTORY = select(event).where(event.c.message == bindparam("id")).order_by(event.c.number)
_UNDER_WAY = select(_m.started_at, _m.attempts).where(
    _m.id == bindparam("id"), _m.started_at.is_not(None)
)
_WHOLE = (
    select(message, content.c.content, content.c.cipher)
    .join(content, content.c.message == _m.id)
    .where(_m.id == bindparam("id"))
)
_HAS_CONTENT = select(content.c.message).where(content.c.message == bindparam("id"))
_AFRESH = by_key(update(message)).where(_m.id == bindparam("b_id"))
_KINDS = {each.value: each for each in Kind}
_PRIORITIES = {each.value: each for each in Priority}
_LAST = "g"  # after every hex digit


def status(outbox: Outbox, id: str) -> Status | None:  # noqa: A002  the word that users see
    """Look a message up; None where there is none, or none any more."""
    with outbox.read() as connection:
        return status_within(connection, id)


def status_within(connection: Connection, id: str) -> Status | None:  # noqa: A002  the same
    """Do so by a connection."""
    rows = connection.execute(_ONE, {"id": id}).mappings()
    return next((_status(each) for each in hold(connection, rows, 0.0)), None)


def list_messages(
    outbox: Outbox, *, state: State | None = None, limit: int = 50, before: str | None = None
) -> list[Status]:
    """List messages, the newest first; ``before``: the last id of the page before this one."""
    terms: dict[str, Any] = {"before": before or _LAST, "most": limit}
    if state is not None:
        terms["state"] = state.value
    with outbox.read() as connection:
        rows = connection.execute(_LIST if state is None else _LIST_STATE, terms).mappings()
        return [_status(each) for each in hold(connection, rows, 0.0)]


def history(outbox: Outbox, id: str) -> list[Entry]:  # noqa: A002  the word that users see
    """List what happened to a message, in order; each attempt begins with STARTED."""
    with outbox.read() as connection:
        events = connection.execute(_HISTORY, {"id": id}).all()
        under_way = connection.execute(_UNDER_WAY, {"id": id}).first()
    told: list[Entry] = []
    began: float | None = None
    for each in events:
        at: float | None = each.began_at
        if at is not None and at != began:
            told.append(_started(at, each.attempt))
            began = at
        told.append(
            Entry(
                at=each.at,
                kind=_kind(each.kind),
                recipient=each.recipient,
                attempt=each.attempt,
                text=each.text,
            )
        )
    if under_way is not None and under_way.started_at is not None:
        told.append(_started(under_way.started_at, under_way.attempts))
    return told


def _kind(stored: str) -> Kind | str:
    return _KINDS.get(stored, stored)


def _priority(stored: str) -> Priority | str:
    return _PRIORITIES.get(stored, stored)


def _started(at: float, attempt: int) -> Entry:
    return Entry(at=at, kind=Kind.STARTED, recipient=None, attempt=attempt, text="")


def submission(outbox: Outbox, id: str) -> Submission | None:  # noqa: A002  the word that users see
    """Read a message back, with all its recipients; None where its content is not kept.

    Raises ConfigurationError where it is encrypted with a key that is not here.
    """
    with outbox.read() as connection:
        rows: Sequence[RowMapping] = connection.execute(_WHOLE, {"id": id}).mappings().all()
        held = hold(connection, rows, 0.0)
    found = [(unpack(one.row, _addresses(one.places)), one.row["cipher"]) for one in held]
    return next((outbox.keyring.opened(*each) for each in found), None)


def cancel(outbox: Outbox, id: str) -> bool:  # noqa: A002  the word that users see
    """Keep a queued message from being sent; False where a worker has it, or it has ended."""
    done = False
    try:
        with outbox.begin() as connection:
            done = cancel_within(connection, outbox, id)
    except InDoubt:
        if not done or _state_now(outbox, id) != State.CANCELLED.value:
            raise
    return done


def cancel_within(connection: Connection, outbox: Outbox, id: str) -> bool:  # noqa: A002  the same
    """Do so in the transaction of a connection.

    That may stay open for long: only what it cancels is locked. And what is not there would have
    MariaDB lock the gap in which it might be, at REPEATABLE READ, and so all new mail.
    """
    if connection.execute(_STATE, {"id": id}).scalar() != State.QUEUED.value:
        return False
    rows = connection.execute(ROWS, {"ids": [id]}).mappings().all()
    held = hold(connection, rows, outbox.about_now(connection))
    if not held or held[0].state is not State.QUEUED:
        return False
    why = "cancelled"
    if held[0].row["unclear"]:
        why = "cancelled, and may have been accepted before that"
    held[0].move(State.QUEUED, State.CANCELLED, Kind.CANCELLED, why)
    settle(connection, held)
    return True


def retry(outbox: Outbox, id: str) -> bool:  # noqa: A002  the word that users see
    """Queue a message again that failed, is unknown, was cancelled or expired; False for others.

    Only the recipients that gave it its state are tried, with patience counted anew. Nobody who
    accepted it gets it again. Raises MessageError where its content is no longer kept.
    """
    before: list[str] = []
    try:
        return _retry(outbox, id, before)
    except InDoubt:
        if not before or _state_now(outbox, id) in {None, *before}:
            raise
        return True


def _state_now(outbox: Outbox, row: str) -> str | None:
    """Look, where that is possible, whether a commit in doubt was done."""
    with suppress(OutboxUnavailable), outbox.read() as connection:
        found: str | None = connection.execute(_STATE, {"id": row}).scalar()
        return found
    return None


def _retry(outbox: Outbox, id: str, before: list[str]) -> bool:  # noqa: A002  the same
    with outbox.begin() as connection:
        now = outbox.now(connection)
        rows = connection.execute(ROWS, {"ids": [id]}).mappings().all()
        held = hold(connection, rows, now)
        if not held or held[0].state in OPEN or held[0].state is State.ACCEPTED:
            return False
        if connection.execute(_HAS_CONTENT, {"id": id}).first() is None:
            raise MessageError("Its content is no longer kept: compose the message again.")
        one = held[0]
        before.append(one.state.value)
        _begin_afresh(one)
        settle(connection, held)
        expires = one.row["expires_at"]
        over = expires is not None and expires <= now
        connection.execute(
            _AFRESH, {"b_id": id, "first_due": now, "expires_at": None if over else expires}
        )
        return True


def _begin_afresh(held: Held) -> None:
    again = [place for place in held.places if place.state is held.state]
    held.move(held.state, State.QUEUED, Kind.RETRIED, "retried by hand")
    held.attempts = held.crashes = 0
    for place in again:
        place.attempts = place.unclear = 0


def _addresses(places: Iterable[Place]) -> list[str]:
    return [place.address for place in places]


def _status(held: Held) -> Status:
    row = held.row
    return Status(
        id=row["id"],
        message_id=row["message_id"],
        state=State(row["state"]),
        reason=row["reason"],
        recipients=tuple(
            Recipient(
                address=place.address,
                state=place.state,
                attempts=place.attempts,
                unclear=place.unclear,
                due_at=place.due_at,
                reply=place.reply,
                reference=place.reference,
            )
            for place in held.places
        ),
        transport=row["transport"],
        route=row["route"],
        priority=_priority(row["priority"]),
        sender=row["sender"],
        size=row["size"],
        key=row["key"],
        attempts=row["attempts"],
        crashes=row["crashes"],
        created_at=row["created_at"],
        due_at=row["due_at"],
        expires_at=row["expires_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        worker=row["worker"],
    )
