"""What somebody should look at: each is a signal and a line at ERROR, told once."""

import logging
import threading
from datetime import timedelta

import pytest
from flask import current_app
from sqlalchemy import update

from flask_outbox import (
    Message,
    State,
    message_failed,
    route_paused,
    route_resumed,
    worker_lost,
)
from flask_outbox.outbox.tables import message, worker
from flask_outbox.outbox.workers import heartbeat
from hostile import Hostile, say

NO = say(b"535 5.7.8 not with that password")


class Heard:
    """Listens to a signal, and lets a test wait for it."""

    def __init__(self, signal):
        self.signal = signal
        self.all = []
        self._come = threading.Condition()

    def __enter__(self):
        self.signal.connect(self.hear)
        return self

    def __exit__(self, *_):
        self.signal.disconnect(self.hear)

    def hear(self, app, **facts):
        assert current_app == app
        with self._come:
            self.all.append(facts)
            self._come.notify_all()

    def wait(self):
        with self._come:
            assert self._come.wait_for(lambda: self.all, 20), "nothing was heard"
        return self.all


@pytest.fixture
def make_app(make_sender):
    return lambda server, **config: make_sender(
        MAIL_PORT=server.port,
        MAIL_USERNAME="ada",
        MAIL_PASSWORD="canary-password",
        MAIL_GRACE=2,
        **config,
    )


def errors(caplog):
    return [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]


def later(app, mail, count=1):
    with app.app_context():
        return [
            mail.send_later(Message("hi", ["ada@example.org"], "canary-body")) for _ in range(count)
        ]


def test_a_row_that_cannot_be_read_is_told_with_what_is_known_of_it(make_app, caplog):
    with Hostile() as server, Heard(message_failed) as failed:
        app, mail = make_app(server)
        (row,) = later(app, mail)
        with app.app_context():
            with app.extensions["outbox"].outbox.begin() as connection:
                connection.execute(update(message).values(extra="{"))
            assert mail.drain() == 0
        (told,) = failed.wait()
    assert (told["id"], told["state"]) == (row, State.FAILED)
    assert told["reason"].startswith("poison: its row cannot be read")
    assert told["receipt"].refused == ["ada@example.org"]
    assert (told["message"].subject, told["message"].bcc) == ("", ["ada@example.org"])
    assert errors(caplog) == [f"message {row} is failed after attempt 0"]


def test_a_mail_that_got_too_old_is_heard_of_and_is_no_alert(make_app, caplog):
    with Hostile() as server, Heard(message_failed) as failed:
        app, mail = make_app(server)
        with app.app_context():
            mail.send_later(Message("hi", ["ada@example.org"], "hi"), expires=timedelta(seconds=-1))
            mail.drain()
        (told,) = failed.wait()
    assert told["state"] is State.EXPIRED
    assert errors(caplog) == []


def test_a_refused_login_is_told_once_and_so_is_that_the_route_works_again(make_app, caplog):
    with (
        Hostile({"AUTH": [NO, NO]}, auth="PLAIN") as server,
        Heard(route_paused) as paused,
        Heard(route_resumed) as resumed,
        Heard(message_failed) as failed,
    ):
        app, mail = make_app(server)
        later(app, mail)
        paused.wait()
        later(app, mail, 4)
        assert resumed.wait() == [{"route": "default"}]
        server.wait_until(lambda it: len(it.accepted) == 5)
        app.extensions["outbox"].close()
    (fact,) = paused.all
    assert (fact["route"], fact["seconds"]) == ("default", 1.0)
    assert "535 5.7.8" in fact["reason"]
    assert failed.all == []
    told = errors(caplog)
    assert [line.partition(":")[0] for line in told] == [
        "Route default is paused for 1 s",
        "Route default works again.",
    ]
    assert "canary" not in caplog.text


def test_a_dead_letter_is_a_signal_and_a_line_at_error(make_app, caplog):
    with (
        Hostile({"RCPT": say(b"550 5.1.1 no such user")}, auth="PLAIN") as server,
        Heard(message_failed) as failed,
    ):
        app, mail = make_app(server)
        (row,) = later(app, mail)
        (fact,) = failed.wait()
        app.extensions["outbox"].close()
    assert (fact["id"], fact["state"]) == (row, State.FAILED)
    assert "550 5.1.1" in fact["reason"]
    (line,) = errors(caplog)
    assert row in line
    assert "failed" in line
    assert "ada@" not in line


def test_what_may_have_left_only_once_and_is_unknown_is_a_dead_letter_too(make_app, caplog):
    with (
        Hostile({"dot": say(b"\xff no reply at all")}, auth="PLAIN") as server,
        Heard(message_failed) as failed,
    ):
        app, mail = make_app(server, MAIL_MAX_UNCLEAR=0)
        (row,) = later(app, mail)
        (fact,) = failed.wait()
        app.extensions["outbox"].close()
    assert (fact["id"], fact["state"]) == (row, State.UNKNOWN)
    assert any(row in line and "unknown" in line for line in errors(caplog))


def age(outbox, seconds):
    """Let the workers have been silent for so long."""
    with outbox.begin() as connection:
        connection.execute(update(worker).values(beat_at=worker.c.beat_at - seconds))


def test_a_worker_that_stopped_beating_is_a_signal_and_a_line_at_error(make_app, caplog):
    with Hostile(auth="PLAIN") as server, Heard(worker_lost) as lost:
        app, mail = make_app(server)
        heartbeat(app.extensions["outbox"].outbox, "gone", host="web7", pid=4711)
        age(app.extensions["outbox"].outbox, 61.0)
        later(app, mail)
        (fact,) = lost.wait()
        server.wait_until(lambda it: it.accepted)
        app.extensions["outbox"].close()
    assert (fact["worker"], fact["host"], fact["pid"]) == ("gone", "web7", 4711)
    assert isinstance(fact["beat_at"], float)
    (line,) = errors(caplog)
    assert line.startswith("Worker gone stopped beating: it was last heard of 6")


def test_a_listener_that_raises_stops_no_mail(make_app, caplog):
    def bad(app, **facts):
        raise RuntimeError("a listener of the test")

    with (
        Hostile({"AUTH": [NO]}, auth="PLAIN") as server,
        route_paused.connected_to(bad),
        Heard(route_resumed) as resumed,
    ):
        app, mail = make_app(server)
        later(app, mail)
        resumed.wait()
        assert len(server.accepted) == 1
        app.extensions["outbox"].close()
    assert "A listener of route-paused failed" in caplog.text
