"""Rows that a claim has leased become submissions; what is not readable stands in nobody's way.

A row that makes no sense is poison and fails. One whose content cannot be decrypted is whole, and
only our keys are wrong: it is held back, uncharged, for a minute and then as long again as it has
waited, up to ten, and leaves when its key is back.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, select

from flask_outbox.mail.errors import ConfigurationError
from flask_outbox.mail.say import Say
from flask_outbox.mail.submission import Submission
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.reclaim import poisoned
from flask_outbox.outbox.settle import ROWS, Held, hold, settle
from flask_outbox.outbox.stored import Unreadable, unpack
from flask_outbox.outbox.tables import content, message

log = Say("flask_outbox.outbox")

HELD_LEAST, HELD_MOST = 60.0, 600.0  # seconds

_CLAIMED = (
    select(message, content.c.content, content.c.cipher)
    .join(content, content.c.message == message.c.id, isouter=True)
    .where(
        message.c.id.in_(bindparam("ids", expanding=True)),
        message.c.fence == bindparam("b_fence"),
    )
)


class Claimed(NamedTuple):
    """A submission of ours, and how its content is encrypted."""

    submission: Submission
    cipher: str | None


def read(connection: Connection, terms: dict[str, Any]) -> list[Claimed]:
    """Read what was just leased; a row that cannot be read fails, and its neighbours go on."""
    rows = {row["id"]: row for row in connection.execute(_CLAIMED, terms).mappings()}
    ours = [rows[each] for each in terms["ids"] if each in rows]
    leased: list[Claimed] = []
    broken: list[Held] = []
    for held in hold(connection, ours, terms["now"]):
        try:
            sending = [place.address for place in held.sending()]
            leased.append(Claimed(unpack(held.row, sending), held.row["cipher"]))
        except Unreadable as error:
            broken.append(poisoned(held, f"its row cannot be read ({error})"))
    settle(connection, broken)
    return leased


def opened(outbox: Outbox, leased: Sequence[Claimed]) -> list[Submission]:
    """Decrypt, outside of any transaction; hold back what cannot be."""
    readable: list[Submission] = []
    locked: list[Submission] = []
    why = ""
    for submission, cipher in leased:
        try:
            readable.append(outbox.keyring.opened(submission, cipher))
        except ConfigurationError as error:
            locked.append(submission)
            why = str(error)
    if locked:
        _hold_back(outbox, locked, why)
    return readable


def _hold_back(outbox: Outbox, locked: Sequence[Submission], why: str) -> None:
    fences = {each.id: each.fence for each in locked}
    with outbox.begin() as connection:
        now = outbox.now(connection)
        rows = connection.execute(ROWS, {"ids": list(fences)}).mappings()
        ours = [row for row in rows if row["fence"] == fences[row["id"]]]
        held = hold(connection, ours, now)
        for each in held:
            waited = now - each.row["first_due"]
            each.hold_back(now + min(max(waited, HELD_LEAST), HELD_MOST), why)
        settle(connection, held)
    if held:
        say = log.error if any(each.events for each in held) else log.warning
        say(
            "Held back: %d sensitive messages, %s among them. %s",
            len(held),
            held[0].row["id"],
            why,
        )
