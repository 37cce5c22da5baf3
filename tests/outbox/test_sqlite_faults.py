"""Kills, locks and full disks, with real processes and SQLite's own errors."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event

import pytest

from flask_outbox.mail.errors import OutboxUnavailable
from flask_outbox.mail.exchange import Report
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.outcome import Accepted
from flask_outbox.mail.submission import Receipt
from flask_outbox.outbox.claim import has_open, reclaim
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.enqueue import enqueue
from flask_outbox.outbox.record import record
from flask_outbox.outbox.status import list_messages
from outbox_mail import a_submission, begin, look, one, put, put_many, take
from outbox_process import other_process


@pytest.fixture
def file(tmp_path):
    return tmp_path / "outbox.sqlite3"


@pytest.fixture
def outbox(file):
    made = Outbox(f"sqlite:///{file}", lease=0.05)
    yield made
    made.close()


def lease_over(outbox):
    """Move the database's clock past every lease."""
    late = Outbox(str(outbox.database.url), lease=outbox.lease)
    with outbox.read() as connection:
        now = outbox.now(connection)
    late._clock = lambda: now + 3600.0
    return late


def test_a_kill_between_insert_and_commit_leaves_no_row(outbox, file):
    script = """
with outbox.begin() as connection:
    enqueue(connection, outbox, mail)
    say("inserted")
    wait()
"""
    with other_process(file, script) as other:
        assert other.hear() == "inserted"
        other.kill()
    assert not has_open(outbox, ["default"])
    assert list_messages(outbox) == []


def test_a_kill_after_the_commit_leaves_the_row_and_its_key(outbox, file):
    script = """
with outbox.begin() as connection:
    id_ = enqueue(connection, outbox, mail, Schedule(key="k", fingerprint="f"))
say(id_)
wait()
"""
    with other_process(file, script) as other:
        id_ = other.hear()
        other.kill()
    assert put(outbox, key="k", fingerprint="f") == id_
    assert [each.id for each in list_messages(outbox)] == [id_]


def test_a_kill_before_the_commit_of_a_claim_leaves_the_row_queued(outbox, file):
    id_ = put(outbox)
    script = """
from sqlalchemy import event
event.listen(outbox.open(), "commit", lambda connection: (say("claimed"), wait()))
claim(outbox, transports=["default"], limit=10, worker="w")
"""
    with other_process(file, script) as other:
        assert other.hear() == "claimed"
        other.kill()
    found = look(outbox, id_)
    assert (found.state, found.attempts) == (State.QUEUED, 0)
    assert one(outbox).id == id_


def test_a_kill_after_the_claim_is_reclaimed_uncharged(outbox, file):
    put_many(outbox, 3)
    script = """
say(len(claim(outbox, transports=["default"], limit=2, worker="w")))
wait()
"""
    with other_process(file, script) as other:
        assert other.hear() == "2"
        other.kill()
    late = lease_over(outbox)
    assert reclaim(late) == []
    assert {each.attempts for each in list_messages(outbox)} == {0}
    assert len(take(late)) == 3
    late.close()


def test_an_abort_after_the_start_is_unclear_alone_and_the_others_lose_nothing(outbox, file):
    put_many(outbox, 4)
    script = """
import os
mine = claim(outbox, transports=["default"], limit=4, worker="w")
start(outbox, mine[:1])
say("started")
os.abort()
"""
    with other_process(file, script) as other:
        assert other.hear() == "started"
        other.end()
    late = lease_over(outbox)
    (recorded,) = reclaim(late)
    assert recorded.submission.attempt == 1
    assert len(take(late)) == 3
    late.close()


HOLD = """
with outbox.begin() as connection:
    enqueue(connection, outbox, mail)
    say("holding")
    wait()
say("let go")
"""


def test_a_claim_waits_for_another_process_that_writes(outbox, file):
    put(outbox)
    with other_process(file, HOLD) as other, ThreadPoolExecutor(1) as threads:
        assert other.hear() == "holding"
        claiming = threads.submit(take, outbox)
        assert has_open(outbox, ["default"])  # who only reads is not held up
        assert not claiming.done()
        other.go_on()
        assert len(claiming.result(30)) == 2


def test_a_database_locked_for_too_long_is_an_error_and_nothing_is_claimed(outbox, file):
    id_ = put(outbox)
    hasty = Outbox(f"sqlite:///{file}", busy=0.05)
    with other_process(file, HOLD) as other:
        assert other.hear() == "holding"
        with pytest.raises(OutboxUnavailable, match="lock"):
            take(hasty)
        with pytest.raises(OutboxUnavailable, match="lock"):
            put(hasty)
        assert look(hasty, id_).state is State.QUEUED
        other.go_on()
        assert other.hear() == "let go"
        assert len(take(hasty)) == 2
    hasty.close()


def fill_up(outbox, pages):
    """Allow the database that many pages more; SQLite's own SQLITE_FULL is the rest."""
    with outbox.begin() as connection:
        used = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {used + pages}")


def test_a_full_disk_is_an_error_in_the_callers_transaction_and_mends_itself(outbox):
    id_ = put(outbox)
    fill_up(outbox, 5)
    big = a_submission(content=b"x" * 100_000)
    with pytest.raises(OutboxUnavailable, match="disk is full"):
        put(outbox, big)
    assert [each.id for each in list_messages(outbox)] == [id_]
    fill_up(outbox, 1_000_000)
    put(outbox, big)
    assert len(take(outbox)) == 2


