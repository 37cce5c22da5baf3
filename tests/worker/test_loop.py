"""When a worker takes its turns, what it survives, and how it leaves."""

import logging
import os
import threading
import time
from dataclasses import replace
from itertools import pairwise

import pytest

from flask_outbox.mail.errors import OutboxUnavailable
from flask_outbox.mail.exchange import Report, Write
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Unclear
from flask_outbox.mail.retry import MAX_CRASHES
from flask_outbox.mail.submission import Receipt
from flask_outbox.outbox.claim import claim, start
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.record import record
from flask_outbox.outbox.schedule import Schedule
from flask_outbox.outbox.status import status
from flask_outbox.outbox.workers import SILENT, heartbeat
from flask_outbox.transports.smtp import Smtp
from flask_outbox.worker import journey, leased, loop, upkeep
from flask_outbox.worker.loop import Worker, drain
from flask_outbox.worker.plan import Plan
from hostile import Hostile
from worker_stage import Told, a_submission, at_work, put, wait_for


@pytest.fixture
def turns(monkeypatch):
    """The times of the turns."""
    times = []
    turn = loop.turn

    def counted(*arguments):
        times.append(time.monotonic())
        return turn(*arguments)

    monkeypatch.setattr(loop, "turn", counted)
    return times


@pytest.fixture
def claims(monkeypatch):
    """The times of the claims."""
    times = []
    claim = journey.claim

    def counted(*arguments, **more):
        times.append(time.monotonic())
        return claim(*arguments, **more)

    monkeypatch.setattr(journey, "claim", counted)
    return times


# --- when ---


def test_a_wake_is_answered_at_once_however_long_the_poll(outbox, plan, eyes, claims):
    with at_work(replace(plan, poll=60.0)) as worker:
        wait_for(lambda: claims)
        wait_for(lambda: worker._looks._pause > 3.0)
        before = time.monotonic()
        put(outbox, a_submission())
        worker.wake()
        wait_for(lambda: eyes.one("state") == "accepted")
        assert time.monotonic() - before < 2.0


def test_what_another_process_enqueued_is_found_by_polling(outbox, plan, eyes, claims):
    with at_work(replace(plan, poll=0.2)):
        wait_for(lambda: len(claims) > 6)
        put(outbox, a_submission())
        wait_for(lambda: eyes.one("state") == "accepted", 2.0)


def test_an_idle_worker_polls_no_more_often_than_it_is_told_to(plan, claims):
    with at_work(replace(plan, poll=0.3)):
        wait_for(lambda: len(claims) >= 9)
    gaps = [after - before for before, after in pairwise(claims[6:])]
    assert min(gaps) > 0.25


@pytest.mark.parametrize("waiting", [8, 80])
def test_a_worker_whose_lanes_are_all_busy_sleeps(outbox, plan, transport, turns, waiting):
    hold = threading.Event()
    names = [f"n{i}" for i in range(waiting)]
    transport.holds = {f"<{name}@example.com>": hold for name in names}
    put(outbox, *map(a_submission, names))
    with at_work(replace(plan, poll=0.2)):
        wait_for(lambda: len(transport.begun) == 2)
        settled = time.monotonic() + 0.5
        wait_for(lambda: turns[-1] > settled + 1.0)
        assert sum(settled < at < settled + 1.0 for at in turns) < 15
        hold.set()


def test_a_worker_waiting_for_a_lull_sleeps(outbox, plan, transport, turns, eyes):
    hold = transport.hold("stuck")
    put(outbox, a_submission("stuck"))
    with at_work(replace(plan, poll=0.2)) as worker:
        wait_for(lambda: transport.begun)
        put(outbox, *(a_submission(f"n{i}") for i in range(3)))
        eyes.change("UPDATE outbox_message SET alone = 1 WHERE message_id LIKE '<n%'")
        worker.wake()
        settled = time.monotonic() + 0.5
        wait_for(lambda: turns[-1] > settled + 1.0)
        assert sum(settled < at < settled + 1.0 for at in turns) < 15
        hold.set()
        wait_for(lambda: eyes.count("state = 'accepted'") == 4)


