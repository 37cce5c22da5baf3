"""What workers forget in passing, and what they do not wait for."""

import threading
from dataclasses import replace

from flask_outbox.outbox.prune import Keep, prune
from flask_outbox.worker import retention
from flask_outbox.worker.loop import Worker, drain
from flask_outbox.worker.retention import Retention
from worker_stage import a_submission, at_work, put, wait_for

DAY = 86400.0
KEEP = Keep(content=DAY, rows=2 * DAY)


def age(eyes, days):
    """Let all that ended have ended so long ago."""
    seconds = days * DAY
    eyes.change(f"UPDATE outbox_message SET ended_at = ended_at - {seconds}")  # noqa: S608  ours
    # Ids begin with their time.
    for table, column in (("message", "id"), ("content", "message"), ("recipient", "message")):
        eyes.change(f"UPDATE outbox_{table} SET {column} = '000' || substr({column}, 4)")  # noqa: S608  ours


def send(outbox, plan, *names):
    put(outbox, *(a_submission(name) for name in names))
    drain(plan)


def contents(eyes):
    return eyes.rows("SELECT count(*) FROM outbox_content")[0][0]


def test_an_idle_worker_forgets_what_is_too_old(outbox, plan, eyes):
    send(outbox, plan, "old")
    age(eyes, 3)
    send(outbox, plan, "new")
    with at_work(replace(plan, retention=Retention(KEEP))):
        wait_for(lambda: eyes.states() == {"<new@example.com>": "accepted"})
    assert contents(eyes) == 1


def test_content_goes_before_the_row(outbox, plan, eyes):
    send(outbox, plan, "old")
    age(eyes, 1.5)
    with at_work(replace(plan, retention=Retention(KEEP))):
        wait_for(lambda: contents(eyes) == 0)
    assert eyes.states() == {"<old@example.com>": "accepted"}


def test_a_round_goes_on_piece_by_piece_while_mail_is_sent(outbox, plan, eyes, monkeypatch):
    monkeypatch.setattr("flask_outbox.outbox.prune.PIECE", 1)
    monkeypatch.setattr(retention, "BETWEEN", 0.01)
    send(outbox, plan, *(f"old{number}" for number in range(5)))
    age(eyes, 3)
    with at_work(replace(plan, retention=Retention(KEEP))) as worker:
        put(outbox, a_submission("new"))
        worker.wake()
        wait_for(lambda: eyes.states() == {"<new@example.com>": "accepted"})


def test_rounds_are_seldom(outbox, plan, eyes):
    shared = Retention(KEEP)
    plan = replace(plan, retention=shared)
    with at_work(plan) as worker:
        wait_for(lambda: shared.at > worker._upkeep.at)
        send(outbox, plan, "old")
        age(eyes, 3)
        before = worker._upkeep.at
        wait_for(lambda: worker._upkeep.at > before)
    assert eyes.states() == {"<old@example.com>": "accepted"}


def test_without_limits_nothing_is_ever_due():
    assert Retention(Keep()).at == float("inf")


def test_of_the_workers_of_one_process_one_does_it(outbox, plan, monkeypatch):
    begun = []
    pieces = retention.pieces

    def counted(*arguments):
        begun.append(threading.get_ident())
        return pieces(*arguments)

    monkeypatch.setattr(retention, "pieces", counted)
    shared = Retention(KEEP)
    with at_work(replace(plan, retention=shared)), at_work(replace(plan, retention=shared)):
        wait_for(lambda: begun)
        workers = [Worker(replace(plan, retention=shared)) for _ in range(3)]
        for each in workers:
            each.drain()
    assert len(begun) == 1


def test_a_round_that_fails_is_tried_again_later_and_stops_no_mail(
    outbox, plan, eyes, monkeypatch, caplog
):
    def broken(*_):
        raise ValueError("a bug")
        yield

    monkeypatch.setattr(retention, "pieces", broken)
    shared = Retention(KEEP)
    with at_work(replace(plan, retention=shared)) as worker:
        wait_for(lambda: "stumbled" in caplog.text)
        put(outbox, a_submission())
        worker.wake()
        wait_for(lambda: eyes.one("state") == "accepted")
    assert caplog.text.count("stumbled") == 1


def test_by_hand_it_is_done_at_once(outbox, plan, eyes):
    send(outbox, plan, "old")
    age(eyes, 3)
    assert prune(outbox, content_after=DAY, rows_after=None).contents == 1


# --- what only drains, as Celery's tasks and cron do ---


def test_a_drain_forgets_after_its_last_mail(outbox, plan, eyes):
    send(outbox, plan, *(f"old{number}" for number in range(250)))
    age(eyes, 3)
    put(outbox, a_submission("new"))
    assert drain(replace(plan, retention=Retention(KEEP))) == 1
    assert eyes.states() == {"<new@example.com>": "accepted"}


def test_a_drain_that_finds_nothing_due_forgets_too(outbox, plan, eyes):
    send(outbox, plan, "old")
    age(eyes, 3)
    assert drain(replace(plan, retention=Retention(KEEP))) == 0
    assert eyes.states() == {}


def test_the_drains_of_one_process_forget_once_an_hour(outbox, plan, eyes):
    plan = replace(plan, retention=Retention(KEEP))
    send(outbox, plan, "old")
    age(eyes, 3)
    drain(plan)
    assert eyes.states() == {"<old@example.com>": "accepted"}


def test_what_a_drains_time_did_not_suffice_for_is_forgotten_by_the_next(
    outbox, plan, eyes, monkeypatch
):
    monkeypatch.setattr("flask_outbox.outbox.prune.PIECE", 1)
    monkeypatch.setattr(retention, "SHARE", 1e9)  # a piece every BETWEEN
    monkeypatch.setattr(retention, "BETWEEN", 0.2)
    send(outbox, plan, *(f"old{number}" for number in range(5)))
    age(eyes, 3)
    plan = replace(plan, retention=Retention(KEEP))
    drain(plan, seconds=0.1)
    assert 1 <= eyes.count("state = 'accepted'") + contents(eyes) < 10
    drain(plan)
    assert eyes.states() == {}


def test_what_comes_while_a_drain_forgets_is_sent(outbox, plan, eyes, monkeypatch):
    monkeypatch.setattr("flask_outbox.outbox.prune.PIECE", 1)
    monkeypatch.setattr(retention, "SHARE", 1e9)
    monkeypatch.setattr(retention, "BETWEEN", 0.1)
    send(outbox, plan, *(f"old{number}" for number in range(20)))
    age(eyes, 3)
    plan = replace(plan, retention=Retention(KEEP), poll=0.1)
    thread = threading.Thread(target=drain, args=(plan,))
    thread.start()
    wait_for(lambda: contents(eyes) < 20)
    put(outbox, a_submission("new"))
    wait_for(lambda: eyes.count("message_id = '<new@example.com>' AND state = 'accepted'"))
    assert eyes.count("1 = 1") > 1
    thread.join(20.0)
    assert eyes.states() == {"<new@example.com>": "accepted"}
