"""Many at once: each row is claimed once, equal keys are one row.

In full, 10,000 rows and 1,000 keys, with CROWDS=full, as in `make faults`; else a fifth of that.
"""

import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import insert, select

from faults_worker import an_outbox
from flask_outbox.outbox.enqueue import Schedule
from flask_outbox.outbox.enqueue import put as put_alone
from flask_outbox.outbox.tables import content, message, recipient
from worker_stage import Eyes, a_submission, put

FULL = os.environ.get("CROWDS") == "full"
ROWS = 10_000 if FULL else 2_000
PROCESSES, THREADS = 4, 16  # 64 threads in all
KEYS = 1_000 if FULL else 200

CLAIMANT = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import random
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from faults_worker import an_outbox
from flask_outbox.mail.errors import OutboxUnavailable
from flask_outbox.outbox.claim import claim

outbox = an_outbox(sys.argv[1], lease=300.0, busy=60.0)
outbox.open()
print("ready", flush=True)
sys.stdin.readline()

def work(number):
    mine, got = [], [None]
    while got:
        try:
            got = claim(outbox, transports=["default"], limit={ROWS // 250}, worker=f"w{{number}}")
        except OutboxUnavailable:  # MariaDB may run out of memory for so many locks
            Event().wait(random.uniform(0.05, 0.1))
        else:
            mine += [each.id for each in got]
    return mine

with ThreadPoolExecutor({THREADS}) as threads:
    shares = list(threads.map(work, range({THREADS})))
print(*[row for share in shares for row in share], flush=True)
outbox.close()
"""


@pytest.fixture
def outbox(place):
    outbox = an_outbox(place, lease=300.0, busy=60.0)
    yield outbox
    outbox.close()


def put_copies(outbox, count):
    """Put one there, and copies of its rows."""
    put(outbox, a_submission())
    with outbox.begin() as connection:
        for table, column in ((message, "id"), (recipient, "message"), (content, "message")):
            row = dict(connection.execute(select(table)).mappings().one())
            copies = [{**row, column: f"{number:032x}"} for number in range(1, count)]
            connection.execute(insert(table), copies)


def test_sixty_four_threads_in_four_processes_claim_each_row_once(place, outbox):
    put_copies(outbox, ROWS)
    claimants = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMANT, place],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(PROCESSES)
    ]  # fmt: skip
    try:
        assert [each.stdout.readline() for each in claimants] == ["ready\n"] * PROCESSES
        for each in claimants:
            each.stdin.write("\n")
            each.stdin.flush()
        said = [each.communicate(timeout=100)[0].split() for each in claimants]
    finally:
        for each in claimants:
            each.kill()
            each.communicate()
    claimed = Counter(row for share in said for row in share)
    assert len(claimed) == ROWS
    assert set(claimed.values()) == {1}
    eyes = Eyes(place)
    assert eyes.count("state = 'sending'") == ROWS
    assert sum(bool(share) for share in said) > 1


def test_equal_keys_from_sixteen_threads_are_one_row_each(place, outbox):
    outbox.open()
    together = Barrier(16)

    def request(_: int) -> list[tuple[int, str, bool]]:
        together.wait(60)
        return [
            (key, *put_alone(outbox, a_submission(), Schedule(key=f"k{key}", fingerprint="f")))
            for key in range(KEYS)
        ]

    with ThreadPoolExecutor(16) as threads:
        told = [one for share in threads.map(request, range(16)) for one in share]
    assert len(told) == KEYS * 16
    assert len({(key, row) for key, row, _ in told}) == KEYS
    assert sum(is_new for _, _, is_new in told) == KEYS
    assert Eyes(place).count("state = 'queued'") == KEYS
