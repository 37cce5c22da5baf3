"""Rows that a claim has leased become submissions; what is not readable stands in nobody's way.

A row that makes no sense is poison and fails. One whose content cannot be decrypted is held back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select

from flask_outbox.mail.errors import ConfigurationError
from flask_outbox.mail.rates import Turn
from flask_outbox.mail.submission import Submission
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.keyless import hold_back
from flask_outbox.outbox.reclaim import poisoned
from flask_outbox.outbox.record import Recorded
from flask_outbox.outbox.settle import KNOWN, QUEUED, ROWS, hold, is_in_it, settle
from flask_outbox.outbox.statements import Statement
from flask_outbox.outbox.stored import Unreadable, unpack
from flask_outbox.outbox.tables import content, message, recipient

_m, _r = message.c, recipient.c
_CLAIMED = Statement(
    lambda among: (
        select(
            *(_m.id, _m.message_id, _m.transport, _m.route, _m.fence, _m.attempts, _m.alone),
            *(_m.sender, _m.extra, _m.claimed_at, content.c.content, content.c.cipher),
        )
        .join(content, content.c.message == _m.id, isouter=True)
        .where(among(_m.id), _m.fence == bindparam("b_fence"))
    )
)
_PLACES = Statement(
    lambda among: select(_r.message, _r.position, _r.address, _r.state, _r.due_at).where(
        among(_r.message)
    )
)

People = Mapping[str, Sequence[str]]  # the recipients of each message


class Claimed(NamedTuple):
    """A submission of ours, and how its content is encrypted."""

    submission: Submission
    cipher: str | None


class Read(NamedTuple):
    """What can be sent of a claim, and what became of the rest."""

    claimed: list[Claimed]
    failed: list[Recorded]
    moved: Sequence[str] = ()  # to a slot of their own


def read(
    connection: Connection,
    ids: Sequence[str],
    fence: str,
    now: float,
    people: People | None = None,
) -> Read:
    """Read what was just leased; a row that cannot be read fails, and its neighbours go on.

    ``people``: the recipients of each, where they are known.
    """
    rows = {row["id"]: row for row in _CLAIMED.rows(connection, ids=ids, b_fence=fence)}
    if people is None:
        people = addressed(connection, {id_: row["claimed_at"] for id_, row in rows.items()})
    leased: list[Claimed] = []
    broken: dict[str, Unreadable] = {}
    for each in ids:
        if each in people and each in rows:
            row = rows[each]
            try:
                leased.append(Claimed(unpack(row, people[each]), row["cipher"]))
            except Unreadable as error:
                broken[each] = error
    return Read(leased, _failed(connection, broken, now) if broken else [])


def _failed(connection: Connection, broken: Mapping[str, Unreadable], now: float) -> list[Recorded]:
    ours = connection.execute(ROWS, {"ids": list(broken)}).mappings()
    held = hold(connection, ours, now)
    failed = [poisoned(each, broken[each.row["id"]]) for each in held]
    settle(connection, held)
    return failed


def paced(taken: Read, turns: Mapping[str, Turn], now: float) -> Read:
    """Tell those that have a turn, some seconds from now, of it (now is monotonic)."""
    if not turns:
        return taken
    claimed = [
        each._replace(submission=replace(each.submission, turn=turn.later_by(now)))
        if (turn := turns.get(each.submission.id))
        else each
        for each in taken.claimed
    ]
    return taken._replace(claimed=claimed)


def addressed(connection: Connection, claimed_at: Mapping[str, float]) -> People:
    """Give the recipients of each attempt that is claimed then, in the order of the envelope.

    A message is left out where one has a state that only a newer version knows.
    """
    found: dict[str, list[tuple[int, str]]] = {each: [] for each in claimed_at}
    newer: set[str] = set()
    for id_, position, address, state, due_at in _PLACES.found(connection, ids=list(found)):
        if state not in KNOWN:
            newer.add(id_)
        elif state == QUEUED and is_in_it(due_at, claimed_at[id_]):
            found[id_].append((position, address))
    return {
        id_: [address for _, address in sorted(places)]
        for id_, places in found.items()
        if id_ not in newer
    }


def opened(
    outbox: Outbox, leased: Sequence[Claimed], held_back: list[str] | None = None
) -> list[Submission]:
    """Decrypt, outside of any transaction; hold back what cannot be, and add its ids."""
    readable: list[Submission] = []
    locked: list[Submission] = []
    why = ""
    for submission, cipher in leased:
        try:
            readable.append(outbox.keyring.opened(submission, cipher))
        except ConfigurationError as error:
            locked.append(submission)
            why = str(error)
    held = hold_back(outbox, locked, why) if locked else []
    if held_back is not None:
        held_back += held
    return readable
