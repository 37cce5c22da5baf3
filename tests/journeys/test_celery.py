"""Celery's workers send the mail: real ones, on real brokers, in every pool."""

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from brokers import broker
from engine_stage import Stage, clean, later, on_broker, tasks_at
from flask_outbox.worker.celery import Hints
from forked import in_child
from hostile import Hostile
from worker_stage import BOUND, wait_for

MAIL = {"MAIL_WORKER": "celery"}
ROUND = 12  # mails
SOON = {"MAIL_LEASE": 1, "MAIL_GIVE_UP": 300}  # what may have left goes again after half a second


@contextmanager
def staged(folder, relay: Hostile, name: str = "redis", **conf) -> Iterator[Stage]:
    """Make a stage on a broker of that name."""
    with broker(name) as url:
        celery = on_broker(url, **conf)
        stage = Stage(folder, relay.port, mail=MAIL, celery=celery, register={"sweep": None})
        try:
            yield stage
        finally:
            stage.close()
            clean(celery)


def all_accepted(stage: Stage, count: int) -> bool:
    return stage.eyes.count("state = 'accepted'") == count


# --- each choice that Celery leaves to its users ---

CHOICES = [
    # broker, pool, acks_late, result backend
    ("redis", "prefork", True, None),
    ("redis", "prefork", False, "broker"),
    ("redis", "threads", True, "database"),
    ("redis", "threads", False, None),
    ("redis", "solo", True, "broker"),
    ("redis", "solo", False, "database"),
    ("redis", "gevent", True, None),
    ("redis", "gevent", False, "broker"),
    ("rabbitmq", "prefork", True, "database"),
    ("rabbitmq", "gevent", True, None),
    ("rabbitmq", "threads", False, None),
    ("rabbitmq", "solo", True, None),
]


@pytest.mark.parametrize(("name", "pool", "late", "backend"), CHOICES)
def test_whatever_is_chosen_each_mail_is_accepted_once(tmp_path, name, pool, late, backend):
    results = {
        "broker": lambda: stage.celery["broker_url"],
        "database": lambda: f"db+sqlite:///{tmp_path}/results.sqlite3",
        None: lambda: None,
    }
    with Hostile() as relay, staged(tmp_path, relay, name, task_acks_late=late) as stage:
        stage.politely = False
        stage.celery["result_backend"] = results[backend]()
        stage.celery["task_ignore_result"] = backend is None
        desk = stage.app()
        with stage.celery_worker(pool, 2):
            for n in range(ROUND):
                later(desk, f"n{n}")
            wait_for(lambda: all_accepted(stage, ROUND))
            wait_for(lambda: len(stage.heard("message_sent")) == ROUND)
        assert len(relay.message_ids) == len(set(relay.message_ids)) == ROUND
        assert {each["thread"] for each in stage.heard()}.isdisjoint({"flask-outbox-news"})
        assert "Traceback" not in stage.log()


def test_a_visibility_timeout_shorter_than_a_send_sends_no_mail_twice(tmp_path):
    again = threading.Event()

    def slowly(session):
        again.wait(BOUND)
        session.polite()

    options = {
        "visibility_timeout": 1,
        "unacked_restore_interval": 1,  # else Celery looks for such tasks every 100 s only
        "unacked_restore_throttle": 1,
    }
    conf = {"task_acks_late": True, "broker_transport_options": options}
    with Hostile({"dot": [slowly]}) as relay, staged(tmp_path, relay, **conf) as stage:
        desk = stage.app()
        with stage.celery_worker("prefork", 2):
            later(desk, "slow")
            wait_for(lambda: len(re.findall(r"drain\[(\S+)\] received", stage.log())) > 1)
            received = re.findall(r"drain\[(\S+)\] received", stage.log())
            again.set()
            wait_for(lambda: all_accepted(stage, 1))
        assert len(set(received)) == 1  # one task, given out twice
        assert len(relay.message_ids) == 1


# --- hints ---


def test_many_mails_are_few_tasks(tmp_path):
    with Hostile() as relay, staged(tmp_path, relay) as stage:
        desk = stage.app()
        began = time.monotonic()
        for n in range(1000):
            later(desk, f"n{n}")
        desk.extensions["outbox"].wakes.stop()
        assert 1 <= tasks_at(stage.celery) <= 2 + (time.monotonic() - began) * 10


def test_a_mail_for_tomorrow_is_no_task(tmp_path):
    with Hostile() as relay, staged(tmp_path, relay) as stage:
        desk = stage.app()
        later(desk, "now")
        desk.extensions["outbox"].wakes.stop()
        assert tasks_at(stage.celery) == 1
        later(desk, "tomorrow", delay=86400)
        desk.extensions["outbox"].wakes.stop()
        assert tasks_at(stage.celery) == 1


def test_what_no_hint_told_of_the_sweep_finds(tmp_path):
    with Hostile() as relay, staged(tmp_path, relay) as stage:
        stage.register = {"sweep": 0.3}
        desk = stage.app(MAIL_WORKER="process")
        with stage.celery_worker("prefork", 1, "--beat"):
            later(desk, "ada")
            wait_for(lambda: all_accepted(stage, 1))
        assert len(relay.message_ids) == 1


