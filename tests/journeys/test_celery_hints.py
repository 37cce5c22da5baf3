"""What Celery is told of new mail: little, seldom, and to nobody's cost when the broker is away."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from kombu.exceptions import OperationalError

from brokers import broker
from cutter import Cutter
from engine_stage import CELERY, Stage, all_accepted, later, on_broker, staged, task_at, tasks_at
from flask_outbox.worker.celery import Hints
from forked import in_child
from hostile import Hostile
from worker_stage import BOUND, wait_for

BROKERS = ("redis", "rabbitmq")


@pytest.mark.parametrize("name", BROKERS)
def test_a_task_says_that_something_is_due_and_nothing_of_the_mail(tmp_path, name):
    with Hostile() as relay, staged(tmp_path, relay, name) as stage:
        desk = stage.app()
        row = later(desk, "hopper")
        desk.extensions["outbox"].wakes.stop()
        task = task_at(stage.celery)
        args, kwargs, _ = task.decode()
        assert (args, kwargs) == ([], {})
        whole = f"{task.headers} {task.properties} {task.body!r}"
        words = (row, "hopper", "example", "Hello", "shop@")
        assert [word for word in words if word in whole] == []


@pytest.mark.parametrize("name", BROKERS)
def test_many_mails_are_few_tasks(tmp_path, name):
    with Hostile() as relay, staged(tmp_path, relay, name) as stage:
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


@pytest.mark.parametrize("name", BROKERS)
def test_what_no_hint_told_of_the_sweep_finds(tmp_path, name):
    with Hostile() as relay, staged(tmp_path, relay, name) as stage:
        stage.register = {"sweep": 0.3}
        desk = stage.app(MAIL_WORKER="process")
        with stage.celery_worker("prefork", 1, "--beat"):
            later(desk, "ada")
            wait_for(lambda: all_accepted(stage, 1))
        assert len(relay.message_ids) == 1


@pytest.mark.parametrize("name", BROKERS)
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


@pytest.mark.parametrize("as_one", [";".join, list], ids=["a text", "a list"])
def test_of_several_brokers_the_next_hears_what_the_first_cannot(tmp_path, as_one):
    with Hostile() as relay, staged(tmp_path, relay) as stage, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        there = stage.celery["broker_url"]
        away = f"redis://127.0.0.1:{nobody.getsockname()[1]}/0"
        celery_app = stage.app().extensions["celery"]
        celery_app.conf.broker_url = as_one([away, away, there])
        hints = Hints(celery_app)
        hints.wake(0.0)
        hints.close()
        wait_for(lambda: tasks_at(stage.celery) == 1)
        celery_app.conf.broker_url = as_one([away, away])
        with pytest.raises(OperationalError):
            hints.wake(0.0)


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


@pytest.mark.parametrize(
    ("url", "waits"),
    [
        ("redis://", {"socket_timeout": 2.0, "socket_connect_timeout": 2.0}),
        ("amqp://", {"read_timeout": 2.0, "write_timeout": 2.0}),
    ],
)
def test_a_broker_has_two_seconds_for_each_answer_and_is_asked_once(tmp_path, url, waits):
    stage = Stage(tmp_path, 9, mail=CELERY, celery=on_broker(url))
    with Hints(stage.app().extensions["celery"])._dial() as line:
        assert line.connect_timeout == 2.0
        assert {**line.transport_options, **waits, "max_retries": 0} == line.transport_options
    stage.close()


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_never_answers_is_one_line_and_keeps_nobody_waiting(tmp_path, caplog, scheme):
    with silent() as (port, held):
        conf = on_broker(f"{scheme}://127.0.0.1:{port}//")
        stage = Stage(tmp_path, 9, mail=CELERY, celery=conf)
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


@pytest.mark.parametrize(
    ("name", "away"), [("redis", "redis://127.0.0.1:1/0"), ("rabbitmq", "amqp://127.0.0.1:1//")]
)
def test_a_broker_that_is_away_is_one_line_and_the_sweep_sends(tmp_path, caplog, name, away):
    with Hostile() as relay, staged(tmp_path, relay, name) as stage:
        url, stage.celery["broker_url"] = stage.celery["broker_url"], away
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


@pytest.mark.parametrize("name", BROKERS)
def test_a_line_that_was_cut_while_it_rested_costs_no_hint(tmp_path, name):
    with Hostile() as relay, staged(tmp_path, relay, name) as stage:
        celery_app = stage.app().extensions["celery"]
        url = urlsplit(stage.celery["broker_url"])
        with Cutter(url.port) as cutter:
            celery_app.conf.broker_url = url._replace(netloc=at(url, cutter.port)).geturl()
            hints = Hints(celery_app)
            for count in (1, 2, 3):
                hints.wake(0.0)
                wait_for(lambda count=count: tasks_at(stage.celery) == count)
                cutter.cut()
            cutter.away = True
            with pytest.raises(OperationalError):
                hints.wake(0.0)


def at(url, port):
    who, _, _ = url.netloc.rpartition("@")
    return f"{who}@127.0.0.1:{port}" if who else f"127.0.0.1:{port}"


def test_a_broker_that_comes_back_hears_of_new_mail(tmp_path, caplog):
    caplog.set_level("INFO", "flask_outbox.worker")
    with broker("redis", own=True) as url:
        conf = on_broker(url)
        stage = Stage(tmp_path, 9, mail=CELERY, celery=conf)
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
