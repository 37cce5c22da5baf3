"""mail.send_later as it really is: durable, sent by the worker inside the app."""

import os
import stat
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask, g
from flask.cli import AppGroup, FlaskGroup

from flask_outbox import (
    BadHeaderError,
    KeyConflict,
    Mail,
    Message,
    MessageCancelled,
    MessageError,
    OutboxUnavailable,
    State,
    email_dispatched,
    message_deferred,
    message_failed,
    message_queued,
    message_sent,
)
from flask_outbox.app import starting
from flask_outbox.outbox.database import Outbox
from hostile import Hostile, say
from worker_stage import Eyes


def note(**fields):
    return Message(**{"subject": "hi", "recipients": ["ada@example.org"], "body": "text", **fields})


@pytest.fixture
def make_app(tmp_path):
    made = []

    def make(server=None, name="shop", **config):
        app = Flask(name, instance_path=str(tmp_path / name))
        port = server.port if server else 9
        app.config.update(MAIL_PORT=port, MAIL_DEFAULT_SENDER="shop@example.com", MAIL_GRACE=2)
        app.config.update(config)
        Mail(app)
        made.append(app)
        return app

    yield make
    for app in made:
        app.extensions["outbox"].close()


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

    def hear(self, app, **named):
        named["thread"] = threading.current_thread()
        named["clean"] = not hasattr(g, "seen")
        g.seen = True
        with self._come:
            self.all.append((app, named))
            self._come.notify_all()

    def wait(self, count=1):
        with self._come:
            assert self._come.wait_for(lambda: len(self.all) >= count, 15), self.all
        return self.all


def test_it_is_sent_by_the_worker_inside_the_app(make_app):
    with Hostile() as server, Heard(message_sent) as sent:
        app = make_app(server)
        mail = Mail(app)
        with app.app_context():
            row = mail.send_later(
                note(subject="Grüße", cc=["cc@example.org"], bcc=["b@example.org"])
            )
            ((of, named),) = sent.wait()
            assert of is app
            assert named["id"] == row
            assert named["state"] is State.ACCEPTED
            assert named["thread"].name == "flask-outbox-news"
            message = named["message"]
            assert (message.subject, message.body) == ("Grüße", "text\n")
            assert message.recipients == ["ada@example.org"]
            assert (message.cc, message.bcc) == (["cc@example.org"], ["b@example.org"])
            status = mail.status(row)
            assert status.state is State.ACCEPTED
            assert status.message_id == message.msgId
        assert len(server.accepted) == 1
        app.extensions["outbox"].close()


def test_the_file_is_in_the_instance_folder_and_for_its_user_alone(make_app):
    app = make_app(MAIL_WORKER="process")
    with app.app_context():
        Mail(app).send_later(note())
    file = Path(app.instance_path) / "outbox.sqlite3"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_an_instance_folder_that_cannot_be_written_names_itself_and_the_fix(make_app, tmp_path):
    (tmp_path / "shop").write_text("a file where the folder should be")
    app = make_app(MAIL_WORKER="process")
    with app.app_context(), pytest.raises(OutboxUnavailable, match="shop"):
        Mail(app).send_later(note())


def test_each_message_has_a_context_of_its_own(make_app):
    with Hostile() as server, Heard(email_dispatched) as heard:
        app = make_app(server)
        with app.app_context():
            for _ in range(20):
                Mail(app).send_later(note())
        assert all(named["clean"] for _, named in heard.wait(20))
        assert all(type(named["message"]) is Message for _, named in heard.all)
        app.extensions["outbox"].close()


def test_a_relay_that_is_away_is_a_retry(make_app):
    with (
        Hostile({"RCPT": say(b"451 4.2.1 later")}) as server,
        Heard(message_deferred) as deferred,
        Heard(email_dispatched) as dispatched,
        Heard(message_sent) as sent,
    ):
        app = make_app(server)
        mail = Mail(app)
        with app.app_context():
            row = mail.send_later(note())
            ((_, named),) = deferred.wait()
            assert named["id"] == row
            assert named["state"] is State.QUEUED
            assert mail.status(row).state is State.QUEUED
            assert mail.cancel(row)
        app.extensions["outbox"].close()
        assert dispatched.all == sent.all == []


