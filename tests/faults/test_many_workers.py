"""R1: however many workers race for a row, one gets it.

With CROWDS=full, as in `make faults`, they race for 10,000 rows; else for a fifth of that.
"""

import os

import pytest

from faults_worker import an_outbox, started
from hostile import Hostile
from outbox_process import other_process
from worker_stage import Eyes, a_submission, put, wait_for

WORKERS = 64
ROWS = 10_000 if os.environ.get("CROWDS") == "full" else 2_000
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
def test_sixty_four_workers_race_for_one_row_and_one_claims_it(tmp_path):
    outbox = an_outbox(tmp_path / "outbox.sqlite3")
    put(outbox, a_submission())
    outbox.close()
    with other_process(tmp_path / "outbox.sqlite3", RACE) as race:
        assert race.hear() == "0" * (WORKERS - 1) + "1"


@pytest.mark.timeout(PATIENCE + 40)
def test_sixteen_workers_send_each_row_once(tmp_path):
    file = tmp_path / "outbox.sqlite3"
    outbox = an_outbox(file)
    for first in range(0, ROWS, 500):
        put(outbox, *(a_submission(f"n{first + i}") for i in range(500)))
    outbox.close()
    eyes = Eyes(file)
    options = ("--processes", "16", "--lease", "30", "--busy", "60")
    with Hostile() as server, started(file, server.port, *options) as program:
        wait_for(lambda: eyes.count("state = 'accepted'") == ROWS, PATIENCE)
        program.terminate()
        assert program.wait(PATIENCE) == 0
    assert len(server.message_ids) == len(set(server.message_ids)) == ROWS
    assert eyes.count("attempts = 1") == ROWS