@pytest.mark.parametrize("name", ["redis", "rabbitmq"])
def test_a_child_does_not_speak_on_its_parents_line_to_the_broker(tmp_path, name):
    with Hostile() as relay, staged(tmp_path, relay, name) as stage:
        hints = Hints(stage.app().extensions["celery"])
        hints.wake(0.0)
        parents = hints._line

        def child():
            hints.wake(0.0)
            assert hints._line is not parents
            hints.close()

        in_child(child)
        assert hints._line is parents
        hints.wake(0.0)
        hints.close()
        wait_for(lambda: tasks_at(stage.celery) == 3)


@contextmanager
def silent() -> Iterator[tuple[int, list[socket.socket]]]:
    """Listen, accept, and never say a word."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept():
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1], held
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(BOUND)
            for each in held:
                each.close()


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_never_answers_is_one_line_and_keeps_nobody_waiting(tmp_path, caplog, scheme):
    with silent() as (port, held):
        conf = on_broker(f"{scheme}://127.0.0.1:{port}//")
        stage = Stage(tmp_path, 9, mail=MAIL, celery=conf)
        desk = stage.app()
        later(desk, "first")
        wait_for(lambda: held)  # from here on it hangs
        later(desk, "second")
        assert "mail waits" not in caplog.text  # it was written down while it hung
        wait_for(lambda: "mail waits" in caplog.text)
        for n in range(20):
            later(desk, f"n{n}")
        assert stage.eyes.count("state = 'queued'") == 22
        stage.close()
    assert caplog.text.count("mail waits") == 1


def test_a_broker_that_is_away_is_one_line_and_the_sweep_sends(tmp_path, caplog):
    with Hostile() as relay, staged(tmp_path, relay) as stage:
        url, stage.celery["broker_url"] = stage.celery["broker_url"], "redis://127.0.0.1:1/0"
        desk = stage.app()
        for n in range(5):
            later(desk, f"n{n}")
        wait_for(lambda: "mail waits" in caplog.text)
        stage.close()
        stage.celery["broker_url"] = url
        stage.register = {"sweep": 0.3}
        with stage.celery_worker("prefork", 1, "--beat"):
            wait_for(lambda: all_accepted(stage, 5))
        assert caplog.text.count("mail waits") == 1
        assert len(relay.message_ids) == 5


def test_a_broker_that_comes_back_hears_of_new_mail(tmp_path, caplog):
    caplog.set_level("INFO", "flask_outbox.worker")
    with broker("redis", own=True) as url:
        conf = on_broker(url)
        stage = Stage(tmp_path, 9, mail=MAIL, celery=conf)
        desk = stage.app()
        later(desk, "before")
        wait_for(lambda: tasks_at(conf) == 1)
        port = int(url.rpartition(":")[2].removesuffix("/0"))
    later(desk, "away")
    wait_for(lambda: "mail waits" in caplog.text)
    with broker("redis", own=True, port=port):
        later(desk, "after")
        wait_for(lambda: "told of again" in caplog.text)
        assert tasks_at(conf) == 1
    stage.close()


# --- a worker that dies ---


@pytest.mark.parametrize("name", ["redis", "rabbitmq"])
def test_a_killed_worker_loses_nothing(tmp_path, name):
    speaking = threading.Event()

    def first(session):
        speaking.set()
        session.server.over.wait(BOUND)

    with Hostile({"body": [first]}) as relay, staged(tmp_path, relay, name) as stage:
        stage.mail = {**MAIL, **SOON, "MAIL_CONNECTIONS": 1}
        desk = stage.app()
        for n in range(8):
            later(desk, f"n{n}")
        with stage.celery_worker("prefork", 1) as program:
            assert speaking.wait(BOUND)
            os.killpg(program.pid, signal.SIGKILL)
            program.wait(BOUND)
        relay.over.set()
    with Hostile() as relay, staged(tmp_path, relay, name) as stage:
        stage.mail = {**MAIL, **SOON}
        stage.register = {"sweep": 0.3}
        with stage.celery_worker("prefork", 1, "--beat"):
            wait_for(lambda: all_accepted(stage, 8))
        assert len(relay.message_ids) == len(set(relay.message_ids)) == 8


# --- tasks of the app's own ---


def test_a_task_of_the_app_sends_later_with_no_thread_of_ours_in_its_process(tmp_path):
    with Hostile() as relay, staged(tmp_path, relay) as stage:
        desk = stage.app()
        with stage.celery_worker("prefork", 2):
            desk.extensions["celery"].tasks["send_later_task"].delay("ada")
            wait_for(lambda: stage.heard("message_sent"))
        assert len(relay.message_ids) == 1
        assert {each["thread"] for each in stage.heard()}.isdisjoint({"flask-outbox-news"})


@pytest.mark.parametrize("worker", ["celery", "embedded"])
def test_the_recipe_of_every_tutorial_runs_unchanged(tmp_path, worker):
    with Hostile() as relay, staged(tmp_path, relay) as stage:
        stage.mail = {"MAIL_WORKER": worker}
        desk = stage.app()
        with stage.celery_worker("prefork", 1):
            desk.extensions["celery"].tasks["send_email_task"].delay("ada")
            wait_for(lambda: relay.message_ids)
            wait_for(lambda: stage.heard("message_sent"))
        assert len(relay.message_ids) == 1
        assert not (tmp_path / "outbox.sqlite3").exists()
