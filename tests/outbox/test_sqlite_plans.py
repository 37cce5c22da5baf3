"""Every query of a worker's round goes by an index, in an outbox with and without statistics."""

import pytest

from flask_outbox.mail.exchange import Report
from flask_outbox.mail.outcome import Accepted, Deferred, Fault
from flask_outbox.mail.submission import Receipt
from flask_outbox.outbox.claim import extend, has_open, leave, next_due, reclaim, release, start
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.record import record
from flask_outbox.outbox.status import list_messages
from heard import heard
from outbox_mail import Clock, begin, one, put, put_many, say, take

SMALL = (
    "outbox_route",
    "outbox_worker",
    "sqlite_master",
    "VIRTUAL TABLE",
)  # routes, workers, a batch of ids


@pytest.fixture
def outbox(tmp_path):
    made = Outbox(f"sqlite:///{tmp_path}/outbox.sqlite3", clock=Clock())
    yield made
    made.close()


def work(outbox):
    """One round of everything that a worker does."""
    put_many(outbox, 20, key=None)
    put(outbox, key="k")
    held = begin(outbox, 5)
    extend(outbox, held)
    leave(outbox, held[0])
    record(outbox, [Report(each, Receipt.same(each, Accepted("250"))) for each in held], float)
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


@pytest.mark.parametrize("analysed", [False, True])
def test_no_query_of_a_round_scans_a_table_or_sorts(outbox, analysed):
    put_many(outbox, 200)
    if analysed:
        with outbox.begin() as connection:
            connection.exec_driver_sql("ANALYZE")
    said = {}

    with heard(outbox, said.setdefault):
        work(outbox)
    slow = []
    with outbox.read() as connection:
        for statement, terms in said.items():
            if statement.split()[0] not in {"SELECT", "UPDATE", "DELETE"}:
                continue
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", terms)
            slow += [(statement, step.detail) for step in plan if is_slow(step.detail)]
    assert slow == []
    assert any("outbox_message" in each for each in said)


def is_slow(detail):
    scans = detail.startswith("SCAN")
    sorts = "TEMP B-TREE" in detail
    return (scans or sorts) and not any(name in detail for name in (*SMALL, "CONSTANT ROW"))


def test_a_claim_goes_by_its_own_index(outbox):
    put_many(outbox, 50)
    said = {}
    with heard(outbox, said.setdefault):
        take(outbox)
    (due,) = [each for each in said if "outbox_message.due_at <=" in each]
    with outbox.read() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {due}", said[due]).all()
    (step,) = plan
    index = "ix_outbox_message_claim (transport=? AND priority=? AND due_at<?)"
    assert step.detail == f"SEARCH outbox_message USING INDEX {index}"
