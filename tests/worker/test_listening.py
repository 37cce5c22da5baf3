"""A word by PostgreSQL wakes a worker at once; where it is not heard, polling finds the mail."""

import logging

import pytest

import databases
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.notify import Deaf, Notifier
from flask_outbox.worker import listening as module
from flask_outbox.worker.listening import Listening
from flask_outbox.worker.plan import Plan
from worker_stage import Told, a_submission, at_work, put, wait_for

NEVER = 300.0  # seconds between two polls: what is found was heard of


@pytest.fixture(scope="module")
def server():
    with databases.running(databases.PostgreSql) as server:
        yield server


@pytest.fixture
def outbox(server):
    url = server.new()
    Outbox(url).upgrade()
    made = Outbox(url)
    yield made
    made.close()


def listeners(server):
    """Count those who have said LISTEN, as the server sees them."""
    asked = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN %'"
    return server.ask(asked)[0][0]


def quiet(outbox, transport):
    return Plan(outbox=outbox, transports={"default": transport}, poll=NEVER)


def test_a_word_wakes_a_worker_that_would_poll_minutes_later(server, outbox):
    heard = []
    listening = Listening(outbox, lambda: heard.append(1))
    notifier = Notifier(outbox)
    listening.begin()
    try:
        wait_for(lambda: (notifier.wake(0.0), heard)[1])
    finally:
        listening.end()
        notifier.close()


def test_a_worker_sends_what_it_is_told_of(server, outbox):
    transport = Told()
    notifier = Notifier(outbox)
    with at_work(quiet(outbox, transport)):
        wait_for(lambda: listeners(server))
        put(outbox, a_submission("told"))
        wait_for(lambda: (notifier.wake(0.0), transport.sent)[1])
    notifier.close()


def test_a_connection_that_broke_is_made_anew(server, outbox):
    heard = []
    notifier = Notifier(outbox)
    notifier.wake(0.0)
    server.stop()
    server.start()
    with pytest.raises(Exception, match=r"closed|terminat|connection"):
        notifier.wake(0.0)
    listening = Listening(outbox, lambda: heard.append(1))
    listening.begin()
    wait_for(lambda: (notifier.wake(0.0), heard)[1])
    listening.end()
    notifier.close()


def test_behind_a_pooler_that_hears_nothing_it_says_so_and_polling_goes_on(server, caplog):
    caplog.set_level(logging.INFO, "flask_outbox.worker")
    direct = server.new()
    Outbox(direct).upgrade()
    transport = Told()
    with databases.pooler(server) as port:
        pooled = Outbox(direct.replace(str(server.port), str(port)))
        plan = Plan(outbox=pooled, transports={"default": transport}, poll=0.2)
        with at_work(plan):
            put(pooled, a_submission("polled"))
            wait_for(lambda: transport.sent)
            wait_for(lambda: "hears nothing" in caplog.text)
        pooled.close()


def test_that_it_hears_nothing_is_said_once_however_often_it_tries(outbox, caplog, monkeypatch):
    tries = []

    def deaf(*_):
        tries.append(1)
        raise Deaf("LISTEN hears nothing")

    caplog.set_level(logging.INFO, "flask_outbox.worker")
    monkeypatch.setattr(module, "listen", deaf)
    monkeypatch.setattr(module, "AGAIN", 0.01)
    listening = Listening(outbox, lambda: None)
    listening.begin()
    wait_for(lambda: len(tries) > 3)
    listening.end()
    assert caplog.text.count("hears nothing") == 1
