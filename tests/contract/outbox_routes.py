"""Routes that fail by our own fault pause, and cost no message anything."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from contract.outbox_ground import Ground
from flask_outbox.mail.errors import OutboxUnavailable
from flask_outbox.mail.exchange import Report
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Refused, Unclear
from flask_outbox.mail.route import RoutePaused, RouteResumed
from flask_outbox.mail.submission import Receipt
from flask_outbox.outbox.claim import extend, next_due, reclaim, start
from flask_outbox.outbox.enqueue import Priority
from flask_outbox.outbox.record import record
from flask_outbox.outbox.routes import ABOUT_TO_START
from flask_outbox.outbox.stats import stats
from outbox_mail import ADA, BOB, EPOCH, a_submission, begin, look, one, put, put_many, say, take

OURS = Deferred("535 5.7.8 refused", Fault.OURS)


def errors(caplog):
    return [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]


def say_all(outbox, submissions, outcome):
    reports = [Report(each, Receipt.same(each, outcome)) for each in submissions]
    return record(outbox, reports, lambda: 0.5)


class RouteContract(Ground):
    def test_our_own_fault_pauses_the_route_and_nothing_is_claimed_for_it(self, outbox, clock):
        put_many(outbox, 3)
        other = put(outbox, a_submission(transport="other"))
        say(outbox, begin(outbox, 1)[0], OURS)
        assert [each.id for each in take(outbox, 10, ["default", "other"])] == [other]
        assert next_due(outbox, ["default"]) == EPOCH + 1
        clock.now += 0.9
        assert take(outbox) == []
        clock.now += 0.1
        assert len(take(outbox)) == 1

    def test_after_a_pause_one_message_probes_at_a_time_until_one_is_accepted(self, outbox, clock):
        put_many(outbox, 5)
        say(outbox, begin(outbox, 1)[0], OURS)
        clock.now += 1
        (probe,) = take(outbox)
        assert take(outbox) == []
        (probe,) = start(outbox, [probe])
        clock.now += outbox.lease - 1
        assert take(outbox) == []  # however long it takes
        say(outbox, probe, Refused("550"))  # which says nothing of the route
        (probe,) = begin(outbox)
        say(outbox, probe, Accepted("250"))
        assert len(take(outbox)) == 3

    def test_what_was_on_its_way_before_the_pause_is_no_probe(self, outbox, clock):
        put_many(outbox, 4)
        slow, fails = begin(outbox, 2)
        waits = take(outbox, 1)
        say(outbox, fails, OURS)
        clock.now += ABOUT_TO_START
        extend(outbox, [slow])
        assert len(take(outbox)) == 1
        assert waits

    def test_a_probe_that_died_with_its_worker_makes_room_for_another(self, outbox, clock):
        put_many(outbox, 2)
        say(outbox, begin(outbox, 1)[0], OURS)
        clock.now += 1
        assert len(begin(outbox)) == 1
        clock.now += outbox.lease
        reclaim(outbox)
        assert len(take(outbox)) == 1

    def test_of_many_workers_one_probes(self, outbox, clock):
        put_many(outbox, 50)
        say(outbox, begin(outbox, 1)[0], OURS)
        clock.now += 1
        together = threading.Barrier(8)

        def claims(_):
            together.wait(30)
            return len(take(outbox))

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(claims, range(8))) == 1

    def test_one_probe_is_enough_whatever_the_priorities(self, outbox, clock):
        put(outbox)
        say(outbox, one(outbox), OURS)
        for priority in Priority:
            put(outbox, priority=priority)
        clock.now += 1
        (probe,) = take(outbox)
        assert look(outbox, probe.id).priority is Priority.URGENT

    def test_a_probe_is_one_that_surely_has_not_left_before(self, outbox, clock):
        put_many(outbox, 2)
        in_doubt, sure = begin(outbox, 2)
        say(outbox, in_doubt, Unclear("no answer"))
        clock.now = look(outbox, in_doubt.id).due_at
        say(outbox, sure, OURS)
        clock.now += 1
        (probe,) = begin(outbox)
        assert probe.id == sure.id
        say(outbox, probe, Refused("550"))
        assert one(outbox).id == in_doubt.id

    def test_pauses_double_up_to_a_minute(self, outbox, clock):
        put(outbox)
        waits = []
        for _ in range(9):
            say(outbox, one(outbox), OURS)
            until = next_due(outbox, ["default"])
            waits.append(until - clock.now)
            clock.now = until
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]

    def test_an_outage_costs_no_attempt_of_any_message(self, outbox, clock):
        id_ = put(outbox)
        for _ in range(40):
            say(outbox, one(outbox), OURS)
            clock.now = next_due(outbox, ["default"])
        found = look(outbox, id_)
        assert (found.attempts, found.state) == (0, State.QUEUED)
        (recorded,) = say(outbox, one(outbox), Accepted("250"))
        assert recorded.state is State.ACCEPTED

    def test_a_success_begins_the_pauses_anew(self, outbox, clock):
        put_many(outbox, 4)
        for outcome in (OURS, OURS, Accepted("250"), OURS):
            say(outbox, begin(outbox, 1)[0], outcome)
            clock.now = next_due(outbox, ["default"])
        assert stats(outbox).routes[0].failures == 1

    def test_a_batch_that_fails_together_is_one_failure(self, outbox, clock):
        put_many(outbox, 6)
        held = begin(outbox)
        say_all(outbox, held[:3], OURS)
        say_all(outbox, held[3:], OURS)
        (route,) = stats(outbox).routes
        assert (route.failures, route.until) == (1, EPOCH + 1)

    def test_a_far_side_that_asks_for_time_gets_it(self, outbox):
        put(outbox)
        say(outbox, one(outbox), Deferred("429", Fault.OURS, retry_after=600.0))
        assert next_due(outbox, ["default"]) == EPOCH + 600

    @pytest.mark.parametrize(("asked", "given"), [(1e9, 3600.0), (-5.0, 1.0)])
    def test_but_within_reason(self, outbox, asked, given):
        put(outbox)
        say(outbox, one(outbox), Deferred("429", Fault.OURS, retry_after=asked))
        assert next_due(outbox, ["default"]) == EPOCH + given

    def test_a_longer_wait_that_is_asked_for_during_a_pause_is_kept(self, outbox):
        put_many(outbox, 2)
        held = begin(outbox)
        say(outbox, held[0], OURS)
        say(outbox, held[1], Deferred("429", Fault.OURS, retry_after=600.0))
        assert next_due(outbox, ["default"]) == EPOCH + 600

    @pytest.mark.parametrize(("asked", "given"), [(600.0, 600.0), (None, 1.0)])
    def test_who_took_a_part_of_a_mail_and_turned_us_away_is_left_alone(
        self, outbox, clock, asked, given
    ):
        id_ = put(outbox, a_submission(ADA, BOB))
        last = Deferred("429", Fault.OURS, asked)
        say(outbox, one(outbox), {ADA: Accepted("200"), BOB: last})
        assert take(outbox) == []
        assert next_due(outbox, ["default"]) == EPOCH + given
        clock.now += given
        assert one(outbox).recipients == (BOB,)
        assert look(outbox, id_).recipients[1].attempts == 0

    def test_what_was_on_its_way_ends_no_pause_that_was_asked_for(self, outbox, clock):
        put_many(outbox, 3)
        turned_away, accepted = begin(outbox, 2)
        reports = [
            Report(turned_away, Receipt.same(turned_away, Deferred("429", Fault.OURS, 600.0))),
            Report(accepted, Receipt.same(accepted, Accepted("250"))),
        ]
        record(outbox, reports, lambda: 0.5)
        assert take(outbox) == []
        assert next_due(outbox, ["default"]) == EPOCH + 600
        clock.now += 600
        say(outbox, one(outbox), Accepted("250"))
        assert stats(outbox).routes == ()

    def test_an_outage_is_one_alert_and_one_line_at_error(self, outbox, clock, caplog):
        caplog.set_level(logging.INFO)
        put(outbox)
        alerts = []
        for _ in range(5):
            alerts += [each.alert for each in say(outbox, one(outbox), OURS)]
            clock.now = next_due(outbox, ["default"])
        assert alerts == [RoutePaused("default", 1.0, "535 5.7.8 refused"), *[None] * 4]
        assert errors(caplog) == ["Route default is paused for 1 s: 535 5.7.8 refused"]

    def test_that_a_route_works_again_is_one_alert_and_one_line_at_error(
        self, outbox, clock, caplog
    ):
        put_many(outbox, 3)
        for _ in range(2):
            say(outbox, begin(outbox, 1)[0], OURS)
            clock.now = next_due(outbox, ["default"])
        caplog.clear()
        alerts = [
            each.alert
            for _ in range(3)
            for each in say(outbox, begin(outbox, 1)[0], Accepted("250"))
        ]
        assert alerts == [RouteResumed("default"), None, None]
        assert errors(caplog) == ["Route default works again."]

    def test_what_is_mended_within_one_batch_is_no_news(self, outbox, clock, caplog):
        put_many(outbox, 2)
        reports = [
            Report(each, Receipt.same(each, outcome))
            for each, outcome in zip(begin(outbox), [OURS, Accepted("250")], strict=True)
        ]
        assert [each.alert for each in record(outbox, reports, lambda: 0.5)] == [None, None]
        assert errors(caplog) == []
        assert stats(outbox).routes == ()

    def test_what_was_not_committed_is_not_told(self, outbox, caplog, monkeypatch):
        put(outbox)
        submission = one(outbox)

        def fails(*_):
            raise OutboxUnavailable("away")

        monkeypatch.setattr("flask_outbox.outbox.record.hear", fails)
        with pytest.raises(OutboxUnavailable):
            say(outbox, submission, OURS)
        assert errors(caplog) == []
        monkeypatch.undo()
        (recorded,) = say(outbox, submission, OURS)
        assert isinstance(recorded.alert, RoutePaused)
        assert len(errors(caplog)) == 1

    def test_of_many_workers_that_meet_an_outage_one_tells_it(self, outbox, caplog):
        put_many(outbox, 8)
        held = begin(outbox)
        together = threading.Barrier(8)

        def tells(submission):
            together.wait(30)
            return [each.alert for each in say(outbox, submission, OURS) if each.alert]

        with ThreadPoolExecutor(8) as pool:
            told = [alert for alerts in pool.map(tells, held) for alert in alerts]
        assert len(told) == len(errors(caplog)) == 1
        assert stats(outbox).routes[0].failures == 1

    def test_one_alert_for_a_whole_batch(self, outbox):
        put_many(outbox, 3)
        recorded = say_all(outbox, begin(outbox), OURS)
        assert [bool(each.alert) for each in recorded] == [True, False, False]

    def test_a_greylisted_recipient_pauses_nothing(self, outbox, caplog):
        put_many(outbox, 2)
        say(outbox, begin(outbox, 1)[0], Deferred("451"))
        assert len(take(outbox)) == 1
        assert errors(caplog) == []

    def test_three_unclear_in_a_row_pause_the_route(self, outbox, caplog):
        put_many(outbox, 5)
        held = begin(outbox, 4)
        for each in held[:2]:
            say(outbox, each, Unclear("no answer"))
        assert stats(outbox).routes == ()
        say(outbox, held[2], Unclear("no answer"))
        assert take(outbox) == []
        assert len(errors(caplog)) == 1

    def test_an_accepted_one_between_them_ends_the_row(self, outbox):
        put_many(outbox, 5)
        for each, outcome in zip(
            begin(outbox, 4),
            [Unclear("x"), Unclear("x"), Accepted("250"), Unclear("x")],
            strict=True,
        ):
            say(outbox, each, outcome)
        assert len(take(outbox)) == 1

    def test_a_dead_worker_is_not_the_routes_fault(self, outbox, clock):
        put_many(outbox, 5)
        begin(outbox, 4)
        clock.now += outbox.lease
        reclaim(outbox)
        assert len(take(outbox)) == 1

    def test_what_a_zombie_says_pauses_nothing(self, outbox, clock):
        put_many(outbox, 2)
        (zombie,) = begin(outbox, 1)
        clock.now += outbox.lease
        reclaim(outbox)
        say(outbox, zombie, OURS)
        assert len(take(outbox)) == 1

    @pytest.mark.parametrize("step", [-3600.0, -365 * 86400.0, 3600.0])
    def test_a_pause_does_not_outlive_a_step_of_the_clock(self, outbox, clock, step):
        put(outbox)
        say(outbox, one(outbox), Deferred("429", Fault.OURS, retry_after=60.0))
        clock.now += step
        reclaim(outbox)
        assert len(take(outbox)) == 1