def test_what_is_due_soon_is_sent_when_it_is_due_and_not_before(outbox, plan, eyes):
    with at_work(replace(plan, poll=60.0)) as worker:
        with outbox.read() as connection:
            at = outbox.now(connection) + 0.7
        put(outbox, a_submission(), schedule=Schedule(at=at))
        worker.wake()
        wait_for(lambda: eyes.one("state") == "accepted", 5.0)
    [(accepted_at,)] = eyes.rows("SELECT at FROM outbox_event WHERE kind = 'accepted'")
    assert at <= accepted_at < at + 1.0


def test_a_worker_with_no_transports_does_nothing_and_leaves(outbox):
    plan = Plan(outbox=outbox, transports={})
    assert drain(plan) == 0
    with at_work(plan):
        pass


def test_a_message_for_a_transport_of_another_worker_is_left_alone(outbox, plan, eyes):
    put(outbox, a_submission(transport="elsewhere"))
    assert drain(plan) == 0
    assert eyes.one("state") == "queued"


# --- leases ---


def test_a_send_that_takes_longer_than_the_lease_keeps_it_and_so_does_what_waits_behind(
    file, transport, eyes
):
    outbox = Outbox(f"sqlite:///{file}", lease=0.6)
    plan = Plan(outbox=outbox, transports={"default": transport}, connections=1)
    other = Told()
    names = [f"n{i}" for i in range(12)]
    hold = threading.Event()
    transport.holds = {f"<{name}@example.com>": hold for name in names}
    put(outbox, *map(a_submission, names))
    with at_work(plan) as worker:
        wait_for(lambda: transport.begun)
        wait_for(lambda: eyes.count("state = 'sending'") == 12)
        fences = eyes.rows("SELECT id, fence FROM outbox_message ORDER BY id")
        with at_work(replace(plan, transports={"default": other})):
            end = worker._upkeep.at + 3 * outbox.lease
            wait_for(lambda: worker._upkeep.at > end)
        assert eyes.rows("SELECT id, fence FROM outbox_message ORDER BY id") == fences
        hold.set()
        wait_for(lambda: eyes.count("state = 'accepted'") == 12)
    assert (len(transport.begun), other.begun) == (12, [])
    outbox.close()


def test_who_was_kept_from_the_database_for_a_lease_lets_others_come_back_first(
    file, transport, monkeypatch, caplog
):
    """What they sent meanwhile is theirs to record."""
    outbox = Outbox(f"sqlite:///{file}", lease=1.5)
    away = threading.Event()
    extend = upkeep.extend

    def reached(*arguments):
        if away.is_set():
            raise OutboxUnavailable("away")
        return extend(*arguments)

    monkeypatch.setattr(upkeep, "extend", reached)
    with at_work(Plan(outbox=outbox, transports={"elsewhere": transport})) as worker:
        wait_for(lambda: worker._upkeep.at)
        heartbeat(outbox, "other", host="there", pid=1)
        away.set()
        [row] = put(outbox, a_submission())
        mine = claim(outbox, transports=["default"], limit=1, worker="other")
        start(outbox, mine)
        time.sleep(1.2 * SILENT * outbox.lease)
        minded = worker._upkeep.at
        away.clear()
        wait_for(lambda: worker._upkeep.at > minded)
        record(
            outbox,
            [Report(each, Receipt.same(each, Accepted("250"))) for each in mine],
            lambda: 0.5,
        )
        assert heartbeat(outbox, "other", host="there", pid=1) == []
        assert status(outbox, row).state is State.ACCEPTED
        assert "stopped beating" not in caplog.text
        [row] = put(outbox, a_submission())
        start(outbox, claim(outbox, transports=["default"], limit=1, worker="dead"))
        wait_for(lambda: status(outbox, row).state is State.QUEUED)
    outbox.close()


def test_a_worker_with_a_long_lease_is_not_missed_by_those_with_a_short_one(file, transport):
    outbox = Outbox(f"sqlite:///{file}", lease=3600.0)
    with at_work(Plan(outbox=outbox, transports={"default": transport})) as worker:
        wait_for(lambda: worker._upkeep.at)
        assert worker._upkeep.at - time.monotonic() <= 30.0 / 4  # that of most
    outbox.close()


