"""Erase an address from the outbox, as the person that it belongs to may ask.

Found by the envelope: whoever is a recipient of a message, or its sender. What has ended loses the
address wherever it stands, and its content. What waits for that address alone is cancelled first.
What is under way, or is still to reach others, keeps it until it has ended, and is said to be left.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BindParameter, Connection, bindparam, select, update

from flask_outbox.mail.address import Address, parse_address
from flask_outbox.mail.errors import Contended
from flask_outbox.mail.lifecycle import OPEN, State
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.held import Held, Kind, Place
from flask_outbox.outbox.settle import ROWS, WIPE, hold, settle
from flask_outbox.outbox.statements import by_key
from flask_outbox.outbox.stored import rewritten
from flask_outbox.outbox.tables import event, message, recipient, route

ERASED = "erased@invalid"  # stands where the address stood (RFC 2606: nobody has it)
WHY = "cancelled: its address was erased"

_WITH_A_REPLY = frozenset(
    each.value for each in (Kind.ACCEPTED, Kind.DEFERRED, Kind.UNCLEAR, Kind.FAILED)
)

LOOKED_AT = 1000  # messages of one look
CHANGED = 100  # of one transaction
TRIES = 5

_IDS: BindParameter[list[str]] = bindparam("ids", expanding=True)
_PAGE = (
    select(message.c.id, message.c.sender)
    .where(message.c.id > bindparam("after"))
    .order_by(message.c.id)
    .limit(bindparam("most"))
)
_PEOPLE = select(recipient.c.message, recipient.c.address).where(
    recipient.c.message.between(bindparam("first"), bindparam("last"))
)
_EVENTS = select(event).where(event.c.message.in_(_IDS))
_ROUTES = select(route.c.name, route.c.reason).order_by(route.c.name).with_for_update()
_MESSAGE = by_key(update(message)).where(message.c.id == bindparam("b_id"))
_RECIPIENT = update(recipient).where(
    recipient.c.message == bindparam("b_message"), recipient.c.position == bindparam("b_position")
)
_EVENT = update(event).where(event.c.number == bindparam("b_number"))
_ROUTE = update(route).where(route.c.name == bindparam("b_name"))


@dataclass(slots=True)
class Erased:
    """What was done: numbers of messages, of their contents and of lines of their history."""

    cancelled: int = 0  # they waited, and the address does not get them any more
    messages: int = 0  # they do not have the address any more
    contents: int = 0
    events: int = 0
    left: list[str] = field(default_factory=list[str])  # ids of those that still have it

    def __add__(self, other: "Erased") -> "Erased":
        return Erased(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


def erase(outbox: Outbox, address: str) -> Erased:
    """Erase an address; to be called again while something is left.

    Raises MessageError for what is no address. Large and small letters are the same.
    """
    person = _Person(parse_address(address, "address"))
    erased = Erased()
    for ids in _found(outbox, person):
        erased += _patiently(outbox, person, ids)
    with outbox.begin() as connection:
        for row in connection.execute(_ROUTES).all():
            if (text := person.gone_from(row.reason)) != row.reason:
                connection.execute(_ROUTE, {"b_name": row.name, "reason": text})
    _empty_the_log(outbox)
    return erased


class _Person:
    """Somebody, by all the ways that their address may be written."""

    def __init__(self, address: Address) -> None:
        self._addr = address.addr.casefold()
        local, _, domain = address.addr.rpartition("@")
        forms = {address.addr}
        if "xn--" in domain:
            from idna import decode  # noqa: PLC0415  only internationalised addresses come here

            forms.add(f"{local}@{decode(domain)}")
        either = "|".join(map(re.escape, forms))
        # Where servers quote addresses, another may end or begin with theirs.
        self._quoted = re.compile(rf"(?<![\w.+-])(?:{either})(?![\w-]|\.\w)", re.IGNORECASE)
        # What an app calls a mail to them may be written together with it.
        forms |= {each.replace("@", "%40") for each in forms}
        self._within = re.compile("|".join(map(re.escape, forms)), re.IGNORECASE)

    def has(self, address: str | None) -> bool:
        """Tell whether it is theirs; canonical ones only."""
        return address is not None and address.casefold() == self._addr

    def gone_from(self, text: str) -> str:
        """Put the other in its place, wherever it stands in a text of ours or of a server."""
        return self._quoted.sub(ERASED, text)

    def gone_from_theirs(self, text: str) -> str:
        """Do so in what an app wrote about a mail of theirs, whatever it is joined to."""
        return self._within.sub(ERASED, text)

    def theirs(self, held: Held) -> list[Place]:
        """List the places that are theirs."""
        return [place for place in held.places if self.has(place.address)]


def _found(outbox: Outbox, person: _Person) -> Iterator[list[str]]:
    """Go through all messages and give the ids of theirs, so many at a time."""
    after = ""
    while True:
        with outbox.read() as connection:
            rows = connection.execute(_PAGE, {"after": after, "most": LOOKED_AT}).all()
            if not rows:
                return
            first, after = rows[0].id, rows[-1].id
            people = connection.execute(_PEOPLE, {"first": first, "last": after}).all()
        ids = {row.id for row in rows if person.has(row.sender)}
        ids.update(row.message for row in people if person.has(row.address))
        ordered = sorted(ids)
        for start in range(0, len(ordered), CHANGED):
            yield ordered[start : start + CHANGED]


def _patiently(outbox: Outbox, person: _Person, ids: Sequence[str]) -> Erased:
    """Erase them from these messages; again, where a worker that records was let go first."""
    for _ in range(TRIES - 1):
        with suppress(Contended), outbox.begin() as connection:
            return _erase(connection, outbox.now(connection), person, ids)
    with outbox.begin() as connection:
        return _erase(connection, outbox.now(connection), person, ids)


def _erase(connection: Connection, now: float, person: _Person, ids: Sequence[str]) -> Erased:
    erased = Erased()
    rows = connection.execute(ROWS, {"ids": ids}).mappings().all()
    held = hold(connection, rows, now)
    cancelled = [each for each in held if each.state is State.QUEUED and _cancel(each, person)]
    over = [each for each in held if each.state not in OPEN]
    ended = [each.row["id"] for each in over]
    if ended:  # before settle() wipes what is sensitive, so that it is counted
        erased.contents += WIPE.run(connection, [{"message": id_} for id_ in ended])
    settle(connection, cancelled)
    erased.cancelled += len(cancelled)
    erased.messages += len(over)
    erased.left += [each.row["id"] for each in held if each.state in OPEN]
    if over:
        connection.execute(_MESSAGE, [_without(each, person) for each in over])
        connection.execute(_RECIPIENT, [each for one in over for each in _nobody(one, person)])
        erased.events += _forget_events(connection, person, ended)
    return erased


def _cancel(held: Held, person: _Person) -> bool:
    """Cancel what waits for them; the others of the same message get it all the same."""
    waiting = [place for place in person.theirs(held) if place.state is State.QUEUED]
    for place in waiting:
        place.move(State.CANCELLED, None)
        held.tell(Kind.CANCELLED, WHY, place)
    if waiting and held.state is not State.QUEUED:
        held.reason = WHY
    return bool(waiting)


def _without(held: Held, person: _Person) -> dict[str, Any]:
    """Give the columns of a message without them."""
    row, key = held.row, held.row["key"]
    of_theirs = held.reason in {place.reply for place in person.theirs(held)}
    return {
        "b_id": row["id"],
        "message_id": person.gone_from_theirs(row["message_id"]),
        "sender": ERASED if person.has(row["sender"]) else row["sender"],
        "extra": rewritten(row["extra"], person.gone_from_theirs),
        "key": None if key is not None and person.gone_from_theirs(key) != key else key,
        "fingerprint": "",  # whoever guesses what was in it could tell by it whom it was to
        "reason": "" if of_theirs else person.gone_from(held.reason),
    }


def _nobody(held: Held, person: _Person) -> Iterator[dict[str, Any]]:
    """Give the columns of its recipients without them; what a server said of them goes, too."""
    for place in held.places:
        theirs = person.has(place.address)
        yield {
            "b_message": held.row["id"],
            "b_position": place.position,
            "address": ERASED if theirs else place.address,
            "reply": "" if theirs else person.gone_from(place.reply),
            "reference": "" if theirs else place.reference,
        }


def _forget_events(connection: Connection, person: _Person, ids: Sequence[str]) -> int:
    changed: list[dict[str, Any]] = []
    for row in connection.execute(_EVENTS, {"ids": ids}):
        theirs = person.has(row.recipient)
        text = "" if theirs and row.kind in _WITH_A_REPLY else person.gone_from(row.text)
        if theirs or text != row.text:
            who = ERASED if theirs else row.recipient
            changed.append({"b_number": row.number, "recipient": who, "text": text})
    if changed:
        connection.execute(_EVENT, changed)
    return len(changed)


def _empty_the_log(outbox: Outbox) -> None:
    """Let SQLite's log go, which has what was there before until it is written over."""
    engine = outbox.open()
    if engine.dialect.name == "sqlite":
        with closing(engine.raw_connection()) as connection:
            connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
