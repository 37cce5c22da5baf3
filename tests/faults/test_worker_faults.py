"""A full disk, a clock that jumps, a fork, ten thousand mails: what a worker makes of them."""

import subprocess
import sys
import threading
from collections import deque
from pathlib import Path

import pytest

from faults_worker import PATIENCE
from flask_outbox.mail.errors import OutboxUnavailable
from flask_outbox.outbox.database import Outbox
from flask_outbox.worker.plan import Plan
from hostile import Hostile
from worker_stage import Eyes, Told, a_submission, at_work, put, wait_for

TESTS = Path(__file__).parents[1]


# --- the disk is full ---


def allow(outbox, pages):
    """Allow the database that many pages more; SQLite's own SQLITE_FULL is the rest."""
    with outbox.begin() as connection:
        used = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {used + pages}")


def fill(outbox):
    """Leave no room, not even in the pages that are there."""
    allow(outbox, 0)
    fillers = (a_submission(f"filler{i}", transport="nobody") for i in range(1000))
    with pytest.raises(OutboxUnavailable):
        deque((put(outbox, each) for each in fillers), maxlen=0)


def test_on_a_full_disk_nothing_is_claimed_or_repeated_and_it_recovers_unaided(outbox, eyes):
    transport = Told()
    hold = threading.Event()
    for i in range(300):
        transport.holds[f"<n{i}@example.com>"] = hold
    put(outbox, *(a_submission(f"n{i}") for i in range(300)))
    plan = Plan(outbox=outbox, transports={"default": transport}, connections=2)
    with at_work(plan) as worker:
        wait_for(lambda: len(transport.begun) == 2)
        fill(outbox)
        hold.set()
        wait_for(lambda: worker._troubles >= 3)
        before = eyes.count("transport = 'default' AND state = 'accepted'")
        begun = len(transport.begun)
        tries = worker._troubles
        wait_for(lambda: worker._troubles > tries)
        assert len(transport.begun) == begun  # nothing more goes out that could not be recorded
        assert eyes.count("transport = 'default' AND state = 'accepted'") == before < 300
        allow(outbox, 1_000_000)
        wait_for(lambda: eyes.count("transport = 'default' AND state = 'accepted'") == 300)
    assert sorted(transport.sent) == sorted(f"<n{i}@example.com>" for i in range(300))


# --- the clock jumps ---


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


HOUR, YEAR = 3600.0, 365 * 86400.0


@pytest.mark.parametrize("step", [HOUR, -HOUR, YEAR, -YEAR])
def test_a_clock_that_jumps_while_mail_is_under_way_loses_nothing_and_stalls_nothing(place, step):
    clock, eyes = Clock(), Eyes(place)
    outbox = Outbox(place, lease=1.0, patience=PATIENCE, clock=clock)
    transport = Told()
    names = [f"n{i}" for i in range(20)]
    hold = threading.Event()
    transport.holds = {f"<{name}@example.com>": hold for name in names}
    put(outbox, *map(a_submission, names))
    plan = Plan(outbox=outbox, transports={"default": transport}, connections=2, poll=0.1)
    with at_work(plan) as worker:
        wait_for(lambda: eyes.count("started_at IS NOT NULL") == 8)
        clock.now += step
        minded = worker._upkeep.at
        wait_for(lambda: worker._upkeep.at > minded)
        put(outbox, a_submission("after"))
        worker.wake()
        hold.set()
        wait_for(lambda: eyes.count("state = 'accepted'") == 21)
    assert sorted(transport.sent) == sorted(f"<{name}@example.com>" for name in [*names, "after"])
    outbox.close()


# --- a fork, and many mails ---

HEAD = f"""
import sys, os
sys.path.insert(0, {str(TESTS)!r})
from flask_outbox.outbox.database import Outbox
from worker_stage import Eyes, Told, a_submission, put, wait_for
"""

FORK = """
from flask_outbox.outbox.notify import Notifier
from flask_outbox.transports.smtp import Smtp
from flask_outbox.worker.embedded import Embedded
from flask_outbox.worker.plan import Plan

place, port = sys.argv[1], int(sys.argv[2])
outbox, eyes = Outbox(place), Eyes(place)
notifier = Notifier(outbox)
smtp = Smtp("127.0.0.1", port)
embedded = Embedded(lambda: Plan(outbox=outbox, transports={"default": smtp}, poll=0.05))

def send(who):
    for i in range(10):
        put(outbox, a_submission(f"{who}{i}"))
        if outbox.database.notifies:
            notifier.wake(0.0)
    embedded.ensure()
    embedded.wake()
    wait_for(lambda: eyes.count(f"state = 'accepted' AND message_id LIKE '<{who}%'") == 10)

send("before")
child = os.fork()
send("child" if not child else "parent")
embedded.stop()
notifier.close()
if child:
    assert os.waitpid(child, 0)[1] == 0
    print("done")
"""


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        # That threads and fork do not mix, as newer Pythons warn, is what is tested.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", HEAD + program]
        + [str(each) for each in arguments],
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip


def test_after_a_fork_parent_and_child_send_on_lines_of_their_own(place):
    with Hostile() as server:
        done = run(FORK, place, server.port)
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
        wanted = sorted(f"<{who}{i}@example.com>" for who in WHO for i in range(10))
        assert sorted(server.message_ids) == wanted
        assert not set(server.verbs()) - {"EHLO", "MAIL", "RCPT", "DATA", "RSET", "QUIT", "BDAT"}
        for mail in server.accepted:
            assert mail.content.startswith(f"Message-ID: {mail.message_id}".encode())


WHO = ("before", "parent", "child")

MEMORY = """
import gc
from flask_outbox.worker.loop import drain
from flask_outbox.worker.plan import Plan

class Fast(Told):
    def send(self, submissions):
        yield from super().send(submissions)
        self.windows.clear(), self.begun.clear(), self.sent.clear()

outbox = Outbox(f"sqlite:///{sys.argv[1]}")
plan = Plan(outbox=outbox, transports={"default": Fast()})

def resident():
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def send(count):
    for _ in range(count // 500):
        put(outbox, *(a_submission(f"n{i}") for i in range(500)))
        drain(plan)

send(1000)
before = resident()
send(10_000)
print(resident() - before)
"""


def test_ten_thousand_mails_later_the_worker_is_not_larger(file, outbox):
    done = run(MEMORY, file)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) < 5 * 1024 * 1024
