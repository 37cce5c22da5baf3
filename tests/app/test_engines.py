"""Which engine an app has: by MAIL_WORKER, by its Celery, or its own; and what is refused."""

import importlib.util
import logging
import time

import pytest
from celery import Celery
from celery.beat import Scheduler, Service
from celery.signals import beat_init
from flask import Flask, current_app

from app_server import running
from engine_stage import later
from flask_outbox import ConfigurationError, Mail, Message, State
from flask_outbox.app import engines
from flask_outbox.outbox.database import Outbox
from flask_outbox.worker import celery as module
from flask_outbox.worker.celery import TASK, Hints, register
from flask_outbox.worker.listening import Listening
from worker_stage import wait_for

NOWHERE = {"broker_url": "memory://", "task_ignore_result": True}


class Heard:
    """An engine of the app's own."""

    def __init__(self):
        self.dues = []
        self.apps = []

    def wake(self, due_at):
        self.dues.append(due_at)
        self.apps.append(current_app.name)


@pytest.fixture
def make_app(tmp_path):
    made = []

    def make(mail=None, **config):
        app = Flask("shop", instance_path=str(tmp_path))
        app.config.update({"MAIL_PORT": 9, "MAIL_DEFAULT_SENDER": "shop@example.com", **config})
        (mail or Mail()).init_app(app)
        made.append(app)
        return app

    yield make
    for app in made:
        app.extensions["outbox"].close()


def celery(app, **conf):
    app.extensions["celery"] = made = Celery("shop", set_as_current=False)
    made.config_from_object({**NOWHERE, **conf})
    return made


# --- an engine of one's own ---


def test_an_engine_of_ones_own_is_told_of_new_mail_in_the_apps_context(make_app):
    engine = Heard()
    app = make_app(Mail(engine=engine))
    before = time.time()
    later(app, "ada")
    wait_for(lambda: engine.dues)
    assert before <= engine.dues[0] <= time.time()
    assert engine.apps == ["shop"]


def test_it_is_told_when_a_mail_is_due(make_app):
    engine = Heard()
    app = make_app(Mail(engine=engine))
    later(app, "ada", at=4_000_000_000)
    wait_for(lambda: engine.dues == [4_000_000_000])


def test_its_failure_is_a_line_in_the_log_and_costs_the_caller_nothing(make_app, caplog):
    class Fails:
        def wake(self, due_at):
            raise OSError("secret words")

    app = make_app(Mail(engine=Fails()))
    row = later(app, "ada")
    wait_for(lambda: "mail waits" in caplog.text)
    with app.app_context():
        assert Mail().status(row).state is State.QUEUED
    assert "secret words" not in caplog.text


def test_what_waited_before_the_first_request_is_told_with_it(make_app):
    later(make_app(MAIL_WORKER="process"), "ada")
    engine = Heard()
    app = make_app(Mail(engine=engine))
    app.test_client().get("/")
    wait_for(lambda: engine.dues)


def test_what_an_engine_starts_drains(make_app):
    with running() as server:
        mail = Mail(engine=Heard())
        app = make_app(mail, MAIL_PORT=server.port)
        row = later(app, "ada")
        with app.app_context():
            assert mail.drain(seconds=20) == 1
            assert mail.status(row).state is State.ACCEPTED
            assert mail.drain(seconds=20, at_once=1) == 0


def test_an_engine_is_woken_again_where_a_drain_ended_too_soon(make_app):
    engine = Heard()
    mail = Mail(engine=engine)
    app = make_app(mail)
    later(app, "ada")
    wait_for(lambda: len(engine.dues) == 1)
    with app.app_context():
        assert mail.drain(seconds=1e-9) == 0
    wait_for(lambda: len(engine.dues) == 2)


def test_draining_where_there_is_no_outbox_makes_none(make_app, tmp_path):
    app = make_app(Mail(engine=Heard()))
    with app.app_context():
        assert Mail().drain() == 0
    assert list(tmp_path.iterdir()) == []


