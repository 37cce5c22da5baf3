"""What the ``outbox`` fixture is: mail that would have gone out, to be asked about.

::

    def test_sign_up(client, outbox):
        client.post("/sign-up", data={"email": "ada@example.org"})
        mail = outbox.assert_queued(to="ada@example.org", containing="/verify/")
        assert outbox.drain() == 1
        outbox.assert_sent(subject=mail.subject)
        outbox.assert_nothing_else()
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, Self

from flask import Flask

from flask_outbox.app.flask_mail import runtime_of
from flask_outbox.app.moments import Moment, moment
from flask_outbox.app.preparing import own_copy
from flask_outbox.app.rehearsal import Everywhere, Rehearsed
from flask_outbox.app.signals import message_queued, message_sent
from flask_outbox.mail.address import parse_address
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.message import Message

SHOWN = 200  # characters of a body, when an assertion fails


class Recorder:
    """Mail of every app of this process, from entering it to leaving it; none of it goes out."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self._queued: dict[str, Flask] = {}
        self._asked: list[Message] = []

    def __enter__(self) -> Self:
        Everywhere.depth += 1
        message_queued.connect(self._hear_queued)
        message_sent.connect(self._hear_sent)
        return self

    def __exit__(self, *_: object) -> None:
        message_queued.disconnect(self._hear_queued)
        message_sent.disconnect(self._hear_sent)
        Everywhere.depth -= 1
        for app in self._apps():
            runtime_of(app).rehearsal.trim()

    def _hear_queued(self, app: Flask, *, id: str, **_: Any) -> None:  # noqa: A002  the signal's word
        self._queued[id] = app

    def _hear_sent(self, _app: Flask, *, message: Message, id: str, **_: Any) -> None:  # noqa: A002  the same
        # What was queued is a copy of its own since then.
        self.sent.append(message if id else own_copy(message))

    def _apps(self) -> list[Flask]:
        return list({id(app): app for app in self._queued.values()}.values())

    def _rows(self) -> list[Rehearsed]:
        rows = [runtime_of(app).rehearsal.get(row) for row, app in self._queued.items()]
        waiting = [row for row in rows if row is not None and row.state is State.QUEUED]
        return sorted(waiting, key=lambda row: row.due_at)

    @property
    def queued(self) -> list[Message]:
        """What send_later was given and is not sent yet, what is due first at the front."""
        return [row.message for row in self._rows()]

    def due_at(self, message: Message) -> float:
        """Tell when a queued message is to go, in UNIX seconds.

        Of a message that was given to send_later more than once, when it is to go first.
        """
        rows = [row for row in self._rows() if row.message.msgId == message.msgId]
        if not rows:
            raise AssertionError(f"This message is not queued.\n{self}")
        return min(rows, key=lambda row: row.message is not message).due_at

    def to(self, address: str) -> list[Message]:
        """List what is queued for or was sent to an address, be it in To, Cc or Bcc."""
        return [each for each in (*self.queued, *self.sent) if _is_to(each, address)]

    def drain(self, at: Moment | None = None) -> int:
        """Let everything happen that would have by then, now unless given; tell how many went."""
        until = time.time() if at is None else moment(at, "at")
        return sum(runtime_of(app).drain_rehearsal(until) for app in self._apps())

    def clear(self) -> None:
        """Forget what happened so far."""
        self.sent.clear()
        self._queued.clear()
        self._asked.clear()

    def assert_sent(
        self,
        *,
        to: str | None = None,
        subject: str | None = None,
        containing: str | None = None,
    ) -> Message:
        """Assert that just one such message was sent, and return it."""
        return self._one("sent", self.sent, to, subject, containing)

    def assert_queued(
        self,
        *,
        to: str | None = None,
        subject: str | None = None,
        containing: str | None = None,
    ) -> Message:
        """Assert that just one such message is queued, and return it."""
        return self._one("queued", self.queued, to, subject, containing)

    def assert_nothing_else(self) -> None:
        """Assert that there is no message that was not asserted before."""
        asked = {id(each) for each in self._asked}
        others = [each for each in (*self.queued, *self.sent) if id(each) not in asked]
        if others:
            raise AssertionError(f"{len(others)} more than was asserted.\n{self}")

    def _one(
        self,
        what: str,
        among: Iterable[Message],
        to: str | None,
        subject: str | None,
        containing: str | None,
    ) -> Message:
        tests: list[Callable[[Message], bool]] = []
        if to is not None:
            tests.append(lambda each: _is_to(each, to))
        if subject is not None:
            tests.append(lambda each: str(each.subject) == subject)
        if containing is not None:
            tests.append(lambda each: any(containing in text for text in _texts(each)))
        found = [each for each in among if all(test(each) for test in tests)]
        if len(found) != 1:
            wanted = {"to": to, "subject": subject, "containing": containing}
            such = ", ".join(
                f"{key}={value!r}" for key, value in wanted.items() if value is not None
            )
            raise AssertionError(
                f"{len(found)} messages were {what}, not one, with {such or 'anything'}.\n{self}"
            )
        self._asked.append(found[0])
        return found[0]

    def __repr__(self) -> str:
        return f"<outbox: {len(self.queued)} queued, {len(self.sent)} sent>"

    def __str__(self) -> str:
        lines = [_line("queued", each) for each in self.queued]
        lines += [_line("sent", each) for each in self.sent]
        return "\n".join(["What went out:", *lines] if lines else ["Nothing went out."])


def _everybody(message: Message) -> list[str]:
    several = (*message.recipients, *(message.cc or ()), *(message.bcc or ()))
    return [parse_address(each, "recipients").addr for each in several]


def _is_to(message: Message, address: str) -> bool:
    return parse_address(address, "to").addr in _everybody(message)


def _texts(message: Message) -> list[str]:
    return [str(text) for text in (message.body, *message.alts.values()) if text]


def _line(what: str, message: Message) -> str:
    text = "…" if message.sensitive else " ".join("".join(_texts(message)[:1]).split())[:SHOWN]
    return f"  {what} to {', '.join(_everybody(message))}: {str(message.subject)!r} {text!r}"
