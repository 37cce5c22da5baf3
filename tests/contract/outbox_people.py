"""What people see and do: look, list, cancel, retry, prune, and see who works."""

import pytest
from sqlalchemy import delete, func, select

from contract.outbox_ground import Ground
from flask_outbox.mail.errors import MessageError
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Refused, Unclear
from flask_outbox.outbox.claim import has_open
from flask_outbox.outbox.prune import Pruned, prune
from flask_outbox.outbox.stats import stats
from flask_outbox.outbox.status import (
    cancel,
    history,
    list_messages,
    retry,
    status,
    submission,
)
from flask_outbox.outbox.tables import content, event, message, recipient
from flask_outbox.outbox.workers import goodbye, heartbeat
from outbox_mail import ADA, BOB, EPOCH, a_submission, begin, look, one, put, put_many, say, take

DAY = 86400.0
LONG = 7 * 3600.0


def finish(outbox, outcome, **more):
    id_ = put(outbox, a_submission(**more))
    say(outbox, one(outbox), outcome)
    return id_


class PeopleContract(Ground):
    def test_an_unknown_id_has_no_status(self, outbox):
        assert status(outbox, "nonsense") is None
        assert history(outbox, "nonsense") == []
        assert submission(outbox, "nonsense") is None

    def test_a_list_is_the_newest_first_page_by_page(self, outbox):
        put_in = put_many(outbox, 5)[::-1]
        page = list_messages(outbox, limit=2)
        rest = list_messages(outbox, limit=10, before=page[-1].id)
        assert [each.id for each in page + rest] == put_in

    def test_a_list_by_state(self, outbox):
        failed = finish(outbox, Refused("550"))
        put(outbox)
        assert [each.id for each in list_messages(outbox, state=State.FAILED)] == [failed]
        assert list_messages(outbox, state=State.UNKNOWN) == []

    def test_a_queued_message_can_be_cancelled(self, outbox):
        id_ = put(outbox)
        assert cancel(outbox, id_)
        found = look(outbox, id_)
        assert (found.state, found.due_at, found.reason) == (State.CANCELLED, None, "cancelled")
        assert [each.kind.value for each in history(outbox, id_)] == ["cancelled"]
        assert take(outbox) == []
        assert not has_open(outbox, ["default"])

    def test_a_claimed_message_cannot_be_cancelled(self, outbox):
        id_ = put(outbox)
        submission = one(outbox)
        assert not cancel(outbox, id_)
        (recorded,) = say(outbox, submission, Accepted("250"))
        assert recorded.state is State.ACCEPTED

    def test_what_has_ended_or_never_was_cannot_be_cancelled(self, outbox):
        assert not cancel(outbox, finish(outbox, Accepted("250")))
        assert not cancel(outbox, "nonsense")

    def test_cancelling_what_may_have_left_says_so(self, outbox):
        id_ = finish(outbox, Unclear("no answer"))
        assert cancel(outbox, id_)
        assert "may have been accepted" in look(outbox, id_).reason

    def test_cancelling_the_rest_leaves_who_has_accepted(self, outbox):
        id_ = put(outbox, a_submission(ADA, BOB))
        say(outbox, one(outbox), {ADA: Accepted("250"), BOB: Deferred("451")})
        assert cancel(outbox, id_)
        found = look(outbox, id_)
        assert [each.state for each in found.recipients] == [State.ACCEPTED, State.CANCELLED]

    @pytest.mark.parametrize("outcome", [Refused("550"), Unclear("no answer")])
    def test_what_failed_or_is_unknown_can_be_retried_with_patience_anew(
        self, outbox, clock, outcome
    ):
        id_ = finish(outbox, outcome, at_most_once=True)
        clock.now += 30 * DAY
        assert retry(outbox, id_)
        assert look(outbox, id_).due_at == clock.now
        assert look(outbox, id_).ended_at is None
        submission = one(outbox)
        assert submission.attempt == 1
        say(outbox, submission, Deferred("451"))
        found = look(outbox, id_)
        assert found.state is State.QUEUED
        assert (found.recipients[0].attempts, found.recipients[0].unclear) == (1, 0)

    def test_what_was_cancelled_or_expired_can_be_retried(self, outbox, clock):
        cancelled = put(outbox)
        cancel(outbox, cancelled)
        expired = put(outbox, expires=EPOCH + 1)
        clock.now += 2
        assert take(outbox) == []
        assert retry(outbox, cancelled)
        assert retry(outbox, expired)
        assert {each.id for each in take(outbox)} == {cancelled, expired}

    def test_an_expiry_that_is_still_to_come_stays(self, outbox, clock):
        id_ = put(outbox, expires=EPOCH + 60)
        cancel(outbox, id_)
        retry(outbox, id_)
        clock.now += 60
        assert take(outbox) == []
        assert look(outbox, id_).state is State.EXPIRED

    def test_what_is_open_or_accepted_cannot_be_retried(self, outbox):
        accepted = finish(outbox, Accepted("250"))
        queued = put(outbox)
        assert not retry(outbox, accepted)
        assert not retry(outbox, queued)
        one(outbox)
        assert not retry(outbox, queued)
        assert not retry(outbox, "nonsense")

    def test_nobody_who_accepted_gets_a_retried_message_again(self, outbox):
        id_ = put(outbox, a_submission(ADA, BOB))
        say(outbox, one(outbox), {ADA: Accepted("250"), BOB: Refused("550")})
        assert retry(outbox, id_)
        assert one(outbox).recipients == (BOB,)

    def test_retrying_the_unknown_leaves_the_refused_alone(self, outbox):
        id_ = put(outbox, a_submission(ADA, BOB, at_most_once=True))
        say(outbox, one(outbox), {ADA: Unclear("no answer"), BOB: Refused("550")})
        assert look(outbox, id_).state is State.UNKNOWN
        assert retry(outbox, id_)
        assert one(outbox).recipients == (ADA,)

    def test_a_message_whose_content_is_gone_cannot_be_retried(self, outbox):
        id_ = finish(outbox, Refused("550"))
        with outbox.begin() as connection:
            connection.execute(delete(content))
        with pytest.raises(MessageError, match="content"):
            retry(outbox, id_)

    def test_pruning_forgets_content_first_and_rows_later(self, outbox, clock):
        accepted = finish(outbox, Accepted("250"))
        clock.now += 2 * DAY
        assert prune(outbox, content_after=3 * DAY, rows_after=9 * DAY) == Pruned(0, 0)
        clock.now += 2 * DAY
        assert prune(outbox, content_after=3 * DAY, rows_after=9 * DAY) == Pruned(1, 0)
        assert submission(outbox, accepted) is None
        assert look(outbox, accepted).state is State.ACCEPTED
        clock.now += 9 * DAY
        assert prune(outbox, content_after=3 * DAY, rows_after=9 * DAY) == Pruned(0, 1)
        assert status(outbox, accepted) is None
        assert history(outbox, accepted) == []

    def test_pruning_keeps_what_is_open_and_the_content_of_what_failed(self, outbox, clock):
        failed = finish(outbox, Refused("550"))
        under_way = put(outbox)
        one(outbox)
        queued = put(outbox, at=EPOCH + 99 * DAY)
        clock.now += 50 * DAY
        assert prune(outbox, content_after=DAY, rows_after=60 * DAY) == Pruned(0, 0)
        clock.now += 11 * DAY
        assert prune(outbox, content_after=DAY, rows_after=60 * DAY) == Pruned(0, 1)
        assert status(outbox, failed) is None
        assert submission(outbox, under_way) is not None
        assert submission(outbox, queued) is not None

    def test_age_is_counted_from_the_end_not_from_the_beginning(self, outbox, clock):
        put(outbox, at=EPOCH + 30 * DAY)
        clock.now += 30 * DAY
        say(outbox, one(outbox), Accepted("250"))
        assert prune(outbox, content_after=DAY, rows_after=DAY) == Pruned(0, 0)

    def test_pruning_goes_on_until_nothing_is_left_to_do(self, outbox, clock, monkeypatch):
        put_many(outbox, 1100)
        while held := begin(outbox):
            from flask_outbox.mail.exchange import Report  # noqa: PLC0415
            from flask_outbox.mail.submission import Receipt  # noqa: PLC0415
            from flask_outbox.outbox.record import record  # noqa: PLC0415

            record(outbox, [Report(s, Receipt.same(s, Accepted(""))) for s in held], lambda: 0.5)
        clock.now += DAY + 1
        assert prune(outbox, content_after=DAY, rows_after=DAY) == Pruned(1100, 1100)
        with outbox.read() as connection:
            for table in (message, recipient, content, event):
                left = connection.execute(select(func.count()).select_from(table))
                assert left.scalar_one() == 0

    def test_figures_count_what_is_not_accepted(self, outbox):
        finish(outbox, Accepted("250"))
        finish(outbox, Refused("550"))
        put(outbox, at=EPOCH + 9)
        put(outbox, at=EPOCH + 5)
        found = stats(outbox)
        assert found.counts == {State.FAILED: 1, State.QUEUED: 2}
        assert (found.oldest_due, found.now) == (EPOCH + 5, EPOCH)

    def test_figures_name_the_routes_that_do_not_work(self, outbox):
        finish(outbox, Deferred("535 refused", Fault.OURS))
        (route,) = stats(outbox).routes
        assert (route.name, route.until, route.reason) == ("default", EPOCH + 1, "535 refused")

    def test_workers_are_seen_by_their_heartbeats(self, outbox, clock):
        heartbeat(outbox, "w1", host="a", pid=7)
        clock.now += 10
        heartbeat(outbox, "w1", host="a", pid=7)
        heartbeat(outbox, "w2", host="b", pid=8)
        first, second = stats(outbox).workers
        assert (first.name, first.started_at, first.beat_at) == ("w1", EPOCH, EPOCH + 10)
        assert (second.host, second.pid) == ("b", 8)
        assert second.version
        goodbye(outbox, "w1")
        assert [each.name for each in stats(outbox).workers] == ["w2"]

    def test_workers_that_are_long_silent_are_forgotten(self, outbox, clock):
        heartbeat(outbox, "old", host="a", pid=7)
        clock.now += 2 * DAY
        heartbeat(outbox, "new", host="a", pid=8)
        assert [each.name for each in stats(outbox).workers] == ["new"]
