"""Forget what nobody needs any more, a piece at a time, so that no writer waits long.

The content of what was accepted, was cancelled or expired goes first, whole messages later, their
history with them. What failed or is unknown keeps its content as long as its row, to be retried by
hand. What is queued or under way is never touched. Limits that hold nothing any more go, too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    Delete,
    Executable,
    bindparam,
    case,
    delete,
    select,
)

from flask_outbox.mail.errors import Contended
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.say import Say
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.enqueue import uuid7
from flask_outbox.outbox.rates import IDLE_MOST, forget_idle
from flask_outbox.outbox.statements import by_key
from flask_outbox.outbox.tables import content, event, message, recipient

log = Say("flask_outbox.outbox")

PIECE = 100  # messages of one transaction
AFTER_ALL = "g"  # behind every id: those are hex
OCTETS_MOST = 8 * 1024 * 1024  # content of one, or one message if it has more

_m = message.c
_IDS: BindParameter[list[str]] = bindparam("ids", expanding=True)
_DONE_WITH = (State.ACCEPTED.value, State.CANCELLED.value, State.EXPIRED.value)
_OF_CONTENT = (_m.state.in_(_DONE_WITH), _m.ended_at <= bindparam("before"))
_OF_ROWS = (_m.ended_at <= bindparam("before"),)


@dataclass(frozen=True, slots=True)
class Keep:
    """How long, in seconds after its end, what is kept; None: as long as its row, for ever."""

    content: float | None = None
    rows: float | None = None

    @property
    def everything(self) -> bool:
        """Whether nothing is ever forgotten."""
        return self.content is None and self.rows is None


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many contents, and how many whole messages, are gone."""

    contents: int = 0
    messages: int = 0

    def __add__(self, other: "Pruned") -> "Pruned":
        return Pruned(self.contents + other.contents, self.messages + other.messages)


def prune(outbox: Outbox, *, content_after: float | None, rows_after: float | None) -> Pruned:
    """Forget all that ended so many seconds ago."""
    return sum(pieces(outbox, Keep(content_after, rows_after)), Pruned())


def pieces(outbox: Outbox, keep: Keep) -> Iterator[Pruned]:
    """Forget it piece by piece: each step is one short transaction, and may be the last.

    Several workers may do so at once.
    """
    total = Pruned()
    if keep.content is not None:
        for gone in _walk(outbox, keep.content, _OLD_CONTENT, _LOCK_FOR_CONTENT, _WIPE):
            total += Pruned(contents=gone)
            yield Pruned(contents=gone)
    if keep.rows is not None:
        for gone in _walk(outbox, keep.rows, _OLD_ROWS, _LOCK_ROWS, _FORGET):
            total += Pruned(messages=gone)
            yield Pruned(messages=gone)
    while _limits(outbox) == IDLE_MOST:
        yield Pruned()
    if total != Pruned():
        log.info(
            "Forgot the content of %d messages, and %d messages.", total.contents, total.messages
        )


def _limits(outbox: Outbox) -> int:
    with outbox.begin() as connection:
        return forget_idle(connection, outbox.now(connection))


# Ids begin with their time, so the oldest are found from the front of the primary key.
_OLD_ROWS = (
    select(_m.id, case((content.c.message.is_(None), 0), else_=_m.size).label("octets"))
    .join(content, content.c.message == _m.id, isouter=True)
    .where(_m.id > bindparam("after"), _m.id < bindparam("until"), *_OF_ROWS)
    .order_by(_m.id)
    .limit(bindparam("most"))
)
_OLD_CONTENT = (
    select(content.c.message.label("id"), _m.size.label("octets"))
    .join(message, _m.id == content.c.message)
    .where(
        content.c.message > bindparam("after"), content.c.message < bindparam("until"), *_OF_CONTENT
    )
    .order_by(content.c.message)
    .limit(bindparam("most"))
)
_FIRST = select(_m.id).where(_m.id == bindparam("first")).with_for_update(skip_locked=True)
_LOCK = by_key(select(_m.id)).where(_m.id.in_(_IDS)).order_by(_m.id).with_for_update()
_LOCK_FOR_CONTENT, _LOCK_ROWS = _LOCK.where(*_OF_CONTENT), _LOCK.where(*_OF_ROWS)
_WIPE = (delete(content).where(content.c.message.in_(_IDS)),)
_FORGET = (  # all by name: with the app's own engine SQLite may not follow foreign keys
    delete(recipient).where(recipient.c.message.in_(_IDS)),
    *_WIPE,
    delete(event).where(event.c.message.in_(_IDS)),
    delete(message).where(_m.id.in_(_IDS)),
)


def _walk(
    outbox: Outbox, age: float, find: Executable, lock: Executable, forget: Sequence[Delete]
) -> Iterator[int]:
    """Go through what is that old, and tell after each piece how many are gone.

    First what was written so long ago; then what a clock that was set back since wrote.
    """
    for from_the_future in (False, True):
        for before, ids in _old(outbox, age, find, from_the_future=from_the_future):
            try:
                with outbox.begin() as connection:
                    gone = _forget(connection, ids, before, lock, forget)
            except Contended:  # MariaDB reads small tables whole, and so may meet anybody's locks
                gone = 0
            yield gone
            if not gone:
                return


def _old(
    outbox: Outbox, age: float, find: Executable, *, from_the_future: bool
) -> Iterator[tuple[float, list[str]]]:
    """Look for it piece by piece; however long that takes, nobody waits for it."""
    after = ""
    while True:
        with outbox.read() as connection:
            now = outbox.now(connection)
            before = now - age
            first, until = (_written(now), AFTER_ALL) if from_the_future else ("", _written(before))
            terms = {"before": before, "after": max(after, first), "until": until, "most": PIECE}
            rows = connection.execute(find, terms).all()
        ids = _as_many_as_fit(rows)
        if not ids:
            return
        yield before, ids
        after = ids[-1]


def _written(at: float) -> str:
    """Give the id below which all are that were written before."""
    return uuid7(max(at, 0.0), 0, bytes(8))


def _as_many_as_fit(rows: Sequence[Any]) -> list[str]:
    ids: list[str] = []
    octets = 0
    for row in rows:
        octets += row.octets
        if ids and octets > OCTETS_MOST:
            break
        ids.append(row.id)
    return ids


def _forget(
    connection: Connection,
    ids: Sequence[str],
    before: float,
    lock: Executable,
    statements: Sequence[Delete],
) -> int:
    """Delete those of them that still are that old; none, where somebody else is at it.

    Whoever has the first of a piece has it all: of two that took what they could get, each would
    hold what the other one reads.
    """
    if connection.execute(_FIRST, {"first": ids[0]}).first() is None:
        return 0
    ours = connection.execute(lock, {"ids": ids, "before": before}).scalars().all()
    if ours:
        for statement in statements:
            connection.execute(statement, {"ids": ours})
    return len(ours)
