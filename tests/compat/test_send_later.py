"""send_later in tests: changing ``send`` to ``send_later`` breaks none of them."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from flask_outbox import BadHeaderError, KeyConflict, Message, MessageError, State, TooLargeError


def note(**fields):
    return Message(**{"subject": "hi", "recipients": ["ada@example.org"], "body": "text", **fields})


def test_record_messages_hears_it_and_it_is_the_same_message(mail):
    message = note()
    with mail.record_messages() as outbox:
        mail.send_later(message)
    assert outbox == [message]
    assert message.date is not None


def test_no_thread_starts_and_no_file_is_written(app, mail, tmp_path):
    before = threading.enumerate()
    mail.send_later(note())
    assert threading.enumerate() == before
    assert list(tmp_path.iterdir()) == []
    assert not app.extensions["outbox"].where.exists()


def test_suppressed_sending_is_the_same(app, mail, tmp_path):
    app.testing = False
    app.extensions["mail"].suppress = True
    with mail.record_messages() as outbox:
        mail.send_later(note())
    assert len(outbox) == 1
    assert list(tmp_path.iterdir()) == []


def test_it_seals_and_checks(mail):
    with mail.record_messages() as outbox:
        with pytest.raises(BadHeaderError):
            mail.send_later(note(subject="a\nb"))
        with pytest.raises(AssertionError):
            mail.send_later(note(recipients=[]))
        with pytest.raises(MessageError, match="recipients"):
            mail.send_later(note(recipients=["no address"]))
        with pytest.raises(TooLargeError):
            mail.send_later(note(recipients=[f"a{each}@example.org" for each in range(1001)]))
    assert outbox == []


def test_it_can_be_looked_up_and_cancelled(mail):
    row = mail.send_later(note(), delay=60, priority="high")
    status = mail.status(row)
    assert status.state is State.QUEUED
    assert status.priority.value == "high"
    assert [each.address for each in status.recipients] == ["ada@example.org"]
    assert mail.cancel(row)
    assert not mail.cancel(row)
    assert mail.status(row).state is State.CANCELLED
    assert mail.status("0" * 32) is None
    assert not mail.cancel("0" * 32)


def test_a_key_sends_once(mail):
    with mail.record_messages() as outbox:
        first = mail.send_later(note(), key="order-7")
        assert mail.send_later(note(), key="order-7") == first
        with pytest.raises(KeyConflict):
            mail.send_later(note(subject="other"), key="order-7")
    assert len(outbox) == 1


@pytest.mark.parametrize(
    ("terms", "named"),
    [
        ({"at": datetime(2030, 1, 1)}, "at"),  # noqa: DTZ001  that is the point
        ({"at": "tomorrow"}, "at"),
        ({"at": 1.0, "delay": 1.0}, "delay"),
        ({"delay": "soon"}, "delay"),
        ({"expires": "never"}, "expires"),
        ({"at": 2e9 + 10, "expires": 2e9}, "expires"),
        ({"priority": "asap"}, "priority"),
        ({"transport": "bulk"}, "MAIL_TRANSPORTS"),
        ({"key": ""}, "key"),
        ({"at": float("nan")}, "at"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(mail, terms, named):
    with mail.record_messages() as outbox, pytest.raises(MessageError, match=named):
        mail.send_later(note(), **terms)
    assert outbox == []


def test_times_can_be_said_in_several_ways(mail):
    soon = datetime.now(UTC) + timedelta(hours=1)
    for terms in ({"at": soon}, {"at": soon.timestamp()}, {"delay": 3600}):
        row = mail.send_later(note(), **terms)
        assert abs(mail.status(row).due_at - soon.timestamp()) < 5
    row = mail.send_later(note(), delay=timedelta(hours=1), expires=timedelta(minutes=5))
    status = mail.status(row)
    assert abs(status.expires_at - status.due_at - 300) < 0.001


def test_the_date_is_when_it_is_due(mail):
    at = datetime(2030, 5, 6, 7, 8, 9, tzinfo=UTC)
    message = note()
    mail.send_later(message, at=at)
    assert message.date == at.timestamp()
    assert b"Date: Mon, 06 May 2030 07:08:09 +0000" in message.as_bytes()


def test_the_last_thousand_are_kept(mail):
    rows = [mail.send_later(note()) for _ in range(1001)]
    assert mail.status(rows[0]) is None
    assert mail.status(rows[1]) is not None
    assert len(set(rows)) == 1001
