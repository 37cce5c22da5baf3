"""A line to the database that is cut at a COMMIT: done or not, nobody says so.

Whoever wrote looks again before anything is decided: by the id of the row, or by the fence.
"""

from contextlib import nullcontext
from functools import partial
from itertools import cycle

import pytest

from cutter import Cutter
from faults_worker import an_outbox
from flask_outbox.mail.errors import InDoubt, OutboxUnavailable
from flask_outbox.mail.exchange import Report
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.outcome import Accepted
from flask_outbox.mail.submission import Receipt
from flask_outbox.outbox.claim import claim, extend, reclaim, release, start
from flask_outbox.outbox.enqueue import Schedule, put
from flask_outbox.outbox.record import record
from flask_outbox.outbox.status import cancel, retry
from flask_outbox.outbox.workers import heartbeat
from flask_outbox.worker import journey
from flask_outbox.worker.loop import Worker
from flask_outbox.worker.plan import Plan
from worker_stage import Eyes, Told, a_submission, at_work, wait_for

ONCE = Schedule(key="order-7", fingerprint="f")


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def place(server):
    url = server.new()
    an_outbox(url).upgrade()
    return url


@pytest.fixture
def eyes(place):
    return Eyes(place)


@pytest.fixture
def cutter(server):
    with Cutter(server.port) as cutter:
        yield cutter


@pytest.fixture
def outbox(place, server, cutter):
    outbox = an_outbox(place.replace(f":{server.port}/", f":{cutter.port}/"), lease=30.0)
    outbox.open()
    yield outbox
    outbox.close()


def take(outbox):
    return claim(outbox, transports=["default"], limit=10, worker="w")


def reports(submissions):
    return [Report(each, Receipt.same(each, Accepted("250 ok"))) for each in submissions]


# --- send_later ---


@pytest.mark.parametrize("schedule", [Schedule(), ONCE])
def test_a_mail_whose_commit_was_done_is_there_and_its_id_comes_back(
    outbox, cutter, eyes, schedule
):
    cutter.at_commit(done=True)
    row, is_new = put(outbox, a_submission(), schedule)
    assert cutter.cuts == 1
    assert is_new
    assert eyes.rows("SELECT id FROM outbox_message") == [(row,)]


def test_a_mail_whose_commit_was_not_done_is_an_error_and_its_key_makes_the_repeat_safe(
    outbox, cutter, eyes
):
    cutter.at_commit(done=False)
    with pytest.raises(InDoubt):
        put(outbox, a_submission(), ONCE)
    assert eyes.count("id IS NOT NULL") == 0
    row, is_new = put(outbox, a_submission(), ONCE)
    assert is_new
    assert eyes.rows("SELECT id FROM outbox_message") == [(row,)]


def test_where_nobody_can_look_again_the_error_says_that_it_is_in_doubt(outbox, cutter, eyes):
    cutter.at_commit(done=True)
    cutter.away = True
    with pytest.raises(InDoubt, match="may have been done"):
        put(outbox, a_submission(), ONCE)
    cutter.away = False
    [(row,)] = eyes.rows("SELECT id FROM outbox_message")
    assert put(outbox, a_submission(), ONCE) == (row, False)


# --- a worker's steps ---


@pytest.fixture
def mails(outbox):
    return [put(outbox, a_submission(f"n{i}"))[0] for i in range(3)]


def test_a_claim_that_was_done_brings_its_mail(outbox, cutter, mails):
    cutter.at_commit(done=True)
    claimed = take(outbox)
    assert [each.id for each in claimed] == mails
    assert take(outbox) == []
    assert len(start(outbox, claimed)) == 3


def test_a_claim_that_was_not_done_brings_nothing_and_the_next_one_does(outbox, cutter, mails):
    cutter.at_commit(done=False)
    assert take(outbox) == []
    again = wait_for(lambda: take(outbox))  # once the server has noticed
    assert [each.id for each in again] == mails