def test_under_testing_draining_lets_what_is_due_count_as_sent(make_app):
    engine = Heard()
    app = make_app(Mail(engine=engine), TESTING=True)
    row = later(app, "ada")
    tomorrow = later(app, "bob", delay=86400)
    with app.app_context():
        assert Mail().drain() == 1
        assert Mail().status(row).state is State.ACCEPTED
        assert Mail().status(tomorrow).state is State.QUEUED
    assert engine.dues == []


def test_on_postgresql_workers_elsewhere_are_told_by_the_database(make_app, postgresql):
    place = postgresql.new()
    Outbox(place).upgrade()
    app = make_app(MAIL_OUTBOX_URL=place, MAIL_WORKER="process")
    heard = []
    listening = Listening(app.extensions["outbox"].outbox, lambda: heard.append(1))
    listening.begin()
    listens = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'LISTEN %' AND datname = '{}'"
    try:
        wait_for(lambda: postgresql.ask(listens.format(place.rpartition("/")[2])))
        wait_for(lambda: (later(app, "ada"), heard)[1])
    finally:
        listening.end()


def test_an_engine_and_a_word_for_one_are_not_both_given(make_app):
    with pytest.raises(ConfigurationError, match="keep one of them"):
        make_app(Mail(engine=Heard()), MAIL_WORKER="embedded")


def test_an_engine_that_cannot_be_woken_is_refused(make_app):
    with pytest.raises(ConfigurationError, match="wake"):
        make_app(Mail(engine=object()))


# --- Celery ---


def test_celery_that_is_not_installed_names_what_to_install(make_app, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name == "celery" else find(name))
    with pytest.raises(ConfigurationError, match=r'pip install "flask-outbox\[celery\]"'):
        make_app(MAIL_WORKER="celery")
    make_app(MAIL_WORKER="process")


def test_without_an_app_of_celerys_the_call_says_where_to_put_it_and_writes_nothing(
    make_app, tmp_path
):
    app = make_app(MAIL_WORKER="celery")
    with pytest.raises(ConfigurationError, match=r'app\.extensions\["celery"\]'):
        later(app, "ada")
    assert not (tmp_path / "outbox.sqlite3").exists()


def test_without_the_task_the_call_says_what_to_call_and_writes_nothing(make_app, tmp_path):
    app = make_app(MAIL_WORKER="celery")
    celery(app)
    with pytest.raises(ConfigurationError, match=r"worker\.celery\.register"):
        later(app, "ada")
    assert not (tmp_path / "outbox.sqlite3").exists()


def test_what_is_wrong_is_mended_without_a_new_mail(make_app):
    app = make_app(MAIL_WORKER="celery")
    with pytest.raises(ConfigurationError):
        later(app, "ada")
    register(celery(app))
    assert later(app, "ada")


def test_a_request_that_finds_mail_waiting_and_no_celery_says_so_and_goes_on(make_app, caplog):
    later(make_app(MAIL_WORKER="process"), "ada")
    app = make_app(MAIL_WORKER="celery")
    assert app.test_client().get("/").status_code == 404
    assert 'app.extensions["celery"]' in caplog.text
    assert [each.levelno for each in caplog.records] == [logging.ERROR]


def test_the_task_may_be_registered_before_the_app_of_celery_is_configured():
    app = Celery("shop", set_as_current=False)
    register(app, sweep=7.0)
    mine = {"mine": {"task": "x", "schedule": 1}}
    app.config_from_object({"broker_url": "memory://", "beat_schedule": mine})
    assert app.conf.broker_url == "memory://"
    assert app.conf.beat_schedule["flask_outbox.sweep"]["schedule"] == 7.0
    assert app.conf.beat_schedule["flask_outbox.sweep"]["task"] == TASK
    assert "mine" in app.conf.beat_schedule
    assert app.tasks[TASK].ignore_result


