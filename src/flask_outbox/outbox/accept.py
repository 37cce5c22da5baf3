"""The most frequent end, by the shortest way: a first attempt that everybody accepted."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    Connection,
    String,
    Text,
    bindparam,
    false,
    literal_column,
    null,
    select,
    update,
)

from flask_outbox.mail.exchange import Report
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.outcome import Outcome
from flask_outbox.mail.say import printable
from flask_outbox.outbox.held import Kind, reference_of
from flask_outbox.outbox.settle import EVENTS, NOBODYS, WIPE
from flask_outbox.outbox.statements import Each, Statement, by_key
from flask_outbox.outbox.tables import message, recipient

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
        by_key(update(message))
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
            **dict.fromkeys(NOBODYS, null()),
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
    EVENTS.run(connection, lines)
    if wipe := [{"message": each.submission.id} for each in reports if each.submission.sensitive]:
        WIPE.run(connection, wipe)


def _accepted(report: Report, address: str, outcome: Outcome) -> dict[str, Any]:
    return {
        "to": report.submission.id,
        "address": address,
        "reply": printable(outcome.text),
        "reference": reference_of(outcome),
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
