"""R1: however many workers race for a row, one gets it.

With CROWDS=full, as in `make faults`, sixteen race for 10,000 rows; else for a fifth of that, and
on servers fewer for fewer.
"""

import os
import threading
from contextlib import ExitStack

import pytest

from brokers import broker
from engine_stage import Stage, clean, on_broker
from faults_worker import an_outbox, started
from hostile import Hostile, polite
from outbox_process import other_process
from worker_stage import BOUND, Eyes, a_submission, put, wait_for

WORKERS = 64
FULL = os.environ.get("CROWDS") == "full"
ROWS, PROCESSES = (10_000, 16) if FULL else (2_000, 16)
ROWS_ON_A_SERVER, PROCESSES_ON_A_SERVER = (10_000, 16) if FULL else (500, 4)
TOGETHER = 600  # rows, for three programs that take up to a hundred or so at a time
PATIENCE = 200.0  # seconds, on a machine that has other things to do

RACE = f"""
import os

start, go = os.pipe()
answers, answer = os.pipe()
for _ in range({WORKERS}):
    if not os.fork():
        os.close(go)
        try:
            outbox.open()
            os.write(answer, b"r")
            os.read(start, 1)  # ends for all of them at once
            got = claim(outbox, transports=["default"], limit=10, worker=str(os.getpid()))
            os.write(answer, b"0123456789"[len(got) : len(got) + 1])
        finally:
            os._exit(0)
for _ in range({WORKERS}):
    assert os.read(answers, 1) == b"r"
os.close(go)
say("".join(sorted(os.read(answers, 1).decode() for _ in range({WORKERS}))))
for _ in range({WORKERS}):
    os.wait()
"""


@pytest.mark.timeout(PATIENCE + 40)
def test_sixty_four_workers_race_for_one_row_and_one_claims_it(place):
    outbox = an_outbox(place)
    put(outbox, a_submission())
    outbox.close()
    with other_process(place, RACE) as race:
        assert race.hear() == "0" * (WORKERS - 1) + "1"


def put_many(place, rows):
    outbox = an_outbox(place)
    for first in range(0, rows, 500):
        put(outbox, *(a_submission(f"n{i}") for i in range(first, min(first + 500, rows))))
    outbox.close()


@pytest.mark.timeout(PATIENCE + 40)
def test_many_workers_send_each_row_once(place):
    is_file = place.startswith("sqlite")
    rows = ROWS if is_file else ROWS_ON_A_SERVER
    processes = PROCESSES if is_file else PROCESSES_ON_A_SERVER
    put_many(place, rows)
    eyes = Eyes(place)
    options = ("--processes", str(processes), "--lease", "30", "--busy", "60")
    with Hostile() as server, started(place, server.port, *options) as program:
        wait_for(lambda: eyes.count("state = 'accepted'") == rows, PATIENCE)
        program.terminate()
        assert program.wait(PATIENCE) == 0
    assert len(server.message_ids) == len(set(server.message_ids)) == rows
    assert eyes.count("attempts = 1") == rows


@pytest.mark.timeout(PATIENCE + 40)
def test_a_web_process_an_outbox_worker_and_celery_send_each_row_once_together(place, tmp_path):
    go, eyes = threading.Event(), Eyes(place)

    def hold(session):
        go.wait(PATIENCE)
        polite(session)

    outbox = an_outbox(place)
    outbox.open()  # makes it, where it is a file
    outbox.close()
    with broker("redis") as url, Hostile({"MAIL": hold}) as relay, ExitStack() as programs:
        stage = Stage(
            tmp_path, relay.port, place=place, mail={"MAIL_LEASE": 60.0, "MAIL_TIMEOUT": PATIENCE},
            celery=on_broker(url), register={"sweep": 0.3, "at_once": 9}, politely=False,
        )  # fmt: skip
        programs.callback(clean, stage.celery)
        programs.callback(go.set)
        programs.enter_context(stage.celery_worker("prefork", 1, "--beat", MAIL_WORKER="celery"))
        programs.enter_context(stage.outbox_worker(MAIL_WORKER="process"))
        programs.enter_context(stage.web_process(MAIL_WORKER="embedded"))
        put_many(place, TOGETHER)
        wait_for(lambda: at_work(eyes) == 3, 3 * BOUND)
        go.set()
        wait_for(lambda: eyes.count("state = 'accepted'") == TOGETHER, 3 * BOUND)
    assert len(relay.message_ids) == len(set(relay.message_ids)) == TOGETHER
    assert eyes.count("attempts = 1") == TOGETHER
    assert "Traceback" not in stage.log()


def at_work(eyes):
    """Count the workers that have something to send, and know it."""
    asked = "SELECT count(DISTINCT worker) FROM outbox_message WHERE started_at IS NOT NULL"
    return eyes.rows(asked)[0][0]
