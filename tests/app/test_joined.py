"""Mail(app, db=db): an order and its mail are committed together, or not at all."""

import time
import traceback
from contextlib import suppress
from contextvars import Context
from queue import Queue

import pytest
from sqlalchemy import text

from flask_outbox import KeyConflict, OutboxUnavailable, State, message_queued
from shop import note, open_shop


class Told:
    """An engine that notes what it is told."""

    def __init__(self):
        self.due = Queue()

    def wake(self, due_at):
        self.due.put(due_at)


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def shop(database, tmp_path, told):
    with open_shop(database, tmp_path / "instance", engine=told) as shop:
        yield shop


@pytest.fixture
def queued():
    """The ids that listeners heard of."""
    heard = []

    def hear(_app, *, id, **_):  # noqa: A002  the signal's word
        heard.append(id)

    with message_queued.connected_to(hear):
        yield heard


def only_tomorrows_mail_is_told_of(shop, told):
    """Had another been told of, that one would be due first, and named."""
    tomorrow = time.time() + 86_400
    shop.mail.send_later(note(), at=tomorrow)
    shop.db.session.commit()
    assert told.due.get(timeout=20) == tomorrow
    assert told.due.empty()


def visit(shop, path):
    """Post as a server gets it: not within the context of the test."""
    return Context().run(shop.app.test_client().post, path)


def test_an_order_and_its_mail_are_committed_together(shop, told, queued):
    shop.order()
    row = shop.mail.send_later(note())
    assert shop.orders() == shop.mails() == queued == []
    shop.db.session.commit()
    assert shop.orders() == ["tea"]
    assert shop.mails() == queued == [row]
    assert told.due.get(timeout=20) <= time.time()


def test_a_rollback_leaves_nothing_and_tells_nobody(shop, told, queued):
    shop.order()
    shop.mail.send_later(note())
    shop.db.session.rollback()
    assert shop.orders() == shop.mails() == queued == []
    only_tomorrows_mail_is_told_of(shop, told)


def test_an_exception_in_a_view_leaves_nothing_and_tells_nobody(shop, told, queued):
    @shop.app.post("/orders")
    def order():
        shop.order()
        shop.mail.send_later(note())
        raise RuntimeError("out of tea")

    shop.app.config["PROPAGATE_EXCEPTIONS"] = False
    assert visit(shop, "/orders").status_code == 500
    assert shop.orders() == shop.mails() == queued == []
    only_tomorrows_mail_is_told_of(shop, told)


def test_an_order_that_breaks_a_rule_takes_its_mail_along(shop, queued):
    shop.mail.send_later(note())
    shop.db.session.add(shop.Order(id=1, name=None))
    with pytest.raises(shop.db.exc.IntegrityError):
        shop.db.session.commit()
    shop.db.session.rollback()
    assert shop.mails() == queued == []


def test_a_session_that_is_closed_without_a_word_leaves_nothing(shop, told, queued):
    session = shop.db.session()
    shop.mail.send_later(note(), session=session)
    session.close()
    assert shop.mails() == queued == []
    session.add(shop.Order(name="tea"))
    session.commit()  # by the same session, of another transaction
    assert queued == []
    only_tomorrows_mail_is_told_of(shop, told)


def test_a_savepoint_that_is_rolled_back_takes_its_mail_along_and_no_other(shop, queued):
    shop.order("kept")
    kept = shop.mail.send_later(note())
    with suppress(RuntimeError), shop.db.session.begin_nested():
        shop.order("undone")
        shop.mail.send_later(note())
        raise RuntimeError
    shop.db.session.commit()
    assert shop.orders() == ["kept"]
    assert shop.mails() == queued == [kept]


def test_a_released_savepoint_is_kept_and_told_of_by_the_outermost_commit(shop, told, queued):
    with shop.db.session.begin_nested():
        shop.order()
        with shop.db.session.begin_nested():
            row = shop.mail.send_later(note())
    assert shop.mails() == queued == []
    shop.db.session.commit()
    assert shop.mails() == queued == [row]
    told.due.get(timeout=20)


def test_a_savepoint_that_is_released_in_one_that_is_rolled_back_leaves_nothing(shop, queued):
    shop.order("kept")
    outer = shop.db.session.begin_nested()
    with shop.db.session.begin_nested():
        shop.order("undone")
        shop.mail.send_later(note())
    outer.rollback()
    shop.db.session.commit()
    assert shop.orders() == ["kept"]
    assert shop.mails() == queued == []


