"""Every query of a worker's round goes by an index, in an outbox with and without statistics."""

import pytest

from flask_outbox.outbox.database import Outbox
from heard import heard
from outbox_mail import KEYRING, Clock, a_round, put_many, take

SMALL = (
    "outbox_route",
    "outbox_worker",
    "sqlite_master",
    "VIRTUAL TABLE",
)  # routes, workers, a batch of ids


@pytest.fixture
def outbox(tmp_path):
    made = Outbox(f"sqlite:///{tmp_path}/outbox.sqlite3", clock=Clock(), keyring=KEYRING)
    yield made
    made.close()


@pytest.mark.parametrize("analysed", [False, True])
def test_no_query_of_a_round_scans_a_table_or_sorts(outbox, analysed):
    put_many(outbox, 200)
    if analysed:
        with outbox.begin() as connection:
            connection.exec_driver_sql("ANALYZE")
    said = {}

    with heard(outbox, said.setdefault):
        a_round(outbox)
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