@pytest.mark.parametrize("done", [True, False])
def test_a_start_in_doubt_is_said_again_and_counts_once(outbox, cutter, mails, eyes, done):
    claimed = take(outbox)
    cutter.at_commit(done=done)
    with pytest.raises(InDoubt):
        start(outbox, claimed)
    assert eyes.count("attempts = 1") == 3 * done
    assert [each.attempt for each in start(outbox, claimed)] == [1, 1, 1]
    assert eyes.count("attempts = 1") == 3


def test_a_start_in_doubt_may_be_given_back_as_nothing_of_it_was_sent(outbox, cutter, mails, eyes):
    claimed = take(outbox)
    cutter.at_commit(done=True)
    with pytest.raises(InDoubt):
        start(outbox, claimed)
    assert eyes.count("attempts = 1") == 3
    release(outbox, claimed)
    assert eyes.count("state = 'queued' AND attempts = 0 AND started_at IS NULL") == 3
    assert len(start(outbox, take(outbox))) == 3


def test_who_is_told_to_stop_in_doubt_about_a_start_gives_it_back(
    outbox, cutter, eyes, monkeypatch
):
    put(outbox, a_submission(at_most_once=True))
    transport, begin = Told(), journey.start
    worker = Worker(Plan(outbox=outbox, transports={"default": transport}))

    def in_doubt(outbox, submissions):
        if submissions:
            worker.stop()
            cutter.at_commit(done=True)
        return begin(outbox, submissions)

    monkeypatch.setattr(journey, "start", in_doubt)
    worker.run()
    assert cutter.cuts == 1
    assert transport.sent == []
    assert (eyes.one("state"), eyes.one("attempts")) == ("queued", 0)


def test_a_record_that_was_done_is_told_of_as_any_other(outbox, cutter, mails, eyes):
    started = start(outbox, take(outbox))
    cutter.at_commit(done=True)
    recorded = record(outbox, reports(started), float)
    assert [each.state for each in recorded] == [State.ACCEPTED] * 3
    assert eyes.count("state = 'accepted'") == 3
    assert eyes.rows("SELECT count(*) FROM outbox_event WHERE kind = 'accepted'") == [(3,)]


def test_a_record_that_was_not_done_is_said_again(outbox, cutter, mails, eyes):
    started = start(outbox, take(outbox))
    cutter.at_commit(done=False)
    with pytest.raises(InDoubt):
        record(outbox, reports(started), float)
    assert eyes.count("state = 'sending'") == 3
    assert len(record(outbox, reports(started), float)) == 3
    assert eyes.rows("SELECT count(*) FROM outbox_event WHERE kind = 'accepted'") == [(3,)]


def test_a_cancel_and_a_retry_that_were_done_are_told_so(outbox, cutter, mails, eyes):
    for step in (cancel, retry):
        cutter.at_commit(done=True)
        assert step(outbox, mails[0])
        cutter.at_commit(done=False)
        with pytest.raises(InDoubt):
            step(outbox, mails[1])
        assert step(outbox, mails[1])
    assert cutter.cuts == 4
    assert eyes.count("state = 'queued'") == 3


SLOW_COMMITS = """
CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep(1); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER slow AFTER UPDATE ON outbox_recipient
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.slow();
"""


def test_a_record_that_the_server_is_still_about_is_waited_for(postgresql):
    place = postgresql.new()
    an_outbox(place).upgrade()
    eyes = Eyes(place)
    with Cutter(postgresql.port) as cutter:
        outbox = an_outbox(place.replace(f":{postgresql.port}/", f":{cutter.port}/"), lease=30.0)
        put(outbox, a_submission())
        started = start(outbox, take(outbox))
        eyes.change(SLOW_COMMITS)
        cutter.at_commit(done=None)
        recorded = record(outbox, reports(started), float)
        outbox.close()
    assert cutter.cuts == 1
    assert [each.state for each in recorded] == [State.ACCEPTED]
    assert eyes.one("state") == "accepted"