def test_a_released_savepoint_is_undone_by_a_rollback_around_it(shop, told, queued):
    with shop.db.session.begin_nested():
        shop.order()
        shop.mail.send_later(note())
    shop.db.session.rollback()
    assert shop.orders() == shop.mails() == queued == []
    only_tomorrows_mail_is_told_of(shop, told)


def test_a_commit_of_all_releases_what_is_open_within(shop, queued):
    shop.db.session.begin_nested()
    row = shop.mail.send_later(note())
    shop.db.session.commit()
    assert shop.mails() == queued == [row]


def test_one_session_after_the_other_each_tells_of_its_own(shop, queued):
    first = shop.mail.send_later(note())
    shop.db.session.commit()
    shop.mail.send_later(note())
    shop.db.session.rollback()
    last = shop.mail.send_later(note())
    shop.db.session.commit()
    assert queued == [first, last] == shop.mails()


def test_a_listener_may_use_the_session_again(shop):
    def write(_app, **_):
        shop.order("from a listener")

    with message_queued.connected_to(write):
        shop.mail.send_later(note())
        shop.db.session.commit()
    shop.db.session.commit()
    assert shop.orders() == ["from a listener"]


def test_a_listener_that_raises_undoes_nothing_and_is_a_line_in_the_log(shop, caplog):
    def bad(_app, **_):
        raise RuntimeError

    with message_queued.connected_to(bad):
        row = shop.mail.send_later(note())
        shop.db.session.commit()
    assert shop.mails() == [row]
    assert "A listener of message-queued failed." in caplog.text


def test_an_error_of_the_database_quotes_no_mail_whatever_the_apps_engine_says(shop):
    assert not shop.db.engine.hide_parameters
    shop.mail.send_later(note())
    shop.db.session.commit()
    with shop.db.engine.begin() as connection:
        for name in ("outbox_recipient", "outbox_content", "outbox_message"):
            connection.execute(text(f"DROP TABLE {name}"))
    word = "canary"
    with pytest.raises(Exception, match="outbox_message") as raised:
        shop.mail.send_later(note(metadata={"word": word}), key=word)
    assert word not in "".join(traceback.format_exception(raised.value))


def test_no_free_connection_is_an_outbox_that_cannot_be_used(database, tmp_path):
    config = {"SQLALCHEMY_ENGINE_OPTIONS": {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.1}}
    with open_shop(database, tmp_path, MAIL_WORKER="process", **config) as shop:
        with shop.db.engine.connect(), pytest.raises(OutboxUnavailable, match="in use"):
            shop.mail.send_later(note())
        shop.db.session.rollback()
        shop.mail.send_later(note())
        shop.db.session.commit()
        assert len(shop.mails()) == 1


def test_equal_keys_are_one_mail_and_a_clash_does_not_disturb_the_transaction(shop, queued):
    first = shop.mail.send_later(note(), key="order-7")
    shop.order("first")
    assert shop.mail.send_later(note(), key="order-7") == first
    shop.db.session.commit()
    shop.order("second")
    assert shop.mail.send_later(note(), key="order-7") == first
    with pytest.raises(KeyConflict):
        shop.mail.send_later(note(body="Another"), key="order-7")
    shop.order("third")
    shop.db.session.commit()
    assert shop.orders() == ["first", "second", "third"]
    assert shop.mails() == queued == [first]


def test_a_key_that_was_rolled_back_is_free_again(shop):
    shop.mail.send_later(note(), key="order-7")
    shop.db.session.rollback()
    row = shop.mail.send_later(note(body="Another"), key="order-7")
    shop.db.session.commit()
    assert shop.mails() == [row]


def test_what_is_taken_back_is_so_with_the_commit_and_not_with_a_rollback(shop):
    row = shop.mail.send_later(note())
    shop.db.session.commit()
    shop.order()
    assert shop.mail.cancel(row)
    assert shop.mail.status(row).state is State.CANCELLED  # as this transaction sees it
    shop.db.session.rollback()
    assert shop.mail.status(row).state is State.QUEUED
    assert shop.mail.cancel(row)
    shop.db.session.commit()
    assert shop.mail.status(row).state is State.CANCELLED
    assert not shop.mail.cancel(row)


def test_what_was_written_in_this_transaction_can_be_taken_back_in_it(shop):
    row = shop.mail.send_later(note())
    assert shop.mail.cancel(row)
    shop.db.session.commit()
    assert shop.mail.status(row).state is State.CANCELLED