def test_a_refused_mail_is_told_as_failed(make_app):
    with Hostile({"RCPT": say(b"550 5.1.1 no")}) as server, Heard(message_failed) as failed:
        app = make_app(server)
        with app.app_context():
            Mail(app).send_later(note())
            ((_, named),) = failed.wait()
        assert named["state"] is State.FAILED
        assert "550" in named["receipt"]["ada@example.org"].text
        app.extensions["outbox"].close()


def test_a_listener_that_raises_stops_nothing(make_app, caplog):
    def bad(app, **named):
        raise RuntimeError("a listener of the test")

    with Hostile() as server, Heard(message_sent) as sent, email_dispatched.connected_to(bad):
        app = make_app(server)
        with app.app_context():
            Mail(app).send_later(note())
            Mail(app).send_later(note())
            sent.wait(2)
        app.extensions["outbox"].close()
    assert "A listener of email-dispatched failed" in caplog.text


def test_a_teardown_that_raises_stops_nothing(make_app, caplog):
    with Hostile() as server, Heard(message_sent) as sent:
        app = make_app(server)

        @app.teardown_appcontext
        def bad(_error):
            if threading.current_thread() is not threading.main_thread():
                raise RuntimeError("a teardown of the test")

        with app.app_context():
            Mail(app).send_later(note())
            Mail(app).send_later(note())
            sent.wait(2)
        app.extensions["outbox"].close()
    assert [named["clean"] for _, named in sent.all] == [True, True]
    assert "A listener of message-sent failed" in caplog.text
    assert "a teardown of the test" in caplog.text


def test_the_first_request_of_a_process_sends_what_waits(make_app):
    with Hostile() as server:
        before = make_app(server, MAIL_WORKER="process")
        before.add_url_rule("/", view_func=lambda: "ok")
        with before.app_context():
            Mail(before).send_later(note())
        before.test_client().get("/")
        assert server.connections == 0
        before.extensions["outbox"].close()

        with Heard(message_sent) as sent:
            after = make_app(server)
            after.add_url_rule("/", view_func=lambda: "ok")
            assert after.test_client().get("/").text == "ok"
            sent.wait()
        assert len(server.accepted) == 1
        after.extensions["outbox"].close()


def test_a_request_makes_no_file_and_no_thread_where_nothing_waits(make_app):
    app = make_app()
    app.add_url_rule("/", view_func=lambda: "ok")
    before = threading.enumerate()
    assert app.test_client().get("/").text == "ok"
    assert not Path(app.instance_path).exists()
    assert threading.enumerate() == before


def test_an_outbox_that_cannot_be_looked_at_fails_no_request(make_app, caplog):
    app = make_app()
    app.add_url_rule("/", view_func=lambda: "ok")
    Path(app.instance_path).mkdir()
    (Path(app.instance_path) / "outbox.sqlite3").write_bytes(b"no database" * 100)
    assert app.test_client().get("/").text == "ok"
    assert "could not be looked at" in caplog.text


def test_a_worker_is_started_where_requests_are_served_alone(make_app, monkeypatch):
    app = make_app()
    monkeypatch.setattr(starting, "requests_seen", set())
    assert starting.may_start(app)
    app.debug = True  # a reloader's parent may run the same code
    monkeypatch.delenv("WERKZEUG_RUN_MAIN", raising=False)
    assert not starting.may_start(app)
    monkeypatch.setenv("WERKZEUG_RUN_MAIN", "true")
    assert starting.may_start(app)
    monkeypatch.delenv("WERKZEUG_RUN_MAIN")
    with app.test_request_context():
        assert starting.may_start(app)


def test_send_later_in_a_command_starts_no_worker(make_app):
    app = make_app()
    mail = Mail(app)
    names = []

    @app.cli.command("later")
    def command():
        mail.send_later(note())
        names.extend(thread.name for thread in threading.enumerate())

    result = app.test_cli_runner().invoke(args=["later"])
    assert result.exit_code == 0, result.output
    assert "flask-outbox" not in names


def test_a_command_of_the_apps_own_that_is_called_run_starts_no_worker(make_app):
    app = make_app()
    mail = Mail(app)
    jobs = AppGroup("jobs")
    names = []

    @jobs.command("run")
    def command():
        mail.send_later(note())
        names.extend(thread.name for thread in threading.enumerate())

    app.cli.add_command(jobs)
    result = app.test_cli_runner().invoke(FlaskGroup(create_app=lambda: app), args=["jobs", "run"])
    assert result.exit_code == 0, result.output
    assert names
    assert "flask-outbox" not in names


