"""A row that somebody else has locked, as an app's long request does, delays only itself."""

import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest
from sqlalchemy import select

from database_fixtures import KINDS, new_place
from flask_outbox.mail.exchange import Report
from flask_outbox.mail.submission import Receipt
from flask_outbox.outbox.claim import reclaim
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.tables import message
from flask_outbox.outbox.workers import WorkerLost
from flask_outbox.worker import lanes, loop
from flask_outbox.worker.carriers import choose_carrier
from flask_outbox.worker.loop import drain
from flask_outbox.worker.ways import Ways
from worker_stage import ACCEPTED, Eyes, Told, a_submission, at_work, put, wait_for

LEASE = 2.0
NAMES = [f"n{number}" for number in range(30)]


@pytest.fixture(params=KINDS[1:])
def url(request, tmp_path):
    return new_place(request, request.param, tmp_path)


@pytest.fixture
def outbox(url):
    outbox = Outbox(url, lease=LEASE, busy=5.0)
    yield outbox
    outbox.close()


@pytest.fixture
def eyes(url):
    return Eyes(url)


@pytest.fixture
def transport():
    return Told(window=1)


@pytest.fixture
def turns(monkeypatch):
    turn, taken = loop.turn, []

    def counted(*arguments):
        taken.append(1)
        return turn(*arguments)

    monkeypatch.setattr(loop, "turn", counted)
    return taken


@pytest.fixture
def has(url):
    """Lock a row as an app's open transaction does, which may stand still for long.

    By its id: a search would keep on MariaDB what it had to wait for, too.
    """
    app = Outbox(url)
    ids = select(message.c.id)

    @contextmanager
    def has(name):
        with app.begin() as connection:
            [row] = connection.execute(ids.where(message.c.message_id == f"<{name}@example.com>"))
            assert connection.execute(ids.where(message.c.id == row.id).with_for_update()).first()
            yield

    yield has
    app.close()


def accepted(eyes):
    return {id_ for id_, state in eyes.states().items() if state == "accepted"}


def ids(*names):
    return {f"<{name}@example.com>" for name in names}


def test_a_row_that_somebody_has_delays_only_itself(outbox, plan, transport, eyes, has):
    theirs, slow, alerts = transport.hold("theirs"), transport.hold("slow"), []
    put(outbox, *(a_submission(name) for name in ("theirs", "slow", *NAMES)))
    with at_work(replace(plan, connections=6, alert=alerts.append)) as worker:
        wait_for(lambda: ids("theirs", "slow") <= set(transport.begun))
        with has("theirs"):
            theirs.set()
            wait_for(lambda: accepted(eyes) == ids(*NAMES))
            over = time.monotonic() + 2 * LEASE
            # Another worker takes over what a lease has run out of: here, nothing.
            wait_for(lambda: reclaim(outbox) or time.monotonic() > over)
            put(outbox, a_submission("new"))
            worker.wake()
            wait_for(lambda: ids("new") <= accepted(eyes))
            beat = worker._upkeep._beat_at
            wait_for(lambda: worker._upkeep._beat_at != beat)
        wait_for(lambda: ids("theirs") <= accepted(eyes))
        slow.set()
        wait_for(lambda: ids("slow") <= accepted(eyes))
    assert sorted(transport.sent) == sorted(ids("theirs", "slow", "new", *NAMES))
    assert not [each for each in alerts if isinstance(each, WorkerLost)]
    assert eyes.count("attempts = 1 AND crashes = 0") == len(NAMES) + 3


def test_a_worker_that_has_only_such_a_row_sleeps_between_its_tries(
    outbox, plan, transport, has, turns
):
    theirs = transport.hold("theirs")
    put(outbox, a_submission("theirs"))
    with at_work(replace(plan, poll=60.0)) as worker:
        wait_for(lambda: transport.begun)
        with has("theirs"):
            theirs.set()
            wait_for(lambda: worker._lanes.held_up)
            before, over = len(turns), time.monotonic() + 1.0
            wait_for(lambda: time.monotonic() > over)
            assert 2 <= len(turns) - before <= 15
        wait_for(lambda: not worker._lanes.held_up, lanes.RECORD_AGAIN + 1.0)


def test_a_worker_that_leaves_waits_for_such_a_row_for_its_grace(
    outbox, plan, transport, has, caplog
):
    theirs = transport.hold("theirs")
    put(outbox, a_submission("theirs"))
    with at_work(replace(plan, grace=0.5)) as worker:
        wait_for(lambda: transport.begun)
        with has("theirs"):
            theirs.set()
            wait_for(lambda: worker._lanes.held_up)
            worker.stop()
            assert worker._lanes.held_up
            wait_for(lambda: "leaves 1 not recorded" in caplog.text, 3.0)


def test_a_row_that_is_let_go_within_the_grace_is_recorded(outbox, plan, transport, eyes, has):
    theirs = transport.hold("theirs")
    put(outbox, a_submission("theirs"))
    with at_work(plan) as worker:
        wait_for(lambda: transport.begun)
        with has("theirs"):
            theirs.set()
            wait_for(lambda: worker._lanes.held_up)
            worker.stop()
        wait_for(lambda: accepted(eyes) == ids("theirs"))


def test_a_drain_ends_though_somebody_keeps_a_row(outbox, plan, transport, eyes, has):
    put(outbox, a_submission("theirs"), a_submission("one"))
    with ExitStack() as stack:

        def lock(submission):
            if submission.message_id in ids("theirs"):
                stack.enter_context(has("theirs"))

        transport.at_first_byte = lock
        began = time.monotonic()
        assert drain(replace(plan, grace=0.5)) == 1
        assert 0.5 <= time.monotonic() - began < 5.0
        assert accepted(eyes) == ids("one")


def test_a_worker_that_leaves_at_once_tries_such_a_row_once_more(
    outbox, plan, transport, has, monkeypatch
):
    monkeypatch.setattr(lanes, "RECORD_AGAIN", 60.0)
    theirs = transport.hold("theirs")
    put(outbox, a_submission("theirs"))
    with at_work(plan) as worker:
        wait_for(lambda: transport.begun)
        with has("theirs"):
            theirs.set()
            wait_for(lambda: worker._lanes.held_up)
        worker.abandon()
    assert worker._lanes.idle


def test_a_drain_does_not_end_while_something_else_is_left_to_be_recorded():
    told = [
        Report(each, Receipt.same(each, ACCEPTED))
        for each in (a_submission("theirs", id="1"), a_submission("ours", id="2"))
    ]
    heard = lanes.Lanes(choose_carrier(1.0), Ways({"d": Told()}), 5, lambda: None)
    for report in told:
        heard.hear(report)
    heard.forget(told[:1], busy=told[:1])
    wait_for(lambda: time.monotonic() > max(heard._held_up.values()))
    assert heard.held_up_for == 0.0
    heard.forget(told[1:])
    assert heard.held_up_for > 0.0
    assert heard.heard() == told[:1]
