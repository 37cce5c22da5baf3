"""Who is told of new mail hears a few hints of many, and what an engine starts shares the work."""

import logging
import os
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from flask_outbox.outbox import claim
from flask_outbox.outbox.encryption import Keyring
from flask_outbox.outbox.stats import stats
from flask_outbox.outbox.workers import Badge, heartbeat
from flask_outbox.worker import engine as module
from flask_outbox.worker.engine import Wakes, drain
from flask_outbox.worker.plan import Plan
from forked import in_child
from outbox_mail import KEYRING, OLD_KEY
from worker_stage import BOUND, Told, a_submission, at_work, put, wait_for


class Heard:
    """An engine that remembers, and takes as long as it is held."""

    def __init__(self):
        self.dues = []
        self.threads = set()
        self.closed = []
        self.error = None
        self.hold = None

    def close(self):
        self.closed.append(threading.current_thread().name)

    def wake(self, due_at):
        self.dues.append(due_at)
        self.threads.add(threading.current_thread().name)
        if self.hold:
            self.hold.wait(BOUND)
        if self.error:
            raise self.error


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def wakes(heard):
    wakes = Wakes(heard)
    yield wakes
    if heard.hold:
        heard.hold.set()
    wakes.stop()


def threads():
    return [each for each in threading.enumerate() if each.name == "flask-outbox-wakes"]


# --- merged ---


def test_a_thousand_hints_within_a_second_are_at_most_twenty(wakes, heard):
    tick = threading.Event()
    for _ in range(100):
        for _ in range(10):
            wakes.wake(0.0)
        tick.wait(0.01)
    wakes.stop()
    assert 2 <= len(heard.dues) <= 20


def test_the_first_is_passed_on_though_no_other_follows(wakes, heard):
    wakes.wake(7.0)
    wait_for(lambda: heard.dues == [7.0])


def test_those_that_come_meanwhile_are_one_the_earliest(wakes, heard):
    heard.hold = threading.Event()
    wakes.wake(9.0)
    wait_for(lambda: heard.dues)
    for due in (8.0, 3.0, 5.0):
        wakes.wake(due)
    heard.hold.set()
    wait_for(lambda: len(heard.dues) == 2)
    assert heard.dues == [9.0, 3.0]


def test_whoever_gives_a_hint_does_not_wait_for_the_engine(wakes, heard):
    heard.hold = threading.Event()
    for _ in range(100):
        wakes.wake(0.0)
    wait_for(lambda: heard.dues)
    assert heard.threads == {"flask-outbox-wakes"}
    assert len(threads()) == 1


def test_given_by_many_threads_at_once_they_are_one_threads_work(wakes, heard):
    heard.hold = threading.Event()
    everybody = threading.Barrier(16)

    def give():
        everybody.wait(BOUND)
        wakes.wake(0.0)

    givers = [threading.Thread(target=give) for _ in range(16)]
    for each in givers:
        each.start()
    for each in givers:
        each.join()
    assert len(threads()) == 1


def test_the_thread_ends_when_nothing_comes_and_begins_again(wakes, heard, monkeypatch):
    monkeypatch.setattr(module, "LINGER", 0.05)
    wakes.wake(1.0)
    wait_for(lambda: heard.dues and not threads())
    assert heard.closed == ["flask-outbox-wakes"]
    wakes.wake(2.0)
    wait_for(lambda: heard.dues == [1.0, 2.0])


def test_what_comes_while_the_engine_is_closed_is_passed_on_after_it(heard, monkeypatch):
    def give_one(closed=[]):  # noqa: B006  remembers
        if not closed:
            closed.append(1)
            wakes.wake(2.0)

    monkeypatch.setattr(module, "LINGER", 0.05)
    heard.close = give_one
    wakes = Wakes(heard)
    wakes.wake(1.0)
    wait_for(lambda: heard.dues == [1.0, 2.0] and not threads())


def test_an_engine_that_cannot_be_closed_is_no_trouble(wakes, heard, monkeypatch):
    def fail():
        raise OSError

    monkeypatch.setattr(module, "LINGER", 0.05)
    heard.close = fail
    wakes.wake(1.0)
    wait_for(lambda: heard.dues and not threads())


def test_stopped_it_passes_on_what_is_left_at_once(wakes, heard, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 600.0)
    wakes.wake(1.0)
    wait_for(lambda: heard.dues)
    wakes.wake(2.0)
    wakes.stop()
    assert heard.dues == [1.0, 2.0]


# --- an engine that fails ---


def test_an_outage_is_one_line_and_its_end_another(wakes, heard, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "flask_outbox.worker")
    monkeypatch.setattr(module, "AGAIN_FIRST", 0.01)
    heard.error = OSError("secret words")
    for count in range(1, 4):
        wakes.wake(0.0)
        wait_for(lambda count=count: len(heard.dues) == count)
    heard.error = None
    wakes.wake(0.0)
    wait_for(lambda: "told of again" in caplog.text)
    assert [each.levelname for each in caplog.records] == ["WARNING", "INFO"]
    assert "OSError" in caplog.text
    assert "secret words" not in caplog.text


