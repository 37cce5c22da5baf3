"""Whoever changes or locks a row on MariaDB finds it by the primary key, in the smallest table too.

Planners read a small table whole, or go by whichever index: and so wait for rows of other people.
"""

import pytest

from flask_outbox.outbox.database import Outbox
from heard import heard
from outbox_mail import KEYRING, Clock, a_round, put_many

OURS = ("outbox_message", "outbox_recipient", "outbox_content")
WHOLE = ("ALL", "index")  # of a table, of an index


@pytest.fixture
def outbox(mariadb):
    url = mariadb.new()
    Outbox(url).upgrade()
    made = Outbox(url, clock=Clock(), keyring=KEYRING)
    yield made
    made.close()


@pytest.mark.parametrize("others", [0, 1, 200])
def test_no_change_and_no_lock_of_a_round_reads_a_table_whole(outbox, others):
    put_many(outbox, others)
    said = {}
    with heard(outbox, said.setdefault):
        a_round(outbox)
    steps = [
        (statement, step)
        for statement, terms in said.items()
        if changes_or_locks(statement)
        for step in explained(outbox, statement, terms)
        if step.table in OURS
    ]
    assert [(each, step) for each, step in steps if step.type in WHOLE] == []
    changes = [(each, step) for each, step in steps if each.startswith("UPDATE")]
    assert [(each, step) for each, step in changes if step.key != "PRIMARY"] == []
    assert {step.table for _, step in changes} == {"outbox_message", "outbox_recipient"}
    assert any(each.startswith("DELETE") for each, _ in steps)
    assert any(each.startswith("SELECT") for each, _ in steps)


def changes_or_locks(statement):
    """Tell it from what only looks, or takes what it comes upon and waits for nobody."""
    looks_about = statement.endswith("SKIP LOCKED") and " IN (" not in statement
    return not looks_about and (
        statement.startswith(("UPDATE", "DELETE")) or " FOR UPDATE" in statement
    )


def explained(outbox, statement, terms):
    with outbox.read() as connection:
        return connection.exec_driver_sql(f"EXPLAIN {statement}", terms).all()
