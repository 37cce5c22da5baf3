"""The order of the steps, and how many take each at once."""

import time
from dataclasses import replace

from flask_outbox.mail.errors import OutboxUnavailable
from flask_outbox.mail.outcome import Deferred, Fault, Refused
from flask_outbox.worker import journey
from flask_outbox.worker.loop import drain
from flask_outbox.worker.plan import Plan
from worker_stage import Told, a_submission, at_work, put, wait_for


def test_what_is_due_is_sent_once_and_recorded(outbox, plan, transport, eyes):
    put(outbox, *(a_submission(f"n{i}") for i in range(250)))
    assert drain(plan) == 250
    assert sorted(transport.sent) == sorted(eyes.states())
    assert set(eyes.states().values()) == {"accepted"}
    assert drain(plan) == 0


def test_the_start_is_committed_before_the_transport_is_asked(outbox, plan, transport, eyes):
    seen = []
    transport.at_first_byte = lambda each: seen.append(
        eyes.rows("SELECT started_at, attempts FROM outbox_message WHERE id = ?", each.id)[0]
    )
    put(outbox, a_submission())
    drain(plan)
    [(started_at, attempts)] = seen
    assert started_at is not None
    assert attempts == 1


def test_at_most_a_window_per_connection_is_started(outbox, plan, transport, eyes):
    names = [f"n{i}" for i in range(60)]
    holds = [transport.hold(name) for name in names]
    put(outbox, *(a_submission(name) for name in names))
    with at_work(plan):
        wait_for(lambda: len(transport.begun) == 2)
        assert eyes.count("started_at IS NOT NULL") == 2 * 4
        assert [len(window) for window in transport.windows] == [4, 4]
        wait_for(lambda: eyes.count("state = 'sending' AND started_at IS NULL"))
        for hold in holds:
            hold.set()
        wait_for(lambda: eyes.count("state = 'accepted'") == 60)
    assert max(map(len, transport.windows)) == 4  # though a lane is free while others are busy


def test_a_few_mails_are_dealt_to_all_connections(outbox, plan, transport):
    put(outbox, *(a_submission(f"n{i}") for i in range(4)))
    drain(plan)
    assert [len(window) for window in transport.windows] == [2, 2]


def test_a_slow_recipient_does_not_hold_up_the_others(outbox, plan, transport, eyes):
    hold = transport.hold("slow")
    put(outbox, a_submission("slow", at_most_once=True))
    with at_work(plan) as worker:
        wait_for(lambda: transport.begun)
        put(outbox, *(a_submission(f"n{i}") for i in range(30)))
        worker.wake()
        wait_for(lambda: eyes.count("state = 'accepted'") == 30)
        assert not hold.is_set()
        hold.set()
        wait_for(lambda: eyes.count("state = 'accepted'") == 31)


def test_a_transport_that_hangs_does_not_hold_up_another(outbox, eyes):
    stuck, brisk = Told(), Told()
    hold = stuck.hold("s0")
    for i in range(1, 40):
        stuck.holds[f"<s{i}@example.com>"] = hold
    put(outbox, *(a_submission(f"s{i}", transport="stuck") for i in range(40)))
    put(outbox, *(a_submission(f"b{i}", transport="brisk") for i in range(40)))
    with at_work(Plan(outbox=outbox, transports={"stuck": stuck, "brisk": brisk}, connections=2)):
        wait_for(lambda: eyes.count("state = 'accepted' AND transport = 'brisk'") == 40)
        assert eyes.count("state = 'accepted' AND transport = 'stuck'") == 0
        hold.set()
        wait_for(lambda: eyes.count("state = 'accepted'") == 80)


def test_an_outcome_is_recorded_while_its_neighbour_in_the_window_is_still_on_the_line(
    outbox, plan, transport, eyes
):
    put(outbox, a_submission("quick"), a_submission("slow"))
    hold = transport.hold("slow")
    with at_work(replace(plan, connections=1)):
        wait_for(lambda: eyes.one("state", "quick") == "accepted", 5.0)
        assert transport.windows == [["<quick@example.com>", "<slow@example.com>"]]
        assert eyes.one("state", "slow") == "sending"
        hold.set()


def test_what_may_be_sent_only_once_shares_its_window_with_nobody(outbox, plan, transport):
    names = ["a", "b", "c", "d", "e"]
    put(outbox, *(a_submission(name, at_most_once=name == "c") for name in names))
    drain(replace(plan, connections=1))
    assert ["<c@example.com>"] in transport.windows
    assert sum(map(len, transport.windows)) == 5


