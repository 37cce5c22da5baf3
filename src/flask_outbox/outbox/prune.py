"""Forget what nobody needs any more, a little at a time, so that no writer waits long."""

from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, select

from flask_outbox.mail.lifecycle import State
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.enqueue import uuid7
from flask_outbox.outbox.tables import content, event, message, recipient

BATCH = 500

_m = message.c
# Ids begin with their time, so the oldest are found from the front of the primary key.
_OLD_CONTENT = (
    select(content.c.message)
    .join(message, _m.id == content.c.message)
    .where(
        content.c.message < bindparam("id"),
        _m.state == State.ACCEPTED.value,
        _m.ended_at <= bindparam("before"),
    )
    .limit(BATCH)
)
_OLD_ROWS = (
    select(_m.id).where(_m.id < bindparam("id"), _m.ended_at <= bindparam("before")).limit(BATCH)
)
_WIPE = delete(content).where(content.c.message.in_(bindparam("ids", expanding=True)))
_FORGET = (  # all by name: with the app's own engine SQLite may not follow foreign keys
    delete(recipient).where(recipient.c.message.in_(bindparam("ids", expanding=True))),
    delete(content).where(content.c.message.in_(bindparam("ids", expanding=True))),
    delete(event).where(event.c.message.in_(bindparam("ids", expanding=True))),
    delete(message).where(_m.id.in_(bindparam("ids", expanding=True))),
)


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many contents, and how many whole messages, are gone."""

    contents: int
    messages: int


def prune(outbox: Outbox, *, content_after: float, rows_after: float) -> Pruned:
    """Forget the content of what was accepted, and the rows of what has ended, that long ago.

    In seconds. What failed or is unknown keeps its content as long as its row, to be retried by
    hand. What is queued or under way is never touched.
    """
    contents = messages = 0
    while found := _batch(outbox, content_after, contents_only=True):
        contents += found
    while found := _batch(outbox, rows_after, contents_only=False):
        messages += found
    return Pruned(contents, messages)


def _batch(outbox: Outbox, age: float, *, contents_only: bool) -> int:
    with outbox.begin() as connection:
        before = outbox.now(connection) - age
        terms = {"id": uuid7(max(before, 0.0), 0, bytes(8)), "before": before}
        ids = list(
            connection.execute(_OLD_CONTENT if contents_only else _OLD_ROWS, terms).scalars()
        )
        if ids:
            _forget(connection, ids, contents_only=contents_only)
    return len(ids)


def _forget(connection: Connection, ids: list[str], *, contents_only: bool) -> None:
    for statement in (_WIPE,) if contents_only else _FORGET:
        connection.execute(statement, {"ids": ids})
