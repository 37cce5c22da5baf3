"""Sensitive mail whose key is not here is held back, out of the way of all other mail.

It is whole, and only our keys are wrong: nothing is charged. It waits for a minute and then as long
again as it has waited, up to ten, and leaves when its key is back.
"""

from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import Connection, RowMapping, bindparam, select

from flask_outbox.mail.errors import ConfigurationError
from flask_outbox.mail.say import Say, printable
from flask_outbox.mail.submission import Submission
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.encryption import KEY_IS_GONE, NO_KEY, NOT_INSTALLED
from flask_outbox.outbox.held import Held
from flask_outbox.outbox.schedule import Priority
from flask_outbox.outbox.settle import ROWS, hold, lock_free, settle
from flask_outbox.outbox.statements import Query, Statement, Terms
from flask_outbox.outbox.tables import FORMAT, content, message
from flask_outbox.outbox.waiting import transports as waiting_ones

log = Say("flask_outbox.outbox")

HELD_LEAST, HELD_MOST = 60.0, 600.0  # seconds
BROUGHT_MOST = 1000  # messages that a worker has be due when it begins
TRANSPORTS_MOST = 100  # that are looked at for them
LOOKED_AT = 500  # due messages of a priority
OCTETS_MOST = 32 * 1024 * 1024  # of their contents, or one if it has more

_m = message.c
_FIRST_DUE = Query(
    select(_m.id, _m.size, content.c.cipher)
    .join(content, content.c.message == _m.id)
    .where(
        _m.transport == bindparam("transport"),
        _m.priority == bindparam("priority"),
        _m.due_at <= bindparam("now"),
        _m.format <= FORMAT,
    )
    .order_by(_m.due_at, _m.id)
    .limit(LOOKED_AT)
)
_CONTENTS = Statement(
    lambda among: select(content.c.message, content.c.content, content.c.cipher).where(
        among(content.c.message)
    )
)
_REASONS = [printable(each) for each in (KEY_IS_GONE, NO_KEY, NOT_INSTALLED)]
_HELD_BACK = (
    select(_m.id)
    .where(
        _m.transport == bindparam("transport"),
        _m.priority == bindparam("priority"),
        _m.due_at > bindparam("now"),
        _m.due_at <= bindparam("until"),
        _m.reason.in_(_REASONS),
    )
    .order_by(_m.due_at)
    .limit(BROUGHT_MOST)
)


def hold_back(outbox: Outbox, claimed: Iterable[Submission], why: str) -> list[str]:
    """Give back what is claimed and cannot be decrypted, for later; give the ids."""
    fences = {each.id: each.fence for each in claimed}
    with outbox.begin() as connection:
        now = outbox.now(connection)
        rows = connection.execute(ROWS, {"ids": list(fences)}).mappings()
        ours = [row for row in rows if row["fence"] == fences[row["id"]]]
        held = _held(connection, ours, now, why)
    return _told(held, why)


def _hold_back_unclaimed(outbox: Outbox, ids: Collection[str], why: str) -> list[str]:
    """Do so with what nobody has; what is claimed at this moment is that claim's."""
    with outbox.begin() as connection:
        now = outbox.now(connection)
        free = lock_free(connection, ids)
        rows = connection.execute(ROWS, {"ids": list(free)}).mappings()
        due = [row for row in rows if row["due_at"] is not None and row["due_at"] <= now]
        held = _held(connection, due, now, why)
    return _told(held, why)


def _held(
    connection: Connection, rows: Iterable[RowMapping], now: float, why: str
) -> Sequence[Held]:
    held = hold(connection, rows, now)
    for each in held:
        waited = now - each.first_due
        each.hold_back(now + min(max(waited, HELD_LEAST), HELD_MOST), why)
    settle(connection, held)
    return held


def _told(held: Sequence[Held], why: str) -> list[str]:
    ids = [each.row["id"] for each in held]
    if ids:
        say = log.error if any(each.events for each in held) else log.warning
        say("Held back: %d sensitive messages, %s among them. %s", len(ids), ids[0], why)
    return ids


def hold_back_due(outbox: Outbox, transports: Iterable[str]) -> list[str]:
    """Hold back what cannot be decrypted of the first that are due; give the ids.

    Whether a route takes any of them now makes no difference: it spares a claim to come upon them
    one by one.
    """
    held: list[str] = []
    for transport in transports:
        for priority in Priority:
            locked, why = _undecryptable(outbox, transport, priority)
            if locked:
                held += _hold_back_unclaimed(outbox, locked, why)
    return held


def bring_back(outbox: Outbox) -> None:
    """Have what is held back be due at once: whoever begins to work now may have its key."""
    with outbox.read() as connection:
        now = outbox.now(connection)
        ids: list[str] = []
        for transport in waiting_ones(connection)[:TRANSPORTS_MOST]:
            for priority in Priority:
                terms = {"transport": transport, "priority": priority.value, "now": now}
                terms["until"] = now + HELD_MOST
                ids += connection.execute(_HELD_BACK, terms).scalars()
    if not ids:
        return
    with outbox.begin() as connection:
        now = outbox.now(connection)
        free = lock_free(connection, ids[:BROUGHT_MOST])
        rows = connection.execute(ROWS, {"ids": list(free)}).mappings()
        held = hold(connection, [row for row in rows if row["reason"] in _REASONS], now)
        for each in held:
            each.wait_no_longer()
        settle(connection, held)


def _undecryptable(outbox: Outbox, transport: str, priority: Priority) -> tuple[list[str], str]:
    """Name those of the first that are due, and say why."""
    with outbox.read() as connection:
        terms = {"transport": transport, "priority": priority.value, "now": outbox.now(connection)}
        ids = _some(_FIRST_DUE.rows(connection, terms))
        contents = _CONTENTS.found(connection, ids=ids)
    found: list[str] = []
    why = ""
    for id_, token, cipher in contents:
        try:
            outbox.keyring.decrypt(bytes(token), cipher)
        except ConfigurationError as error:
            found.append(id_)
            why = str(error)
    return found, why


def _some(rows: Sequence[Terms]) -> list[str]:
    """Give the ids of those that are encrypted, up to a size."""
    ids: list[str] = []
    octets = 0
    for row in rows:
        if row["cipher"] is None:
            continue
        octets += row["size"]
        if ids and octets > OCTETS_MOST:
            break
        ids.append(row["id"])
    return ids