def test_beat_has_the_sweep_though_the_apps_schedule_was_set_after_it():
    app = Celery("shop", set_as_current=False)
    app.config_from_object(NOWHERE)
    register(app, sweep=7.0)
    assert "flask_outbox.sweep" in app.conf.beat_schedule
    app.conf.beat_schedule = {"mine": {"task": "x", "schedule": 1}}
    assert "flask_outbox.sweep" not in app.conf.beat_schedule
    beat = Service(app, scheduler_cls=Scheduler)
    beat_init.send(sender=beat)
    assert sorted(beat.scheduler.schedule) == ["flask_outbox.sweep", "mine"]
    assert beat.scheduler.schedule["flask_outbox.sweep"].task == TASK
    without = Celery("other", set_as_current=False)
    without.config_from_object(NOWHERE)
    register(without, sweep=None)
    other = Service(without, scheduler_cls=Scheduler)
    beat_init.send(sender=other)
    assert "flask_outbox.sweep" not in other.scheduler.schedule


def test_what_is_retried_by_hand_is_told_of(make_app):
    engine = Heard()
    mail = Mail(engine=engine)
    app = make_app(mail)
    row = later(app, "ada")
    wait_for(lambda: len(engine.dues) == 1)
    with app.app_context():
        assert mail.cancel(row)
    app.test_cli_runner().invoke(args=["outbox", "retry", row], catch_exceptions=False)
    wait_for(lambda: len(engine.dues) == 2)


def test_the_sweep_is_once_a_minute():
    app = Celery("shop", set_as_current=False)
    app.config_from_object(NOWHERE)
    register(app)
    assert app.conf.beat_schedule["flask_outbox.sweep"]["schedule"] == 60.0


def test_a_task_drains_for_half_a_minute_and_leaves_the_rest_to_two(monkeypatch):
    class Asked:
        def is_served_by(self, celery_app):
            return celery_app is app

        def drain(self, seconds, at_once, leave):
            asked.append((seconds, at_once, leave))
            return 7

    asked, one = [], Asked()
    monkeypatch.setattr(module, "served", {one})
    app = Celery("shop", set_as_current=False)
    app.config_from_object(NOWHERE)
    register(app)
    assert app.tasks[TASK]() == 7
    assert asked == [(30.0, 2, module.leaving)]


def test_what_fails_in_one_app_keeps_no_other_apps_mail_and_fails_the_task(monkeypatch, caplog):
    class Asked:
        def is_served_by(self, _celery_app):
            return True

        def drain(self, *_):
            asked.append(self)
            raise ConfigurationError("secret words")

    asked, apps = [], {Asked(), Asked()}
    monkeypatch.setattr(module, "served", apps)
    app = Celery("shop", set_as_current=False)
    app.config_from_object(NOWHERE)
    register(app)
    with pytest.raises(ConfigurationError):
        app.tasks[TASK]()
    assert set(asked) == apps
    assert caplog.text.count("mail waits for the next sweep: ConfigurationError at") == 2
    assert "secret words" not in caplog.text


def test_no_sweep_where_none_is_wanted():
    app = Celery("shop", set_as_current=False)
    app.config_from_object(NOWHERE)
    register(app, sweep=None)
    assert app.conf.beat_schedule == {}


def test_the_task_is_only_in_the_celery_that_it_was_registered_with():
    ours, other = Celery("ours", set_as_current=False), Celery("other", set_as_current=False)
    register(ours)
    assert TASK in ours.tasks
    assert TASK not in other.tasks


def test_a_limit_for_the_apps_own_tasks_does_not_cut_a_drain_short():
    app = Celery("shop", set_as_current=False)
    app.config_from_object({**NOWHERE, "task_time_limit": 1, "task_soft_time_limit": 1})
    register(app)
    assert (app.tasks[TASK].time_limit, app.tasks[TASK].soft_time_limit) == (3600, 3600)


@pytest.mark.parametrize("limit", ["time_limit", "soft_time_limit"])
@pytest.mark.parametrize("task", ["*", TASK])
def test_a_limit_that_is_annotated_stops_neither_a_drain_nor_a_hint(task, limit):
    annotations = {task: {limit: 5, "rate_limit": "9/s"}}
    app = Celery("shop", set_as_current=False)
    app.config_from_object({**NOWHERE, "task_annotations": annotations})
    register(app)
    assert (app.tasks[TASK].time_limit, app.tasks[TASK].soft_time_limit) == (3600, 3600)
    assert app.tasks[TASK].rate_limit == "9/s"