def test_what_a_dead_worker_left_is_taken_over(outbox, plan, transport, eyes):
    put(outbox, a_submission("unbegun"), a_submission("begun"))
    dead = claim(outbox, transports=["default"], limit=10, worker="dead")
    start(outbox, [each for each in dead if "<begun" in each.message_id])
    eyes.change("UPDATE outbox_message SET lease_until = leased_at")
    told = []
    drain(replace(plan, observe=told.append))
    assert transport.sent == ["<unbegun@example.com>"]
    assert eyes.one("attempts", "unbegun") == 1
    assert eyes.one("alone", "begun") == 1
    assert [each.reason for each in told if each.submission.message_id == "<begun@example.com>"]


def test_a_worker_shows_that_it_lives_and_says_goodbye(plan, eyes):
    with at_work(plan) as worker:
        wait_for(lambda: eyes.rows("SELECT name FROM outbox_worker") == [(worker.name,)])
        assert eyes.rows("SELECT pid FROM outbox_worker") == [(os.getpid(),)]
    assert eyes.rows("SELECT name FROM outbox_worker") == []


# --- leaving ---


def test_told_to_stop_it_finishes_what_is_under_way_and_gives_back_the_rest(
    outbox, plan, transport, eyes
):
    holds = [transport.hold(f"n{i}") for i in range(40)]
    put(outbox, *(a_submission(f"n{i}") for i in range(40)))
    worker = Worker(replace(plan, grace=10.0))
    thread = threading.Thread(target=worker.run)
    thread.start()
    wait_for(lambda: eyes.count("state = 'sending' AND started_at IS NULL"))
    worker.stop()
    wait_for(lambda: eyes.count("state = 'queued'") == 40 - 8)
    assert eyes.count("state = 'queued' AND attempts > 0") == 0
    assert thread.is_alive()
    for hold in holds:
        hold.set()
    thread.join(5.0)
    assert not thread.is_alive()
    assert eyes.count("state = 'accepted'") == len(transport.sent) == 8


def test_the_grace_is_not_exceeded_by_a_send_that_hangs(outbox, plan, transport, eyes):
    hold = transport.hold("one")
    put(outbox, a_submission())
    worker = Worker(replace(plan, grace=0.3))
    thread = threading.Thread(target=worker.run)
    thread.start()
    wait_for(lambda: transport.begun)
    before = time.monotonic()
    worker.stop()
    thread.join(5.0)
    assert not thread.is_alive()
    assert 0.3 <= time.monotonic() - before < 2.0
    assert eyes.one("state") == "queued"
    hold.set()


def test_abandoning_leaves_at_once_and_yet_writes_down_what_was_heard(
    outbox, plan, transport, eyes
):
    hold = transport.hold("slow")
    put(outbox, a_submission("quick"), a_submission("slow"))
    worker = Worker(replace(plan, connections=1, grace=60.0))
    thread = threading.Thread(target=worker.run)
    thread.start()
    wait_for(lambda: "<slow@example.com>" in transport.begun)
    before = time.monotonic()
    worker.abandon()
    thread.join(5.0)
    assert time.monotonic() - before < 2.0
    assert not thread.is_alive()
    assert eyes.one("state", "quick") == "accepted"
    assert eyes.one("state", "slow") == "queued"
    hold.set()


def test_draining_for_so_long_stops_with_grace(outbox, plan, transport, eyes):
    hold = transport.hold("n0")
    put(outbox, *(a_submission(f"n{i}") for i in range(20)))
    threading.Timer(0.5, hold.set).start()
    tried = drain(replace(plan, connections=1), seconds=0.2)
    assert tried == 4
    assert eyes.count("state = 'accepted'") == 4
    assert eyes.count("state = 'queued'") == 16


# --- the database ---


def test_draining_an_outbox_that_cannot_be_used_says_so(tmp_path, transport):
    outbox = Outbox(f"sqlite:///{tmp_path}/nowhere/at/all/outbox.sqlite3")
    with pytest.raises(OutboxUnavailable):
        drain(Plan(outbox=outbox, transports={"default": transport}))