def test_a_row_that_was_on_the_line_when_a_worker_died_goes_alone_with_its_mark_left(
    outbox, plan, transport, eyes
):
    put(outbox, *(a_submission(f"n{i}") for i in range(9)))
    eyes.change("UPDATE outbox_message SET alone = 1 WHERE message_id LIKE '<n4%'")
    seen = []

    def look(each):
        if each.alone:
            seen.append(
                (
                    eyes.count("left_at IS NOT NULL"),
                    eyes.count("started_at IS NOT NULL"),
                    transport.windows[-1],
                )
            )

    transport.at_first_byte = look
    assert drain(plan) == 9
    assert seen == [(1, 1, ["<n4@example.com>"])]


def test_a_row_that_goes_alone_waits_until_the_line_is_empty_though_not_for_ever(
    outbox, plan, transport, eyes, monkeypatch
):
    monkeypatch.setattr("flask_outbox.worker.leased.LULL", 0.3)
    hold = transport.hold("stuck")
    put(outbox, a_submission("stuck"))
    with at_work(plan) as worker:
        wait_for(lambda: transport.begun)
        put(outbox, a_submission("risky"))
        eyes.change("UPDATE outbox_message SET alone = 1 WHERE message_id LIKE '<risky%'")
        before = time.monotonic()
        worker.wake()
        wait_for(lambda: eyes.one("state", "risky") == "accepted")
        assert time.monotonic() - before >= 0.3
        hold.set()


def test_a_mark_that_cannot_be_left_sends_nothing_and_costs_no_attempt(
    outbox, plan, transport, eyes, monkeypatch
):
    put(outbox, a_submission())
    eyes.change("UPDATE outbox_message SET alone = 1")
    marks = []

    def fails_once(outbox, submission):
        marks.append(submission.id)
        if len(marks) == 1:
            raise OutboxUnavailable("away")
        return leave(outbox, submission)

    leave = journey.leave
    monkeypatch.setattr(journey, "leave", fails_once)
    with at_work(plan):
        wait_for(lambda: eyes.one("state") == "accepted")
    assert len(marks) == 2
    assert transport.begun == ["<one@example.com>"]
    assert eyes.one("attempts") == 1


def test_what_was_taken_over_before_its_start_is_not_sent(outbox, plan, transport, eyes):
    put(outbox, a_submission("held"), *(a_submission(f"n{i}") for i in range(5)))
    hold = transport.hold("held")
    with at_work(replace(plan, connections=1)):
        wait_for(lambda: transport.begun)
        waiting = wait_for(lambda: eyes.count("state = 'sending' AND started_at IS NULL"))
        eyes.change("UPDATE outbox_message SET fence = 'another' WHERE started_at IS NULL")
        hold.set()
        wait_for(lambda: eyes.count("state = 'accepted'") == 6 - waiting)
    assert len(transport.sent) == 6 - waiting


def test_outcomes_decide_what_becomes_of_each(outbox, plan, transport, eyes):
    transport.outcomes = {
        "<no@example.com>": Refused("550 5.1.1 no such user"),
        "<later@example.com>": Deferred("451 4.7.1 greylisted"),
    }
    put(outbox, *(a_submission(name) for name in ("yes", "no", "later")))
    assert drain(plan) == 3
    assert eyes.states() == {
        "<yes@example.com>": "accepted",
        "<no@example.com>": "failed",
        "<later@example.com>": "queued",
    }


def test_our_own_fault_pauses_the_route_and_what_was_not_begun_goes_back(
    outbox, plan, transport, eyes
):
    away = Deferred("relay is down", Fault.OURS)
    names = [f"n{i}" for i in range(40)]
    transport.outcomes = {f"<{name}@example.com>": away for name in names}
    hold = transport.hold("n0")
    put(outbox, *map(a_submission, names))
    with at_work(replace(plan, connections=1)):
        wait_for(lambda: eyes.count("state = 'sending' AND started_at IS NULL") > 4)
        hold.set()
        wait_for(lambda: eyes.count("state = 'queued' AND attempts = 0") == 40)
        assert len(transport.windows) <= 2  # the first, and what had been started by then
        transport.outcomes = {}
        wait_for(lambda: len(set(transport.sent)) == 40)
