"""A row and its recipients in hand: what happened is told to them, and they say what they become.

In the words of ``mail/``; ``settle.py`` reads and writes them.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from sqlalchemy import RowMapping

from flask_outbox.mail.lifecycle import OPEN, State, may, summary
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Outcome, Refused, Unclear
from flask_outbox.mail.retry import Patience, next_attempt
from flask_outbox.mail.say import printable

REFERENCE_MOST = 255
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
    first_due: float
    reason: str = ""
    waits_until: float | None = None  # for its key, from now on
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
        """End a lease of which nothing was sent: nothing is charged, and it is due as it was.

        It was due when it was claimed, so it is due now, wherever the clock was set to since.
        """
        self._heed_the_clock()
        self.attempts -= self.row["started_at"] is not None
        for place in self.sending():
            place.move(State.QUEUED, min(place.due_at or self.now, self.now))
        self.reason = self.row["reason"]

    def hold_back(self, until: float, why: str) -> None:
        """Have what is due, or claimed and never started, wait: nothing is charged."""
        self._heed_the_clock()
        self.waits_until = until
        for place in self.sending():
            place.move(State.QUEUED, until)
        for place in self.places:
            if place.state is State.QUEUED and (place.due_at or self.now) <= self.now:
                place.due_at, place.moved = until, True
        if self.row["reason"] != printable(why):  # told once
            self.tell(Kind.DEFERRED, why)
        self.reason = printable(why)

    def wait_no_longer(self) -> None:
        """Have due now what is held back; who was deferred keeps a later time."""
        self.waits_until = self.now
        for place in self.places:
            if place.state is State.QUEUED and place.due_at == self.row["due_at"]:
                place.due_at, place.moved = self.now, True

    def _heed_the_clock(self) -> None:
        """Bring back what waits besides the attempt, if the clock was set back since its claim.

        By less than a lease it may be off as the clocks of two machines are.
        """
        row = self.row
        if row["claimed_at"] is None or row["claimed_at"] <= self.now:
            return
        ahead = row["claimed_at"] - self.now
        if ahead <= row["lease_until"] - row["leased_at"]:
            return
        for place in self.places:
            if place.state is State.QUEUED and place.due_at is not None:
                place.due_at, place.moved = place.due_at - ahead, True
        if self.first_due > self.now:
            self.first_due -= ahead

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
                place.reference = reference_of(outcome)
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
        self._heed_the_clock()
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
            first_due=held.first_due,
            patience=self.patience,
            unclear=place.unclear,
        )


def reference_of(outcome: Outcome) -> str:
    """Give the id that the far side gave it, as long as its column."""
    return printable(outcome.reference)[:REFERENCE_MOST] if isinstance(outcome, Accepted) else ""