def test_while_the_database_is_locked_nothing_is_sent_twice_and_what_was_heard_is_kept(
    file, plan, transport, eyes, caplog
):
    outbox = Outbox(f"sqlite:///{file}", lease=30.0, busy=0.1)
    plan = replace(plan, outbox=outbox)
    hold = transport.hold("one")
    put(outbox, a_submission())
    with at_work(plan) as worker:
        wait_for(lambda: transport.begun)
        with eyes.lock():
            hold.set()
            wait_for(lambda: worker._troubles >= 3)
            assert eyes.one("state") == "sending"
        wait_for(lambda: eyes.one("state") == "accepted")
    assert transport.sent == ["<one@example.com>"]
    outbox.close()


def test_while_the_database_is_away_the_worker_rests_longer_each_time(
    file, plan, monkeypatch, claims, eyes
):
    monkeypatch.setattr(loop, "TROUBLE_FIRST", 0.05)
    outbox = Outbox(f"sqlite:///{file}", busy=0.01)
    outbox.open()
    with at_work(replace(plan, outbox=outbox, poll=0.01)) as worker:
        with eyes.lock():
            wait_for(lambda: worker._troubles >= 4)
            before = time.monotonic()
            tries = worker._troubles
            for _ in range(200):
                worker.wake()
            wait_for(lambda: worker._troubles > tries)
            assert time.monotonic() - before < 5.0
            assert worker._troubles <= tries + 2
        wait_for(lambda: worker._troubles == 0)
    outbox.close()


def test_while_outcomes_cannot_be_recorded_nothing_more_goes_out(
    outbox, plan, transport, eyes, monkeypatch
):
    away = threading.Event()
    away.set()
    record = journey.record

    def fails(outbox, reports, *more):
        if away.is_set():
            raise OutboxUnavailable("no room for what records need, though there is for starts")
        return record(outbox, reports, *more)

    monkeypatch.setattr(journey, "record", fails)
    put(outbox, *(a_submission(f"n{i}") for i in range(400)))
    with at_work(plan) as worker:
        wait_for(lambda: worker._troubles >= 2)
        begun = len(transport.begun)
        wait_for(lambda: worker._troubles >= 5)
        assert len(transport.begun) == begun < 400
        away.clear()
        wait_for(lambda: eyes.count("state = 'accepted'") == 400)
    assert len(transport.sent) == 400


def test_a_report_that_cannot_be_recorded_does_not_keep_the_others(outbox, plan, eyes, monkeypatch):
    record = journey.record

    def stumbles(outbox, reports, *more):
        if any(each.submission.message_id == "<bad@example.com>" for each in reports):
            raise ValueError("a bug")
        return record(outbox, reports, *more)

    monkeypatch.setattr(journey, "record", stumbles)
    put(outbox, a_submission("bad"), *(a_submission(f"n{i}") for i in range(7)))
    with at_work(plan):
        wait_for(lambda: eyes.count("state = 'accepted'") == 7)


# --- bugs ---


def test_a_mail_that_cannot_be_signed_fails_as_poison_and_its_neighbours_go(
    outbox, plan, transport, eyes, monkeypatch
):
    monkeypatch.setattr("flask_outbox.mail.retry.BACKOFF_FIRST", 0.0)
    monkeypatch.setattr("flask_outbox.mail.retry.BACKOFF_LEAST", 0.01)

    def sign(submission, _transport):
        if submission.message_id == "<bad@example.com>":
            raise ValueError(f"secret words of {submission.content!r}")
        return submission

    put(outbox, a_submission("bad"), *(a_submission(f"n{i}") for i in range(7)))
    with at_work(replace(plan, sign=sign)):
        wait_for(lambda: eyes.one("state", "bad") == "failed")
    assert eyes.one("reason", "bad").startswith("poison")
    assert eyes.one("attempts", "bad") == MAX_CRASHES
    assert sorted(transport.sent) == [f"<n{i}@example.com>" for i in range(7)]
    assert eyes.count("attempts = 1 AND state = 'accepted'") == 7


