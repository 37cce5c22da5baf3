"""Mail, clocks and workers for the outbox's tests."""

from collections.abc import Callable
from dataclasses import dataclass

from flask_outbox.mail.exchange import Report
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Outcome
from flask_outbox.mail.submission import Receipt, Submission
from flask_outbox.outbox.claim import (
    claim,
    extend,
    has_open,
    leave,
    next_due,
    reclaim,
    release,
    start,
)
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.encryption import Keyring
from flask_outbox.outbox.enqueue import Schedule, enqueue
from flask_outbox.outbox.expire import expire
from flask_outbox.outbox.keyless import bring_back
from flask_outbox.outbox.record import Recorded, record
from flask_outbox.outbox.schedule import Priority
from flask_outbox.outbox.status import Status, list_messages, status
from flask_outbox.outbox.tables import metadata, schema_version

EPOCH = 1_764_000_000.0
ADA = "ada@example.org"
BOB = "bob@example.org"
CYD = "cyd@example.org"
EVE = "eve@example.net"  # of another domain
OLD_KEY = "b2xkLW9sZC1vbGQtb2xkLW9sZC1vbGQtb2xkLW9sZCE="
KEY = "bmV3LW5ldy1uZXctbmV3LW5ldy1uZXctbmV3LW5ldyE="
KEYRING = Keyring([KEY])

MakeOutbox = Callable[..., Outbox]


@dataclass
class Clock:
    """The database's time, as the test says."""

    now: float = EPOCH

    def __call__(self) -> float:
        return self.now

    def monotonic(self) -> float:
        """Be this process's own clock, too."""
        return self.now


def a_submission(*recipients: str, **more) -> Submission:
    values = {
        "sender": "shop@example.com",
        "recipients": recipients or (ADA,),
        "content": b"Subject: hello\r\n\r\nhello\r\n",
        "message_id": "<1@example.com>",
        "date": EPOCH,
    }
    return Submission(**(values | more))


def put(outbox: Outbox, submission: Submission | None = None, **schedule) -> str:
    with outbox.begin() as connection:
        return enqueue(connection, outbox, submission or a_submission(), Schedule(**schedule))


def empty(outbox: Outbox) -> None:
    with outbox.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            if table is not schema_version:
                connection.execute(table.delete())


def put_many(outbox: Outbox, count: int, **schedule) -> list[str]:
    with outbox.begin() as connection:
        return [
            enqueue(connection, outbox, a_submission(), Schedule(**schedule)) for _ in range(count)
        ]


def take(outbox: Outbox, limit: int = 100, transports=("default",)) -> list[Submission]:
    expire(outbox)
    return claim(outbox, transports=list(transports), limit=limit, worker="w1")


def begin(outbox: Outbox, limit: int = 100) -> list[Submission]:
    return start(outbox, take(outbox, limit))


def one(outbox: Outbox) -> Submission:
    (submission,) = begin(outbox)
    return submission


def say(
    outbox: Outbox,
    submission: Submission,
    outcome: Outcome | dict[str, Outcome],
    jitter: float = 0.5,
) -> list[Recorded]:
    receipt = Receipt(outcome) if isinstance(outcome, dict) else Receipt.same(submission, outcome)
    return record(outbox, [Report(submission, receipt)], lambda: jitter)


def look(outbox: Outbox, id_: str) -> Status:
    found = status(outbox, id_)
    assert found is not None
    return found


def a_round(outbox: Outbox) -> None:
    """One round of everything that a worker does."""
    put(outbox, a_submission(sensitive=True), priority=Priority.URGENT)
    put_many(outbox, 20, key=None)
    put(outbox, key="k")
    held = begin(outbox, 5)
    extend(outbox, held)
    leave(outbox, held[0])
    reports = [Report(each, Receipt.same(each, Accepted("250"))) for each in held]
    record(outbox, reports, float, busy=[])  # as workers do
    release(outbox, take(outbox, 2))
    start(outbox, take(outbox, 2))
    outbox._clock.now += outbox.lease
    reclaim(outbox)
    outbox._clock.now -= 9000.0
    reclaim(outbox)
    say(outbox, begin(outbox, 1)[0], Deferred("535", Fault.OURS))
    next_due(outbox, ["default"])
    has_open(outbox, ["default"])
    outbox._clock.now += 10.0
    say(outbox, one(outbox), Accepted("250"))
    list_messages(outbox)
    list_messages(outbox, before="f")
    put(outbox, a_submission(sensitive=True), priority=Priority.URGENT)
    keyring, outbox.keyring = outbox.keyring, Keyring([OLD_KEY])
    take(outbox, 1)  # which holds it back
    outbox.keyring = keyring
    bring_back(outbox)
