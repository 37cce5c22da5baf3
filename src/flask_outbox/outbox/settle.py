"""Where a row goes from here: the only code that moves messages and recipients from state to state.

A ``Held`` is a row and its recipients, read in the transaction at hand. What happened is told to it
in the words of ``mail/``; ``settle`` then writes all of them with a fixed number of statements. The
message's UPDATE carries the fence and the state that were read: no row, no overwrite.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from sqlalchemy import (
    Connection,
    RowMapping,
    String,
    Text,
    bindparam,
    delete,
    false,
    insert,
    literal_column,
    null,
    select,
    update,
)

from flask_outbox.mail.errors import OutboxUnavailable
from flask_outbox.mail.exchange import Report
from flask_outbox.mail.lifecycle import OPEN, State, may, summary
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Outcome, Refused, Unclear
from flask_outbox.mail.retry import Patience, next_attempt
from flask_outbox.mail.say import printable
from flask_outbox.outbox.statements import Each, Statement
from flask_outbox.outbox.stored import is_sensitive
from flask_outbox.outbox.tables import content, event, message, recipient

REFERENCE_MOST = 255
WIPED = frozenset({State.ACCEPTED, State.CANCELLED, State.EXPIRED})  # of a sensitive message
KNOWN = frozenset(state.value for state in State)
QUEUED = State.QUEUED.value
MAY_HAVE = "may have been accepted: "
NO_REPORT = Unclear("nothing was reported for this recipient")


class Kind(Enum):
    """What an event in a message's history says; the stored word is the word in the code."""

    STARTED = "started"  # told by the row while under way, by the outcome's event afterwards
    ACCEPTED = "accepted"
    DEFERRED = "deferred"
    UNCLEAR = "unclear"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    RETRIED = "retried"  # by hand


@dataclass(slots=True)
class Place:
    """One recipient's place in the row."""

    position: int
    address: str
    state: State
    due_at: float | None
    attempts: int
    unclear: int
    reply: str
    reference: str
    moved: bool = False

    def move(self, state: State, due_at: float | None, reply: str | None = None) -> None:
        """Go to a state, if the lifecycle has that change."""
        if not may(self.state, state):
            raise ValueError(f"{self.state.value} cannot become {state.value}")
        self.state, self.due_at, self.moved = state, due_at, True
        if reply is not None:
            self.reply = printable(reply)


@dataclass(slots=True)
class Held:
    """A row of ``outbox_message`` as it was read, and what is to become of it."""

    row: RowMapping
    places: list[Place]
    now: float
    attempts: int
    crashes: int
    alone: bool
    reason: str = ""
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def state(self) -> State:
        """The summary of the recipients' states."""
        return summary(place.state for place in self.places)

    def sending(self) -> list[Place]:
        """List the recipients of the attempt under way."""
        return [place for place in self.places if place.state is State.SENDING]

    def tell(self, kind: Kind, text: str, place: Place | None = None) -> None:
        """Add to the history; what an attempt came to tells when that began, too."""
        self.events.append(
            {
                "message": self.row["id"],
                "recipient": place.address if place else None,
                "kind": kind.value,
                "at": self.now,
                "attempt": self.attempts,
                "text": printable(text),
                "began_at": self.row["started_at"],
            }
        )

    def move(self, before: State, after: State, kind: Kind, reason: str) -> None:
        """Move every recipient from one state to another, for a reason that is nobody's reply."""
        for place in self.places:
            if place.state is before:
                place.move(after, self.now if after is State.QUEUED else None)
        self.reason = printable(reason)
        self.tell(kind, reason)

    def give_back(self) -> None:
        """End a lease that was never started: nothing is charged, and it is due as it was.

        It was due when it was claimed, so it is due now, wherever the clock was set to since.
        """
        for place in self.sending():
            place.move(State.QUEUED, min(place.due_at or self.now, self.now))
        self.reason = self.row["reason"]

    def hold_back(self, until: float, why: str) -> None:
        """End a lease that was never started, until it can be: nothing is charged."""
        for place in self.sending():
            place.move(State.QUEUED, until)
        if self.row["reason"] != printable(why):  # told once
            self.tell(Kind.DEFERRED, why)
        self.reason = printable(why)

    def expire(self, why: str) -> dict[str, Outcome]:
        """End what was still to be sent, at whatever time; tell what that means for whom.

        Whom an earlier attempt may have reached is unknown: a person decides.
        """
        outcomes: dict[str, Outcome] = {}
        for place in self.places:
            if place.state in OPEN and place.unclear:
                place.move(State.UNKNOWN, None, f"{MAY_HAVE}{why} again")
                self.tell(Kind.UNCLEAR, place.reply, place)
                outcomes[place.address] = Unclear(f"{why} again")
            elif place.state in OPEN:
                place.move(State.EXPIRED, None)
                self.tell(Kind.EXPIRED, why, place)
                outcomes[place.address] = Refused(why)
        self.reason = why if self.state is State.EXPIRED else self._reply()
        return outcomes

    def _reply(self) -> str:
        """Give the reply to whom it owes its state."""
        state = self.state
        return next((place.reply for place in self.places if place.state is state), "")

    def judge(self, place: Place, outcome: Outcome, judge: "Judge") -> bool:
        """Take in what an attempt came to for one recipient; tell whether it was charged."""
        charged = not (isinstance(outcome, Deferred) and outcome.fault is not Fault.TRANSIENT)
        place.attempts += charged
        place.unclear += isinstance(outcome, Unclear)
        match outcome:
            case Accepted():
                place.move(State.ACCEPTED, None, outcome.text)
                place.reference = _reference(outcome)
                self.tell(Kind.ACCEPTED, outcome.text, place)
            case Refused():
                place.move(State.FAILED, None, outcome.text)
                self.tell(Kind.FAILED, outcome.text, place)
            case Deferred() | Unclear():
                self._again(place, outcome, judge.next_attempt(self, place, outcome))
        return charged

    def _again(self, place: Place, outcome: Deferred | Unclear, due: float | None) -> None:
        kind = Kind.UNCLEAR if isinstance(outcome, Unclear) else Kind.DEFERRED
        if due is not None:
            place.move(State.QUEUED, due, outcome.text)
        elif place.unclear:  # with this attempt or with an earlier one
            kind = Kind.UNCLEAR
            place.move(State.UNKNOWN, None, f"{MAY_HAVE}{outcome.text}")
        else:
            kind = Kind.FAILED
            place.move(State.FAILED, None, f"gave up: {outcome.text}")
        self.tell(kind, place.reply, place)

    def end_attempt(self, outcomes: dict[str, Outcome], judge: "Judge") -> None:
        """Take in a receipt; an attempt that cost no recipient one is given back."""
        charged = [
            self.judge(place, outcomes.get(place.address, NO_REPORT), judge)
            for place in self.sending()
        ]
        if not any(charged) and self.row["started_at"] is not None:
            self.attempts -= 1
        self.reason = "" if self.state is State.ACCEPTED else self._reply()