def test_tasks_that_run_at_once_in_the_caller_send(make_app):
    with running() as server:
        app = make_app(MAIL_PORT=server.port, MAIL_WORKER="celery")
        register(celery(app, task_always_eager=True))
        row = later(app, "ada")
        with app.app_context():
            wait_for(lambda: Mail().status(row).state is State.ACCEPTED)


def test_a_task_sends_the_mail_of_each_app_that_has_this_celery_and_of_no_other(make_app, tmp_path):
    with running() as server:
        apps = {}
        shared = None
        for name, config in {
            "shop": {"MAIL_WORKER": "celery"},
            "blog": {"MAIL_WORKER": "celery"},
            "other": {"MAIL_WORKER": "process"},
        }.items():
            url = f"sqlite:///{tmp_path}/{name}.sqlite3"
            apps[name] = make_app(MAIL_PORT=server.port, MAIL_OUTBOX_URL=url, **config)
            shared = shared or celery(apps[name])
            apps[name].extensions["celery"] = shared
        register(shared)
        rows = {name: later(app, name) for name, app in apps.items()}
        assert shared.tasks[TASK]() == 2
        states = {}
        for name, app in apps.items():
            with app.app_context():
                states[name] = Mail().status(rows[name]).state
        queued, accepted = State.QUEUED, State.ACCEPTED
        assert states == {"shop": accepted, "blog": accepted, "other": queued}


def test_an_app_whose_mail_was_set_up_again_is_served_once(make_app):
    with running() as server:
        app = make_app(MAIL_PORT=server.port, MAIL_WORKER="celery")
        first = app.extensions["outbox"]
        register(celery(app))
        Mail().init_app(app)
        row = later(app, "ada")
        assert not first.is_served_by(app.extensions["celery"])
        assert app.extensions["celery"].tasks[TASK]() == 1
        with app.app_context():
            assert Mail().status(row).state is State.ACCEPTED


def test_a_task_in_a_process_without_an_app_says_so(caplog):
    app = Celery("shop", set_as_current=False)
    app.config_from_object(NOWHERE)
    register(app)
    assert app.tasks[TASK]() == 0
    assert "no app with MAIL_WORKER=celery" in caplog.text


def test_an_outbox_that_is_away_is_a_line_and_the_next_sweeps_work(make_app, tmp_path, caplog):
    app = make_app(MAIL_WORKER="celery")
    register(celery(app))
    file = tmp_path / "outbox.sqlite3"
    file.write_bytes(b"no database at all" * 100)
    assert app.extensions["celery"].tasks[TASK]() == 0
    assert "mail waits for the next sweep" in caplog.text


def test_a_celery_that_is_elsewhere_is_given_as_an_engine(make_app):
    with running() as server:
        elsewhere = Celery("shop", set_as_current=False)
        elsewhere.config_from_object(NOWHERE)
        register(elsewhere)
        mail = Mail(engine=Hints(elsewhere))
        app = make_app(mail, MAIL_PORT=server.port)
        later(app, "ada")
        assert elsewhere.tasks[TASK]() == 1


def test_a_mail_that_is_due_later_is_left_to_the_sweep(monkeypatch):
    app = Celery("shop", set_as_current=False)
    app.config_from_object(NOWHERE)
    register(app)
    sent = []
    monkeypatch.setattr(type(app.tasks[TASK]), "apply_async", lambda *_, **how: sent.append(how))
    hints = Hints(app)
    hints.wake(time.time() + 60)
    assert sent == []
    hints.wake(time.time() - 60)
    assert sent[0]["retry"] is False
    assert sent[0]["expires"] == module.STALE


def test_sending_now_asks_nothing_of_celery(make_app):
    with running() as server:
        app = make_app(MAIL_PORT=server.port, MAIL_WORKER="celery")
        with app.app_context():
            Mail().send(Message("hi", ["ada@example.org"], "text"))
