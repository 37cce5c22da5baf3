"""What observers hear, and that one which takes its time costs no lease."""

import threading
import time
from dataclasses import replace

import pytest

from flask_outbox.outbox.database import Outbox
from flask_outbox.worker import loop
from flask_outbox.worker.loop import Worker, drain
from flask_outbox.worker.news import BEHIND, News
from flask_outbox.worker.plan import Plan
from worker_stage import BOUND, Told, a_submission, at_work, put, wait_for


class Slow:
    """An observer that keeps its first news until it is let go."""

    def __init__(self):
        self.go = threading.Event()
        self.heard = []
        self.threads = set()

    def __call__(self, recorded):
        self.heard.append(recorded.submission.message_id)
        self.threads.add(threading.current_thread())
        assert self.go.wait(BOUND)


@pytest.fixture
def slow():
    slow = Slow()
    yield slow
    slow.go.set()


def named(count):
    return [f"n{i}" for i in range(count)]


def test_an_observer_that_takes_longer_than_the_lease_costs_no_mail_its_lease(
    file, transport, eyes, slow
):
    outbox = Outbox(f"sqlite:///{file}", lease=0.6)
    plan = Plan(
        outbox=outbox, transports={"default": transport}, connections=1, observe=slow, grace=BOUND
    )
    other = Told()
    hold = threading.Event()
    put(outbox, *map(a_submission, named(12)))
    transport.holds = {f"<n{i}@example.com>": hold for i in range(4, 12)}
    with at_work(plan):
        wait_for(lambda: slow.heard)
        wait_for(lambda: eyes.count("state = 'sending'") == 8)
        fences = eyes.rows("SELECT id, fence FROM outbox_message ORDER BY id")
        with at_work(replace(plan, transports={"default": other})) as second:
            end = second._upkeep.at + 3 * outbox.lease
            wait_for(lambda: second._upkeep.at > end)
        assert eyes.rows("SELECT id, fence FROM outbox_message ORDER BY id") == fences
        hold.set()
        wait_for(lambda: eyes.count("state = 'accepted'") == 12)
        assert len(slow.heard) == 1
        slow.go.set()
        wait_for(lambda: len(slow.heard) == 12)
    assert (len(transport.begun), other.begun) == (12, [])
    outbox.close()


def test_news_is_heard_in_the_order_of_what_happened_and_in_one_thread(
    outbox, plan, transport, slow
):
    slow.go.set()
    put(outbox, *map(a_submission, named(60)))
    assert drain(replace(plan, connections=1, observe=slow)) == 60
    assert slow.heard == transport.sent
    assert len(slow.threads) == 1
    assert slow.threads.isdisjoint({threading.current_thread()})


def test_draining_ends_when_all_was_told(outbox, plan, eyes, slow, monkeypatch):
    monkeypatch.setattr(loop, "LAST_NEWS", 0.0)
    put(outbox, *map(a_submission, named(9)))
    drained = threading.Thread(target=drain, args=(replace(plan, observe=slow),))
    drained.start()
    wait_for(lambda: eyes.count("state = 'accepted'") == 9)
    wait_for(lambda: slow.heard)
    assert drained.is_alive()
    slow.go.set()
    drained.join(BOUND)
    assert len(slow.heard) == 9


def test_where_observers_fall_behind_no_more_is_claimed_and_others_can_have_it(
    outbox, plan, transport, eyes, slow
):
    put(outbox, *map(a_submission, named(800)))
    with at_work(replace(plan, observe=slow, grace=BOUND)) as worker:
        wait_for(lambda: worker._news.is_behind)
        wait_for(lambda: eyes.count("state = 'sending'") == 0)
        sent = len(transport.sent)
        assert BEHIND < sent < 800
        assert eyes.count("state = 'queued'") == 800 - sent
        other = Told()
        drain(replace(plan, transports={"default": other}))
        assert len(other.sent) == 800 - sent
        put(outbox, a_submission("later"))
        slow.go.set()
        wait_for(lambda: eyes.one("state", "later") == "accepted")
    assert len(slow.heard) == sent + 1


def test_a_drain_that_was_held_up_by_observers_looks_again_before_it_ends(outbox, plan):
    put(outbox, a_submission())
    worker = Worker(plan)
    worker._leased.held_up = True
    assert worker.drain() == 1


def test_told_to_stop_it_waits_for_observers_and_no_longer_than_its_grace(
    outbox, plan, eyes, slow, monkeypatch
):
    monkeypatch.setattr(loop, "LAST_NEWS", 0.0)
    put(outbox, a_submission())
    worker = Worker(replace(plan, observe=slow, grace=0.5))
    thread = threading.Thread(target=worker.run)
    thread.start()
    wait_for(lambda: slow.heard)
    before = time.monotonic()
    worker.stop()
    thread.join(BOUND)
    assert 0.4 < time.monotonic() - before < 5.0
    assert eyes.one("state") == "accepted"


def test_an_observer_that_wants_to_exit_ends_no_worker(outbox, plan, eyes, caplog):
    def leaves(recorded):
        raise SystemExit("secret words")

    put(outbox, *map(a_submission, named(9)))
    assert drain(replace(plan, observe=leaves)) == 9
    assert eyes.count("state = 'accepted'") == 9
    assert caplog.text.count("an observer failed: SystemExit at") == 9
    assert "secret words" not in caplog.text


def test_the_worker_is_rung_when_all_is_told_and_when_it_is_no_longer_too_much():
    go, rings = threading.Event(), []
    news = News(lambda: rings.append(len(news._waiting)))
    news.tell([lambda: go.wait(BOUND), *[lambda: None] * (BEHIND + 2)])
    go.set()
    wait_for(lambda: news.is_told)
    news.end(BOUND)
    assert rings == [BEHIND, 0]


def test_where_no_thread_can_be_started_news_is_told_in_the_workers_own(monkeypatch):
    def none_left(self):
        raise RuntimeError("can't start new thread")

    told = []
    news = News(lambda: None)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        news.tell([lambda: told.append((1, threading.current_thread()))])
        news.tell([lambda: told.append((2, threading.current_thread()))])
    here = threading.current_thread()
    assert told == [(1, here), (2, here)]
    assert news.is_told
    news.end(0.0)