def test_where_no_thread_can_be_started_it_is_written_down_for_another_process(make_app, caplog):
    with Hostile() as server:
        app = make_app(server)
        mail = Mail(app)
        before = threading.stack_size(1 << 46)  # more than there is
        try:
            with app.app_context():
                row = mail.send_later(note())
        finally:
            threading.stack_size(before)
        with app.app_context():
            assert mail.status(row).state is State.QUEUED
            assert "`flask outbox worker`" in caplog.text
            assert mail.drain() == 1
            assert mail.status(row).state is State.ACCEPTED


def test_bad_input_leaves_nothing_written(make_app):
    app = make_app(MAIL_WORKER="process")
    mail = Mail(app)

    @mail.before_send
    def refuse(message):
        if message.subject == "no":
            raise MessageCancelled("not today")

    with app.app_context():
        for bad, error in (
            (note(subject="a\nb"), BadHeaderError),
            (note(subject="no"), MessageCancelled),
        ):
            with pytest.raises(error):
                mail.send_later(bad)
    assert not Path(app.instance_path).exists()


def test_a_key_gives_the_id_of_the_first_call(make_app):
    app = make_app(MAIL_WORKER="process")
    mail = Mail(app)
    with app.app_context(), Heard(message_queued) as queued:
        first = mail.send_later(note(), key="order-7")
        assert mail.send_later(note(), key="order-7") == first
        with pytest.raises(KeyConflict):
            mail.send_later(note(body="other"), key="order-7")
    assert [named["id"] for _, named in queued.all] == [first]


def test_a_listener_that_raises_is_a_line_in_the_log_and_the_mail_is_queued(make_app, caplog):
    def bad(_app, **_):
        raise RuntimeError("on purpose")

    app = make_app(MAIL_WORKER="process")
    mail = Mail(app)
    with app.app_context(), message_queued.connected_to(bad):
        row = mail.send_later(note())
        assert mail.status(row).state is State.QUEUED
    assert "A listener of message-queued failed." in caplog.text


def test_a_listener_that_raises_is_seen_by_tests(make_app):
    def bad(_app, **_):
        raise RuntimeError("on purpose")

    app = make_app(TESTING=True)
    with app.app_context(), message_queued.connected_to(bad), pytest.raises(RuntimeError):
        Mail(app).send_later(note())


def test_the_worker_is_woken_by_each_message_once_it_is_committed(make_app, monkeypatch, tmp_path):
    with Hostile() as server:
        app = make_app(server)
        woken = []
        eyes = Eyes(tmp_path / "shop" / "outbox.sqlite3")

        def wake(_due):
            woken.append(eyes.count("state = 'queued'"))

        monkeypatch.setattr(app.extensions["outbox"].embedded, "wake", wake)
        with app.app_context():
            app.extensions["mail"].send(note())
            assert woken == []
            Mail().send_later(note())
        assert woken == [1]
        app.extensions["outbox"].close()


def test_named_transports_send_what_is_theirs(make_app):
    with Hostile() as server, Heard(message_sent) as sent:
        app = make_app(MAIL_TRANSPORTS={"bulk": f"smtp://127.0.0.1:{server.port}"})
        with app.app_context():
            Mail(app).send_later(note(), transport="bulk", priority="bulk")
            sent.wait()
        assert len(server.accepted) == 1
        app.extensions["outbox"].close()


def test_status_and_cancel_make_no_file(make_app):
    app = make_app()
    with app.app_context():
        assert Mail(app).status("0" * 32) is None
        assert not Mail(app).cancel("0" * 32)
    assert not Path(app.instance_path).exists()


def test_several_apps_of_one_process_keep_their_mail_apart(make_app):
    with Hostile() as one, Hostile() as two, Heard(message_sent) as sent:
        mail = Mail()
        apps = [make_app(one, "one"), make_app(two, "two")]
        for app, person in zip(apps, ("one@example.org", "two@example.org"), strict=True):
            with app.app_context():
                mail.send_later(note(recipients=[person]))
        sent.wait(2)
        assert [each.recipients for each in one.accepted] == [("one@example.org",)]
        assert [each.recipients for each in two.accepted] == [("two@example.org",)]
        for app in apps:
            app.extensions["outbox"].close()