@dataclass(frozen=True, slots=True)
class Judge:
    """What decides about the next attempt besides the outcome."""

    patience: Patience
    jitter: float
    at_most_once: bool

    def next_attempt(self, held: Held, place: Place, outcome: Outcome) -> float | None:
        """Tell when, or never."""
        if self.at_most_once and isinstance(outcome, Unclear):
            return None
        return next_attempt(
            max(place.attempts, 1),
            outcome,
            held.now,
            self.jitter,
            first_due=held.row["first_due"],
            patience=self.patience,
            unclear=place.unclear,
        )


ROWS = (
    select(message)
    .where(message.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(message.c.id)  # all who lock several do it in this order
    .with_for_update()
)
# Sorted by us: for its order a planner without statistics would read the whole of an index.
_PLACES = select(recipient).where(recipient.c.message.in_(bindparam("ids", expanding=True)))
_NOBODYS = dict.fromkeys(
    ("started_at", "left_at", "claimed_at", "leased_at", "lease_until", "fence")
)
_NO_MORE: Mapping[str, Any] = dict.fromkeys(_NOBODYS, null())
_MOVE_MESSAGE = update(message).where(
    message.c.id == bindparam("b_id"),
    message.c.state == bindparam("b_state"),
    message.c.fence.is_not_distinct_from(bindparam("b_fence")),
)
_MOVE_RECIPIENT = update(recipient).where(
    recipient.c.message == bindparam("b_message"),
    recipient.c.position == bindparam("b_position"),
)
_ACCEPT_RECIPIENTS = Each(
    {"to": String(), "address": String(), "reply": Text(), "reference": String()},
    lambda given: (
        update(recipient)
        .where(
            recipient.c.message == given["to"],
            recipient.c.address == given["address"],
            recipient.c.state.in_([literal_column("'queued'"), literal_column("'sending'")]),
        )
        .values(
            state=literal_column("'accepted'"),
            due_at=null(),
            attempts=recipient.c.attempts + literal_column("1"),
            reply=given["reply"],
            reference=given["reference"],
        )
    ),
)
_ACCEPT_MESSAGES = Statement(
    lambda among: (
        update(message)
        .where(
            among(message.c.id),
            message.c.fence == bindparam("b_fence"),
            message.c.state == State.SENDING.value,
        )
        .values(
            state=State.ACCEPTED.value,
            ended_at=bindparam("now"),
            unclear=false(),
            reason="",
            **_NO_MORE,
        )
    )
)
_OTHERS = Statement(
    lambda among: (
        select(recipient.c.message)
        .where(among(recipient.c.message), recipient.c.state != State.ACCEPTED.value)
        .limit(1)
    )
)
_EVENTS = Each(
    {each.name: each.type for each in event.c if each is not event.c.number},
    lambda given: insert(event).values(given),
)
_WIPE = Statement(lambda among: delete(content).where(among(content.c.message)))


def hold(connection: Connection, rows: Iterable[RowMapping], now: float) -> list[Held]:
    """Read the recipients of these rows; those of an attempt under way are sending.

    A row in a state that this version does not know is a newer one's, and left alone.
    """
    held = {
        row.id: Held(row, [], now, row.attempts, row.crashes, row.alone, row.reason)
        for row in rows
        if row.state in KNOWN
    }
    if held:
        for each in connection.execute(_PLACES, {"ids": list(held)}):
            if each.state not in KNOWN:
                held.pop(each.message, None)
            elif each.message in held:
                until = held[each.message].row["claimed_at"]
                under_way = each.state == QUEUED and is_in_it(each.due_at, until)
                held[each.message].places.append(
                    Place(
                        each.position,
                        each.address,
                        State.SENDING if under_way else State(each.state),
                        each.due_at,
                        each.attempts,
                        each.unclear,
                        each.reply,
                        each.reference,
                    )
                )
    for one in held.values():
        one.places.sort(key=_position)
    return list(held.values())


def is_in_it(due_at: float | None, claimed_at: float | None) -> bool:
    """Tell whether a queued recipient is in the attempt that was claimed then."""
    return claimed_at is not None and due_at is not None and due_at <= claimed_at


def _position(place: Place) -> int:
    return place.position


class NotAsBegun(Exception):  # noqa: N818  it never leaves this floor: the careful way is taken
    """A message is not what its start left, or has recipients besides those of the attempt."""


def accept(connection: Connection, reports: Sequence[Report], now: float) -> None:
    """Write down the most frequent end: a first attempt that was accepted for every recipient.

    Reads nothing; raises NotAsBegun, for the transaction to be undone, where there was more to it.
    """
    ids_by_fence: dict[str, list[str]] = {}
    for report in reports:
        ids_by_fence.setdefault(report.submission.fence, []).append(report.submission.id)
    for fence, ids in ids_by_fence.items():
        if _ACCEPT_MESSAGES.run(connection, ids=sorted(ids), b_fence=fence, now=now) != len(ids):
            raise NotAsBegun
    places = [_accepted(report, *each) for report in reports for each in report.receipt.items()]
    if _ACCEPT_RECIPIENTS.run(connection, places) != len(places):
        raise NotAsBegun
    if _OTHERS.rows(connection, ids=[report.submission.id for report in reports]):
        raise NotAsBegun
    lines = [_line(report, *each, now) for report in reports for each in report.receipt.items()]
    _EVENTS.run(connection, lines)
    if wipe := [each.submission.id for each in reports if each.submission.sensitive]:
        _WIPE.run(connection, ids=wipe)


def _accepted(report: Report, address: str, outcome: Outcome) -> dict[str, Any]:
    return {
        "to": report.submission.id,
        "address": address,
        "reply": printable(outcome.text),
        "reference": _reference(outcome),
    }


def _line(report: Report, address: str, outcome: Outcome, now: float) -> dict[str, Any]:
    return {
        "message": report.submission.id,
        "recipient": address,
        "kind": Kind.ACCEPTED.value,
        "at": now,
        "attempt": report.submission.attempt,
        "text": printable(outcome.text),
        "began_at": report.submission.began_at,
    }


def _reference(outcome: Outcome) -> str:
    return printable(outcome.reference)[:REFERENCE_MOST] if isinstance(outcome, Accepted) else ""


def settle(connection: Connection, held: Sequence[Held]) -> None:
    """Write what became of them; wipe what is sensitive and will not be sent again.

    Raises OutboxUnavailable, and so undoes all of it, where a row has changed since it was read.
    """
    if not held:
        return
    moved = connection.execute(_MOVE_MESSAGE, [_message(each) for each in held]).rowcount
    if moved != len(held):
        raise OutboxUnavailable("The outbox changed while it was written to: nothing was changed.")
    places = [_place(each, place) for each in held for place in each.places if place.moved]
    if places:
        connection.execute(_MOVE_RECIPIENT, places)
    if events := [each for one in held for each in one.events]:
        _EVENTS.run(connection, events)
    over = [each.row for each in held if each.state in WIPED]
    if wipe := [row["id"] for row in over if is_sensitive(row["extra"])]:
        _WIPE.run(connection, ids=wipe)


def _message(held: Held) -> dict[str, Any]:
    waiting = [place for place in held.places if place.state is State.QUEUED]
    queued = held.state is State.QUEUED
    return {
        "b_id": held.row["id"],
        "b_state": held.row["state"],
        "b_fence": held.row["fence"],
        "state": held.state.value,
        "due_at": min(place.due_at or held.now for place in waiting) if queued else None,
        "due_from": held.now if queued else None,
        "attempts": held.attempts,
        "crashes": held.crashes,
        "alone": held.alone,
        "unclear": any(place.unclear for place in waiting),
        "reason": held.reason,
        "ended_at": None if held.state in OPEN else held.now,
        **_NOBODYS,
    }


def _place(held: Held, place: Place) -> dict[str, Any]:
    return {
        "b_message": held.row["id"],
        "b_position": place.position,
        "state": place.state.value,
        "due_at": place.due_at,
        "attempts": place.attempts,
        "unclear": place.unclear,
        "reply": place.reply,
        "reference": place.reference,
    }
