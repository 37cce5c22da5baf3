"""A word by PostgreSQL wakes a worker at once; where it is not heard, polling finds the mail."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

import databases
from flask_outbox.outbox import notify
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


def test_a_listener_whose_connection_broke_listens_again(server, outbox, monkeypatch):
    monkeypatch.setattr(module, "AGAIN", 0.01)
    heard = []
    listening = Listening(outbox, lambda: heard.append(1))
    listening.begin()
    wait_for(lambda: listeners(server))
    server.kick(outbox.database.url.render_as_string(hide_password=False))
    notifier = Notifier(outbox)
    wait_for(lambda: (notifier.wake(0.0), heard)[1])
    listening.end()
    notifier.close()


def test_a_listener_that_heard_once_and_hears_no_more_says_so(outbox, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "flask_outbox.worker")
    monkeypatch.setattr(notify, "TEST_EVERY", 0.1)
    monkeypatch.setattr(notify, "PATIENCE", 0.5)
    listening = Listening(outbox, lambda: None)
    tests, test = [], notify._test

    def tested(*given):
        test(*given)
        tests.append(1)

    monkeypatch.setattr(notify, "_test", tested)
    listening.begin()
    wait_for(lambda: len(tests) > 1)
    assert "hears nothing" not in caplog.text
    monkeypatch.setattr(notify, "NOTIFY", "SELECT pg_notify('elsewhere', %s)")
    wait_for(lambda: "hears nothing" in caplog.text)
    listening.end()


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


GREEN = {
    "gevent": "from gevent import monkey; monkey.patch_all()\n",
    "eventlet": "import warnings; warnings.simplefilter('ignore')\n"
    "import eventlet; eventlet.monkey_patch()\n",
}
PROGRAM = """
import sys, threading, time
sys.path.insert(0, {tests!r})
from flask_outbox.outbox.database import Outbox
from flask_outbox.worker.plan import Plan
from worker_stage import Told, a_submission, at_work, put, wait_for

outbox, transport = Outbox({url!r}), Told()
with at_work(Plan(outbox=outbox, transports={{"default": transport}}, poll=0.2)):
    put(outbox, a_submission("one"))
    wait_for(lambda: transport.sent)
    ticks, end = 0, time.monotonic() + 1.0
    while time.monotonic() < end:
        time.sleep(0.01)
        ticks += 1
    assert ticks > 20, f"the worker holds up the others: {{ticks}}"
outbox.close()
print("sent")
"""


@pytest.mark.parametrize("library", GREEN)
def test_under_green_threads_others_run_while_a_worker_waits_for_a_word(outbox, library):
    url = outbox.database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    text = PROGRAM.format(tests=str(Path(__file__).parents[1]), url=url)
    done = subprocess.run(
        [sys.executable, "-c", GREEN[library] + text],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "sent\n"), done.stderr