def test_a_forked_child_sends_on_lines_and_a_worker_of_its_own(tmp_path):
    code = """
import os, sys, time
from flask import Flask
from flask_outbox import Mail, Message, State
from hostile import Hostile
with Hostile() as server:
    app = Flask("shop", instance_path=sys.argv[1])
    app.config.update(MAIL_PORT=server.port, MAIL_DEFAULT_SENDER="shop@example.com")
    mail = Mail(app)
    def note(): return Message("hi", ["ada@example.org"], "text")
    def settled(row):
        end = time.monotonic() + 15
        while mail.status(row).state is not State.ACCEPTED and time.monotonic() < end:
            time.sleep(0.01)
        return mail.status(row).state is State.ACCEPTED
    with app.app_context():
        mail.send(note())
        assert settled(mail.send_later(note()))
        child = os.fork()
        if not child:
            try:
                mail.send(note())
                ok = settled(mail.send_later(note()))
            finally:
                os._exit(0 if ok else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        mail.send(note())
        assert settled(mail.send_later(note()))
    assert len(server.accepted) == 6, len(server.accepted)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "instance")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_date_of_a_mail_for_later_is_when_it_is_due(make_app):
    app = make_app(MAIL_WORKER="process")
    with app.app_context():
        message = note()
        row = Mail(app).send_later(message, delay=3600)
        assert abs(message.date - time.time() - 3600) < 5
        assert abs(Mail(app).status(row).due_at - message.date) < 5


@pytest.mark.parametrize("said", [{"at": time.time() - 3600}, {"delay": -3600}])
def test_a_lifetime_counts_from_now_where_its_time_is_past(make_app, said):
    with Hostile() as server:
        app = make_app(server, MAIL_WORKER="process")
        with app.app_context():
            mail = Mail(app)
            row = mail.send_later(note(), expires=timedelta(minutes=30), **said)
            assert abs(mail.status(row).expires_at - time.time() - 1800) < 60
            assert mail.drain() == 1
            assert mail.status(row).state is State.ACCEPTED


@pytest.mark.parametrize("wrong", [-600.0, 600.0], ids=["slow", "fast"])
def test_a_host_whose_clock_is_wrong_changes_no_delay_and_no_lifetime(
    make_app, postgresql, monkeypatch, wrong
):
    url, real = postgresql.new(), time.time
    Outbox(url).upgrade()
    app = make_app(MAIL_WORKER="process", MAIL_OUTBOX_URL=url)
    mail = Mail(app)
    with app.app_context():
        monkeypatch.setattr(time, "time", lambda: real() + wrong)
        row = mail.send_later(note(), delay=300, expires=timedelta(minutes=5))
        soon = mail.send_later(note(), expires=timedelta(minutes=5))
        status = mail.status(row)
        assert abs(status.due_at - real() - 300) < 60
        assert abs(status.expires_at - real() - 600) < 60
        assert abs(mail.status(soon).expires_at - real() - 300) < 60


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"delay": 60, "expires": time.time()}, "expires= must be later"),
        ({"delay": 60, "expires": timedelta(0)}, "expires= must be later"),
        ({"at": 60}, r"at must be a point in time.* use delay"),
        ({"expires": 3600}, r"expires must be a point in time.* use a timedelta"),
        ({"at": 1e300}, "at must lie before"),
        ({"delay": 1e18}, "delay must lie before"),
        ({"delay": timedelta.max}, "delay must lie before"),
        ({"expires": timedelta.max}, "expires must lie before"),
        ({"expires": float("nan")}, "expires must lie before"),
        ({"at": 10**400}, "at must lie before"),
        ({"delay": 10**400}, "delay must lie before"),
        ({"delay": -(10**400)}, "delay must lie before"),
        ({"expires": 10**400}, "expires must lie before"),
        ({"key": 5}, "key must be a text"),
        ({"key": b"one"}, "key must be a text"),
    ],
)
def test_what_cannot_be_meant_is_answered_at_the_call(tmp_path, said, text):
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config["MAIL_DEFAULT_SENDER"] = "shop@example.com"
    mail = Mail(app)
    with app.app_context(), pytest.raises(MessageError, match=text):
        mail.send_later(note(), **said)
    assert not (tmp_path / "instance").exists()