def test_where_nobody_can_look_again_a_record_is_said_again_and_changes_nothing_twice(
    outbox, cutter, mails, eyes
):
    started = start(outbox, take(outbox))
    cutter.at_commit(done=True)
    cutter.away = True
    with pytest.raises(OutboxUnavailable):
        record(outbox, reports(started), float)
    cutter.away = False
    record(outbox, reports(started), float)
    assert eyes.count("state = 'accepted'") == 3
    assert eyes.rows("SELECT count(*) FROM outbox_event WHERE kind = 'accepted'") == [(3,)]


@pytest.mark.parametrize("done", [True, False])
def test_upkeep_in_doubt_may_be_done_again(outbox, cutter, mails, eyes, done):
    claimed = take(outbox)
    steps = [
        partial(extend, outbox, claimed[1:]),
        partial(release, outbox, claimed[:1]),
        partial(reclaim, outbox),
    ]
    for step in steps:
        cutter.at_commit(done=done)
        with pytest.raises(InDoubt):
            step()
        step()
    cutter.at_commit(done=done)
    with nullcontext() if done else pytest.raises(InDoubt):
        heartbeat(outbox, "w", host="h", pid=1)
    heartbeat(outbox, "w", host="h", pid=1)
    assert cutter.cuts == len(steps) + 1
    assert eyes.rows("SELECT id FROM outbox_message WHERE state = 'queued'") == [(mails[0],)]
    assert len(start(outbox, claimed)) == 2
    assert eyes.rows("SELECT name FROM outbox_worker") == [("w",)]


@pytest.mark.parametrize("done", [True, False])
def test_who_died_and_what_that_left_is_told_once_whether_or_not_the_commit_was_done(
    outbox, cutter, mails, eyes, done
):
    start(outbox, take(outbox))
    heartbeat(outbox, "dead", host="h", pid=1)
    eyes.change("UPDATE outbox_message SET leased_at = 1.0, lease_until = 2.0")
    eyes.change("UPDATE outbox_worker SET beat_at = 2.0")
    steps = {
        partial(reclaim, outbox): lambda news: sorted(each.submission.id for each in news),
        partial(heartbeat, outbox, "w", host="h", pid=2): lambda news: [
            each.worker.name for each in news
        ],
    }
    told = []
    for step, read in steps.items():
        cutter.at_commit(done=done)
        if not done:
            with pytest.raises(InDoubt):
                step()
        told += read(step())
        assert step() == []
    assert told == [*sorted(mails), "dead"]
    assert cutter.cuts == len(steps)


def test_a_worker_whose_commits_are_cut_again_and_again_sends_each_mail_once(
    outbox, cutter, eyes, place
):
    direct = an_outbox(place)
    names = [f"n{i}" for i in range(200)]
    for name in names:
        put(direct, a_submission(name))
    direct.close()
    transport, told = Told(), []
    how = cycle([True, *[None] * 9, False, *[None] * 9])

    def cut_now_and_then(_):
        if (done := next(how)) is not None:
            cutter.at_commit(done=done)

    transport.at_first_byte = cut_now_and_then
    plan = Plan(
        outbox=outbox,
        transports={"default": transport},
        connections=2,
        observe=lambda each: told.append(each.submission.message_id),
    )
    with at_work(plan):
        wait_for(lambda: eyes.count("state = 'accepted'") == 200, 60.0)
    wanted = sorted(f"<{name}@example.com>" for name in names)
    assert sorted(transport.sent) == wanted
    assert sorted(told) == wanted
    assert eyes.count("attempts = 1") == 200
    assert cutter.cuts >= 10


def test_what_was_accepted_is_written_down_when_the_database_comes_back(outbox, cutter, eyes):
    transport = Told()
    hold = transport.hold("one")
    put(outbox, a_submission())
    plan = Plan(outbox=outbox, transports={"default": transport})
    with at_work(plan) as worker:
        wait_for(lambda: transport.begun)
        cutter.away = True
        cutter.cut()
        hold.set()
        wait_for(lambda: worker._troubles >= 3)
        assert eyes.one("state") == "sending"
        cutter.away = False
        wait_for(lambda: eyes.one("state") == "accepted")
    assert transport.sent == ["<one@example.com>"]