def test_on_a_full_disk_nothing_is_claimed(outbox):
    put_many(outbox, 300)
    fill_up(outbox, 0)
    with pytest.raises(OutboxUnavailable, match="disk is full"):
        take(outbox, 300)
    assert {each.state for each in list_messages(outbox, limit=300)} == {State.QUEUED}
    fill_up(outbox, 1_000_000)
    assert len(take(outbox, 300)) == 300


def test_a_record_that_found_the_disk_full_is_said_again_later(outbox):
    put_many(outbox, 200)
    reports = [Report(each, Receipt.same(each, Accepted("250 " * 100))) for each in begin(outbox)]
    fill_up(outbox, 0)
    with pytest.raises(OutboxUnavailable, match="disk is full"):
        record(outbox, reports, float)
    assert {each.state for each in list_messages(outbox, limit=100)} == {State.QUEUED}
    fill_up(outbox, 1_000_000)
    recorded = record(outbox, reports, float)
    assert {each.state for each in recorded} == {State.ACCEPTED}
    assert len(recorded) == len(reports)


def test_a_transaction_that_somebody_never_ends_is_an_error_for_others(file):
    outbox = Outbox(f"sqlite:///{file}", busy=0.05)
    with outbox.begin(), ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(put, outbox)
        with pytest.raises(OutboxUnavailable, match="kept a transaction open"):
            waiting.result(30)
    outbox.close()


def test_four_processes_claim_two_thousand_rows_each_once(outbox, file):
    put_in = put_many(outbox, 2000)
    script = """
outbox.open()
say("ready")
wait()
mine = []
while got := claim(outbox, transports=["default"], limit=50, worker="w"):
    mine += [each.id for each in got]
say(" ".join(mine))
"""
    with ExitStack() as stack:
        others = [stack.enter_context(other_process(file, script)) for _ in range(4)]
        assert [each.hear() for each in others] == ["ready"] * 4
        for each in others:
            each.go_on()
        claimed = [id_ for each in others for id_ in each.hear().split()]
    assert sorted(claimed) == sorted(put_in)


def test_equal_keys_from_two_processes_make_one_row(outbox, file):
    outbox.open()
    script = """
outbox.open()
say("ready")
wait()
with outbox.begin() as connection:
    say(enqueue(connection, outbox, mail, Schedule(key="k", fingerprint="f")))
"""
    with other_process(file, script) as one_, other_process(file, script) as two:
        assert (one_.hear(), two.hear()) == ("ready", "ready")
        one_.go_on()
        two.go_on()
        assert one_.hear() == two.hear() != ""
    assert len(list_messages(outbox)) == 1


_AT_FORK = []
os.register_at_fork(before=lambda: [_AT_FORK.pop()() for _ in range(len(_AT_FORK))])


class TestFork:
    """A child uses nothing that its parent had open."""

    def in_a_child(self, do):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                do()
                status = 0
            finally:
                os._exit(status)
        return child

    def test_a_child_opens_anew_and_both_go_on(self, outbox):
        put(outbox)

        def child():
            put(outbox)
            put(outbox)

        children = [self.in_a_child(child) for _ in range(3)]
        put(outbox)
        assert [os.waitstatus_to_exitcode(os.waitpid(each, 0)[1]) for each in children] == [0] * 3
        assert len(list_messages(outbox)) == 8

    def test_no_open_file_of_the_outbox_crosses_a_fork(self, outbox, file):
        put(outbox)

        def child():
            links = [f"/proc/self/fd/{each}" for each in range(64)]
            opened = {os.path.realpath(each) for each in links if os.path.lexists(each)}
            assert not [each for each in opened if str(file) in each]

        assert os.waitstatus_to_exitcode(os.waitpid(self.in_a_child(child), 0)[1]) == 0

    def test_a_fork_waits_for_a_transaction_of_another_thread(self, outbox):
        inside, forking = Event(), Event()

        def write():
            with outbox.begin() as connection:
                inside.set()
                assert forking.wait(30)
                enqueue(connection, outbox, a_submission())

        def child():
            assert len(list_messages(outbox)) == 1, "the fork did not wait"
            put(outbox)

        _AT_FORK.append(forking.set)  # called before the outbox's own hook, which waits
        with ThreadPoolExecutor(1) as threads:
            writing = threads.submit(write)
            assert inside.wait(30)
            child_id = self.in_a_child(child)
            writing.result(30)
        assert os.waitstatus_to_exitcode(os.waitpid(child_id, 0)[1]) == 0
        assert len(list_messages(outbox)) == 2

    def test_a_fork_in_the_middle_of_ones_own_transaction_harms_nobody(self, outbox, monkeypatch):
        monkeypatch.setattr("flask_outbox.outbox.sqlite.FORK_WAITS", 0.01)
        with outbox.begin() as connection:
            enqueue(connection, outbox, a_submission())
            child = self.in_a_child(lambda: has_open(outbox, ["default"]))
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            enqueue(connection, outbox, a_submission())
        assert len(list_messages(outbox)) == 2