def test_a_mail_that_breaks_its_transport_fails_as_poison_and_its_neighbours_go(  # noqa: PLR0913, PLR0917  fixtures
    outbox, plan, transport, eyes, monkeypatch, caplog
):
    monkeypatch.setattr("flask_outbox.mail.retry.BACKOFF_FIRST", 0.0)
    monkeypatch.setattr("flask_outbox.mail.retry.BACKOFF_LEAST", 0.01)
    transport.outcomes["<bad@example.com>"] = KeyError("secret words")
    put(outbox, a_submission("bad"), *(a_submission(f"n{i}") for i in range(7)))
    with at_work(replace(plan, connections=1)):
        wait_for(lambda: eyes.one("state", "bad") == "failed")
    assert eyes.one("reason", "bad").startswith("poison")
    assert eyes.count("attempts = 1 AND state = 'accepted'") == 7
    assert sorted(transport.sent) == [f"<n{i}@example.com>" for i in range(7)]
    assert "secret words" not in caplog.text


class BreaksAfterTheDot(Smtp):
    """A transport with a bug that shows once the content is out."""

    def send(self, submissions):
        conversation = super().send(submissions)
        question = next(conversation)
        while True:
            answer = yield question
            if isinstance(question, Write) and b"".join(question.blocks).endswith(b"\r\n.\r\n"):
                raise KeyError("secret words")
            question = conversation.send(answer)


def test_a_bug_that_shows_after_the_content_went_out_is_unclear_and_not_sent_again_at_once(
    outbox, plan, eyes
):
    put(outbox, a_submission())
    with Hostile() as server:
        plan = replace(plan, transports={"default": BreaksAfterTheDot("127.0.0.1", server.port)})
        assert drain(plan) == 1
        server.wait_until(lambda server: server.accepted)
    assert ("unclear",) in eyes.rows("SELECT kind FROM outbox_event")
    assert eyes.one("state") == "queued"


def test_an_observer_that_raises_breaks_nothing(outbox, plan, eyes, caplog):
    def observe(recorded):
        raise ValueError("secret words")

    put(outbox, *(a_submission(f"n{i}") for i in range(9)))
    assert drain(replace(plan, observe=observe)) == 9
    assert eyes.count("state = 'accepted'") == 9
    assert "an observer failed: ValueError at" in caplog.text
    assert "secret words" not in caplog.text


def test_an_observer_hears_what_became_of_each_after_it_was_committed(outbox, plan, eyes):
    seen = []
    put(outbox, a_submission())
    drain(
        replace(plan, observe=lambda each: seen.append((each.state, eyes.one("state")))),
    )
    assert seen == [(State.ACCEPTED, "accepted")]


def test_a_log_that_cannot_be_written_fails_no_send(outbox, plan, eyes):
    class Full(logging.Handler):
        def handle(self, record):
            raise OSError(28, "No space left on device")

    full = Full()
    logger = logging.getLogger("flask_outbox.worker")
    level = logger.level
    logger.addHandler(full)
    logger.setLevel(logging.DEBUG)
    try:
        put(outbox, a_submission())
        assert drain(plan) == 1
    finally:
        logger.removeHandler(full)
        logger.setLevel(level)
    assert eyes.one("state") == "accepted"


def test_no_address_and_no_content_is_logged(outbox, plan, caplog):
    caplog.set_level(logging.DEBUG)
    put(outbox, a_submission("somebody"))
    drain(plan)
    assert "accepted" in caplog.text
    assert "somebody" not in caplog.text


def test_a_log_that_raises_fails_no_send_when_a_route_pauses_and_works_again(
    outbox, plan, transport, eyes
):
    def raises(record):  # as a filter that asks for flask.request does, in a worker's thread
        raise RuntimeError("Working outside of request context.")

    logger = logging.getLogger("flask_outbox.outbox")
    level = logger.level
    logger.addFilter(raises)
    logger.setLevel(logging.DEBUG)
    try:
        transport.outcomes = {"<one@example.com>": Deferred("relay is down", Fault.OURS)}
        put(outbox, a_submission())
        with at_work(plan):
            wait_for(lambda: transport.sent)
            wait_for(lambda: eyes.one("state") == "queued")
            transport.outcomes = {}
            wait_for(lambda: eyes.one("state") == "accepted")
    finally:
        logger.removeFilter(raises)
        logger.setLevel(level)
    assert len(transport.sent) == 2
    assert eyes.one("attempts") == 1


