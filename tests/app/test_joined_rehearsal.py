"""Under TESTING what is queued follows the session, as it will when it is real."""

import pytest
from sqlalchemy.orm import Session

from flask_outbox import KeyConflict, State
from shop import note, open_shop


@pytest.fixture
def shop(tmp_path):
    with open_shop("sqlite://", tmp_path / "instance", TESTING=True) as shop:
        yield shop


def test_what_is_rolled_back_was_never_queued(shop, outbox):
    shop.order()
    row = shop.mail.send_later(note())
    shop.db.session.rollback()
    assert outbox.queued == []
    assert shop.mail.status(row) is None
    assert outbox.drain() == 0
    outbox.assert_nothing_else()


def test_what_is_not_committed_yet_is_not_queued_and_then_it_is(shop, outbox):
    row = shop.mail.send_later(note(), key="order-7")
    assert shop.mail.status(row) is None
    assert outbox.queued == []
    assert outbox.drain() == 0
    shop.db.session.commit()
    outbox.assert_queued(to="ada@example.org")
    assert shop.mail.status(row).state is State.QUEUED
    assert outbox.drain() == 1
    outbox.assert_sent(to="ada@example.org")


def test_a_savepoint_counts_in_tests_too(shop, outbox):
    shop.mail.send_later(note(subject="kept"))
    savepoint = shop.db.session.begin_nested()
    shop.mail.send_later(note(subject="undone"))
    savepoint.rollback()
    with shop.db.session.begin_nested():
        shop.mail.send_later(note(subject="released"))
    shop.db.session.commit()
    assert [each.subject for each in outbox.queued] == ["kept", "released"]


def test_a_key_counts_in_tests_too_until_it_is_rolled_back(shop, outbox):
    first = shop.mail.send_later(note(), key="order-7")
    assert shop.mail.send_later(note(), key="order-7") == first
    with pytest.raises(KeyConflict):
        shop.mail.send_later(note(body="Another"), key="order-7")
    shop.db.session.rollback()
    shop.mail.send_later(note(body="Another"), key="order-7")
    shop.db.session.commit()
    outbox.assert_queued(containing="Another")
    outbox.assert_nothing_else()


def test_a_session_of_the_apps_own_counts_as_well(shop, outbox):
    with Session(shop.db.engine) as session:
        shop.mail.send_later(note(), session=session)
        assert outbox.queued == []
        session.commit()
    outbox.assert_queued(to="ada@example.org")


def test_what_was_written_in_this_transaction_can_be_taken_back_in_it(shop, outbox):
    assert shop.mail.cancel(shop.mail.send_later(note()))
    shop.db.session.commit()
    assert outbox.queued == []


def test_what_is_taken_back_is_queued_again_after_a_rollback(shop, outbox):
    row = shop.mail.send_later(note())
    shop.db.session.commit()
    savepoint = shop.db.session.begin_nested()
    assert shop.mail.cancel(row)
    savepoint.rollback()
    assert shop.mail.status(row).state is State.QUEUED
    assert shop.mail.cancel(row)
    shop.db.session.rollback()
    assert outbox.drain() == 1
    assert not shop.mail.cancel(row)
    shop.db.session.rollback()
    assert shop.mail.status(row).state is State.ACCEPTED


def test_a_session_that_only_sends_connects_to_nothing(shop, outbox):
    def connected(*_):
        raise AssertionError("a rehearsal leaves the database alone")

    shop.db.session.remove()
    shop.db.event.listen(shop.db.engine, "checkout", connected)
    shop.mail.send_later(note())
    shop.db.session.commit()
    outbox.assert_queued()
    shop.db.event.remove(shop.db.engine, "checkout", connected)
