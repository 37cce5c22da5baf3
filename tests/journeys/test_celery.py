"""Celery's workers send the mail: real ones, on real brokers, in every pool."""

import os
import re
import signal
import threading

import pytest

from brokers import broker
from engine_stage import CELERY, all_accepted, later, staged
from hostile import Hostile
from hostile import later as late
from worker_stage import BOUND, wait_for

ROUND = 12  # mails
SOON = {"MAIL_LEASE": 1, "MAIL_GIVE_UP": 300}  # what may have left goes again after half a second
BROKERS = ("redis", "rabbitmq")


# --- each choice that Celery leaves to its users ---

POOLS = ("prefork", "threads", "solo", "gevent")
RESULTS = (None, "redis", "database")
# Each pool on each broker with each result backend, half of them late: no two are left untried.
CHOICES = [
    (name, pool, backend, (i + j + k) % 2 == 0)
    for i, name in enumerate(BROKERS)
    for j, pool in enumerate(POOLS)
    for k, backend in enumerate(RESULTS)
]


@pytest.mark.parametrize(("name", "pool", "backend", "late"), CHOICES)
def test_whatever_is_chosen_each_mail_is_accepted_once(tmp_path, name, pool, backend, late):
    with (
        Hostile() as relay,
        broker("redis") as redis,
        staged(tmp_path, relay, name, task_acks_late=late) as stage,
    ):
        results = {"redis": redis, "database": f"db+sqlite:///{tmp_path}/results.sqlite3"}
        stage.politely = False
        stage.celery["result_backend"] = results.get(backend)
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


# --- a worker that dies ---


@pytest.mark.parametrize("name", BROKERS)
def test_a_killed_worker_loses_nothing(tmp_path, name):
    speaking = threading.Event()

    def first(session):
        speaking.set()
        session.server.over.wait(BOUND)

    with Hostile({"body": [first]}) as relay, staged(tmp_path, relay, name) as stage:
        stage.mail = {**CELERY, **SOON, "MAIL_CONNECTIONS": 1}
        desk = stage.app()
        for n in range(8):
            later(desk, f"n{n}")
        with stage.celery_worker("prefork", 1) as program:
            assert speaking.wait(BOUND)
            os.killpg(program.pid, signal.SIGKILL)
            program.wait(BOUND)
        relay.over.set()
    with Hostile() as relay, staged(tmp_path, relay, name) as stage:
        stage.mail = {**CELERY, **SOON}
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


@pytest.mark.parametrize(
    ("name", "worker"), [("redis", "celery"), ("redis", "embedded"), ("rabbitmq", "celery")]
)
def test_the_recipe_of_every_tutorial_runs_unchanged(tmp_path, name, worker):
    with Hostile() as relay, staged(tmp_path, relay, name) as stage:
        stage.mail = {"MAIL_WORKER": worker}
        desk = stage.app()
        with stage.celery_worker("prefork", 1):
            desk.extensions["celery"].tasks["send_email_task"].delay("ada")
            wait_for(lambda: relay.message_ids)
            wait_for(lambda: stage.heard("message_sent"))
        assert len(relay.message_ids) == 1
        assert not (tmp_path / "outbox.sqlite3").exists()


def test_a_child_that_ends_lets_the_worker_inside_it_finish(tmp_path):
    with Hostile({"dot": late(4.0)}) as relay, staged(tmp_path, relay) as stage:
        stage.mail, stage.register = {"MAIL_WORKER": "embedded"}, None
        desk = stage.app()
        with stage.celery_worker("prefork", 1):
            desk.extensions["celery"].tasks["send_later_task"].delay("ada")
            relay.wait_until(lambda there: b"DATA" in there.heard, BOUND)
        assert all_accepted(stage, 1)
        assert stage.eyes.rows("SELECT name FROM outbox_worker") == []
        assert len(relay.message_ids) == 1