def test_what_got_too_old_behind_a_slow_relay_is_not_sent_and_told_at_once(file, plan, eyes):
    heard = []
    outbox = Outbox(f"sqlite:///{file}", lease=600.0)  # whose end cannot be what ends it
    transport = Told(window=1)
    slow = transport.hold("slow")
    plan = replace(
        plan,
        outbox=outbox,
        transports={"default": transport},
        connections=1,
        observe=heard.append,
    )
    put(outbox, a_submission("slow"))
    with at_work(plan) as worker:
        wait_for(lambda: transport.begun)
        too_late = time.time() + 1.5
        put(outbox, a_submission("late"), schedule=Schedule(expires=too_late))
        worker.wake()
        wait_for(lambda: eyes.one("state", "late") == "sending")
        put(outbox, a_submission("next"))
        wait_for(lambda: time.time() > too_late)
        slow.set()
        wait_for(lambda: len(heard) == 3)
    outbox.close()
    assert transport.begun == ["<slow@example.com>", "<next@example.com>"]
    assert eyes.states() == {
        "<slow@example.com>": "accepted",
        "<late@example.com>": "expired",
        "<next@example.com>": "accepted",
    }
    assert [each.state for each in heard if "<late" in each.submission.message_id] == [
        State.EXPIRED
    ]


def test_what_came_too_late_is_told_like_any_other_that_ended(outbox, plan, transport):
    heard = []
    put(outbox, a_submission("late"), schedule=Schedule(expires=1.0))
    plan = replace(plan, observe=heard.append)
    assert drain(plan) == 0
    assert [(each.submission.message_id, each.state) for each in heard] == [
        ("<late@example.com>", State.EXPIRED)
    ]
    assert transport.sent == []


def test_what_ended_is_told_though_its_turn_fails_at_a_later_step(outbox, plan, monkeypatch):
    claim, heard, failed = journey.claim, [], []

    def away_once(*given, **named):
        if not failed:
            failed.append(None)
            raise OutboxUnavailable("away")
        return claim(*given, **named)

    monkeypatch.setattr(journey, "claim", away_once)
    put(outbox, a_submission("late"), schedule=Schedule(expires=1.0))
    put(outbox, a_submission("good"))
    with at_work(replace(plan, observe=heard.append)):
        wait_for(lambda: any(each.state is State.ACCEPTED for each in heard))
    assert [each.state for each in heard] == [State.EXPIRED, State.ACCEPTED]


@pytest.fixture
def in_the_way(eyes, monkeypatch):
    """How many wait to expire, at each claim."""
    counts = []
    claim = journey.claim

    def counted(*given, **named):
        counts.append(eyes.count("due_at > 0 AND expires_at = 1"))
        return claim(*given, **named)

    monkeypatch.setattr(journey, "claim", counted)
    return counts


def put_late(outbox, count):
    late = [a_submission(f"late{number}") for number in range(count)]
    put(outbox, *late, schedule=Schedule(expires=1.0))


def test_what_expires_in_great_number_does_not_lie_in_the_way_of_each_claim(
    outbox, plan, transport, in_the_way
):
    heard = []
    put_late(outbox, 450)
    put(outbox, a_submission("good"))
    assert drain(replace(plan, observe=heard.append)) == 1
    assert transport.sent == ["<good@example.com>"]
    assert [each.state for each in heard].count(State.EXPIRED) == 450
    assert in_the_way[:2] == [350, 0]  # the first goes at once: somebody may wait for it


def test_however_much_expires_there_is_a_claim_every_few_seconds(
    outbox, plan, in_the_way, monkeypatch
):
    monkeypatch.setattr(leased, "LATE", 0.0)
    put_late(outbox, 450)
    drain(plan)
    assert in_the_way[:5] == [350, 250, 150, 50, 0]


def test_what_may_have_left_before_it_got_too_old_is_told_as_such_and_not_as_tried(
    outbox, plan, transport
):
    heard = []
    transport.outcomes = {"<one@example.com>": Unclear("no answer")}
    too_late = time.time() + 1.0
    put(outbox, a_submission(), schedule=Schedule(expires=too_late))
    assert drain(plan) == 1
    wait_for(lambda: time.time() > too_late)
    assert drain(replace(plan, observe=heard.append)) == 0
    (told,) = heard
    assert (told.state, told.receipt.unclear) == (State.UNKNOWN, ["one@example.org"])