def test_an_engine_that_fails_is_left_alone_for_a_while(wakes, heard):
    assert wakes._pass_on(0.0) == 0.1
    heard.error = OSError()
    assert [wakes._pass_on(0.0) for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    heard.error = None
    assert wakes._pass_on(0.0) == 0.1


def test_a_hint_is_no_error_where_no_thread_can_be_started(wakes, heard, monkeypatch, caplog):
    def refuse(_self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        wakes.wake(0.0)
    assert "nobody could be told" in caplog.text
    wakes.wake(1.0)
    wait_for(lambda: heard.dues == [0.0])


# --- fork, green threads, the end ---


def test_a_child_has_a_thread_of_its_own_and_no_hint_of_its_parent(wakes, heard, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 600.0)
    wakes.wake(1.0)
    wait_for(lambda: heard.dues == [1.0])
    wakes.wake(2.0)  # waits in the parent

    def child():
        assert threads() == []
        wakes.wake(3.0)
        wait_for(lambda: heard.dues == [1.0, 3.0])

    in_child(child)
    wakes.stop()
    assert heard.dues == [1.0, 2.0]


def test_a_child_forked_while_somebody_gave_a_hint_can_give_one(wakes, heard):
    def child():
        wakes.wake(3.0)
        wait_for(lambda: heard.dues == [3.0])

    with wakes._changed:
        in_child(child)


PROGRAM = """
import sys, threading, time
sys.path.insert(0, {tests!r})
from flask_outbox.worker import engine
from flask_outbox.worker.engine import Wakes

class Engine:
    def wake(self, due_at):
        print("told", due_at, flush=True)
        hang and threading.Event().wait()

hang = False
wakes = Wakes(Engine())
"""
GREEN = {
    "gevent": "from gevent import monkey; monkey.patch_all()\n",
    "eventlet": "import warnings; warnings.simplefilter('ignore')\n"
    "import eventlet; eventlet.monkey_patch()\n",
}


def program(tail: str, head: str = "") -> subprocess.CompletedProcess[str]:
    text = (PROGRAM + textwrap.dedent(tail)).format(tests=str(Path(__file__).parents[1]))
    return subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", head + text],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def test_a_hint_given_just_before_the_interpreters_end_is_passed_on():
    done = program("wakes.wake(0.0)\nwakes.wake(1.0)")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in {"told 0.0\ntold 1.0\n", "told 0.0\n"}


def test_an_engine_that_hangs_does_not_keep_the_interpreter():
    done = program("hang = True\nengine.LAST_WORDS = 0.5\nwakes.wake(0.0)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "told 0.0\n", "")


@pytest.mark.parametrize("library", GREEN)
def test_under_green_threads_it_passes_on_and_lets_others_run(library):
    done = program(
        """
        wakes.wake(0.0)
        time.sleep(0.05)
        wakes.wake(1.0)
        time.sleep(0.5)
        print("here")
        """,
        GREEN[library],
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "told 0.0\ntold 1.0\nhere\n"


# --- what an engine starts ---


def test_a_drain_sends_what_is_due_and_leaves_the_rest(outbox, plan, eyes):
    put(outbox, *(a_submission(f"n{i}") for i in range(30)))
    assert drain(plan, seconds=BOUND) == (30, False)
    assert eyes.count("state = 'accepted'") == 30
    assert drain(plan, seconds=BOUND) == (0, False)


@pytest.mark.parametrize("grace", [BOUND, 0.05])
def test_a_drain_ends_in_time_but_for_what_is_under_way_and_says_that_something_is_left(
    outbox, transport, eyes, grace
):
    plan = Plan(outbox=outbox, transports={"default": transport}, connections=1, grace=grace)
    first = transport.hold("first")
    put(outbox, a_submission("first", at_most_once=True), a_submission("second"))
    found = []
    thread = threading.Thread(target=lambda: found.append(drain(plan, seconds=0.2)))
    thread.start()
    wait_for(lambda: transport.begun)
    wait_for(lambda: eyes.one("state", "second") == "queued")
    thread.join(1.0)  # its time, and many times the shorter grace
    first.set()
    thread.join(BOUND)
    assert found == [(1, True)]
    assert eyes.states() == {"<first@example.com>": "accepted", "<second@example.com>": "queued"}


def test_but_told_to_leave_it_waits_no_longer_than_its_grace(outbox, transport, eyes):
    plan = Plan(outbox=outbox, transports={"default": transport}, connections=1, grace=0.1)
    transport.hold("first")
    leave = threading.Event()
    put(outbox, a_submission("first"))
    thread = threading.Thread(target=lambda: drain(plan, seconds=0.2, leave=leave.is_set))
    thread.start()
    wait_for(lambda: transport.begun)
    leave.set()
    thread.join(BOUND)
    assert not thread.is_alive()
    assert eyes.states() == {"<first@example.com>": "queued"}  # nothing of it had left
    assert eyes.count("attempts = 0") == 1


def test_told_to_leave_a_drain_finishes_what_is_under_way_and_says_so(outbox, transport, eyes):
    plan = Plan(outbox=outbox, transports={"default": transport}, connections=1, grace=BOUND)
    first = transport.hold("first")
    leave = threading.Event()
    put(outbox, a_submission("first", at_most_once=True), a_submission("second"))
    found = []
    thread = threading.Thread(target=lambda: found.append(drain(plan, leave=leave.is_set)))
    thread.start()
    wait_for(lambda: transport.begun)
    leave.set()
    wait_for(lambda: eyes.one("state", "second") == "queued")
    first.set()
    thread.join(BOUND)
    assert found == [(1, True)]
    assert eyes.states() == {"<first@example.com>": "accepted", "<second@example.com>": "queued"}


def test_where_enough_workers_send_a_drain_leaves_it_to_them(outbox, plan, transport):
    with at_work(Plan(outbox=outbox, transports={"default": Told()}, poll=60.0)) as worker:
        wait_for(lambda: worker._leased.dry)  # it has looked, and sleeps
        put(outbox, a_submission())
        assert drain(plan, at_once=1) == (0, False)
        assert drain(plan, at_once=2) == (1, False)
    assert transport.sent == ["<one@example.com>"]


def test_a_worker_that_died_is_not_counted_for_longer_than_half_a_lease(outbox, plan, eyes):
    heartbeat(outbox, "dead", host="elsewhere", pid=1)
    put(outbox, a_submission())
    assert drain(plan, at_once=1) == (0, False)
    eyes.change("UPDATE outbox_worker SET beat_at = beat_at - 1.1")
    assert drain(plan, at_once=1) == (1, False)


def test_nor_is_one_that_beat_by_a_clock_that_was_set_back_since(outbox, plan, eyes):
    heartbeat(outbox, "dead", host="elsewhere", pid=1)
    eyes.change("UPDATE outbox_worker SET beat_at = beat_at + 3600")
    put(outbox, a_submission())
    assert drain(plan, at_once=1) == (1, False)


def test_nor_one_with_other_settings_which_may_not_know_what_waits(outbox, plan):
    heartbeat(outbox, "older", host="elsewhere", pid=1, badge=Badge(settings="before"))
    put(outbox, a_submission())
    assert drain(replace(plan, badge=Badge(settings="now")), at_once=1) == (1, False)


def test_a_drain_that_ended_is_not_counted(outbox, plan):
    for name in ("one", "two"):
        put(outbox, a_submission(name))
        assert drain(plan, at_once=1) == (1, False)


def test_what_a_drain_ran_with_is_seen_after_it_and_what_a_worker_ran_with_is_not(outbox, plan):
    with at_work(replace(plan, badge=Badge(settings="a worker's"))) as worker:
        wait_for(lambda: worker._leased.dry)
    drain(replace(plan, badge=Badge(settings="a drain's")))
    assert [each.settings for each in stats(outbox).ended] == ["a drain's"]


def test_what_comes_between_its_last_look_and_its_goodbye_is_sent_too(
    outbox, plan, transport, monkeypatch
):
    goodbyes = []
    say_goodbye = module.Worker.drain

    def late(self, seconds, leave):
        tried = say_goodbye(self, seconds, leave)
        if not goodbyes:
            goodbyes.append(1)
            put(outbox, a_submission("late"))
        return tried

    monkeypatch.setattr(module.Worker, "drain", late)
    put(outbox, a_submission("early"))
    assert drain(plan, seconds=BOUND, at_once=1) == (2, False)
    assert transport.sent == ["<early@example.com>", "<late@example.com>"]


def test_a_drain_goes_on_past_all_mail_whose_key_is_gone(outbox, plan, eyes, monkeypatch):
    monkeypatch.setattr(claim, "LOOKS_ON_FOR", 0.0)  # more than one claim can hold back
    outbox.keyring = KEYRING
    put(outbox, *(a_submission(f"n{i}", sensitive=True) for i in range(1200)))
    put(outbox, a_submission("good"))
    outbox.keyring = Keyring([OLD_KEY])
    assert drain(plan, seconds=BOUND) == (1, False)
    assert eyes.one("state", "good") == "accepted"
    assert eyes.count("state = 'queued' AND reason LIKE '%MAIL_OUTBOX_KEYS%'") == 1200


def test_what_is_due_and_cannot_be_claimed_does_not_keep_a_drain(outbox, plan, monkeypatch):
    put(outbox, a_submission())
    monkeypatch.setattr(module, "_is_due", lambda _plan: True)
    assert drain(plan, seconds=BOUND) == (1, False)


def test_the_process_id_tells_a_child_where_the_fork_was_not_told(wakes, heard):
    wakes._pid = os.getpid() + 1
    wakes.wake(4.0)
    wait_for(lambda: heard.dues == [4.0])
    assert wakes._pid == os.getpid()
