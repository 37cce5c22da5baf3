"""What the far side said, recipient by recipient."""

import logging
import re
from functools import partial

import pytest
from sqlalchemy import select

from contract.outbox_ground import Ground
from flask_outbox.mail.exchange import Report
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Refused, Unclear
from flask_outbox.mail.retry import Patience
from flask_outbox.mail.submission import Receipt, Submission
from flask_outbox.outbox import tables
from flask_outbox.outbox.claim import start
from flask_outbox.outbox.record import record
from flask_outbox.outbox.status import history, submission
from heard import heard
from outbox_mail import (
    ADA,
    BOB,
    CYD,
    EPOCH,
    EVE,
    a_submission,
    begin,
    look,
    one,
    put,
    put_many,
    say,
    take,
)

DAY = 86400.0
LONG = 7 * 3600.0
COLUMNS_WITH_TEXT = [
    tables.message.c.reason,
    tables.message.c.extra,
    tables.recipient.c.reply,
    tables.recipient.c.reference,
    tables.event.c.text,
    tables.route.c.reason,
]


def states(outbox, id_):
    return [each.state for each in look(outbox, id_).recipients]


class RecordContract(Ground):
    def test_accepted_is_the_end_with_the_far_sides_reference(self, outbox):
        id_ = put(outbox)
        submission = one(outbox)
        (recorded,) = say(outbox, submission, Accepted("250 queued as 7F3", "7F3"))
        assert (recorded.submission, recorded.state, recorded.reason) == (
            submission,
            State.ACCEPTED,
            "",
        )
        found = look(outbox, id_)
        assert (found.state, found.due_at, found.ended_at) == (State.ACCEPTED, None, EPOCH)
        assert (found.recipients[0].reply, found.recipients[0].reference) == (
            "250 queued as 7F3",
            "7F3",
        )

    def test_refused_is_failed_with_the_reply_as_the_reason(self, outbox):
        id_ = put(outbox)
        (recorded,) = say(outbox, one(outbox), Refused("550 5.1.1 no such user"))
        assert (recorded.state, recorded.reason) == (State.FAILED, "550 5.1.1 no such user")
        assert look(outbox, id_).reason == "550 5.1.1 no such user"
        assert take(outbox) == []

    def test_deferred_waits_by_full_jitter_and_counts(self, outbox, clock):
        id_ = put(outbox)
        (recorded,) = say(outbox, one(outbox), Deferred("451 4.7.1 greylisted"), jitter=0.5)
        found = look(outbox, id_)
        assert recorded.state is State.QUEUED
        assert (found.due_at, found.attempts, found.recipients[0].attempts) == (EPOCH + 30, 1, 1)
        assert found.reason == "451 4.7.1 greylisted"
        clock.now += 29
        assert take(outbox) == []
        clock.now += 1
        say(outbox, one(outbox), Deferred("451"), jitter=0.5)
        assert look(outbox, id_).due_at == clock.now + 60

    def test_each_message_of_a_batch_has_its_own_jitter(self, outbox):
        first, second = put_many(outbox, 2)
        chances = iter([0.25, 0.75])
        reports = [Report(s, Receipt.same(s, Deferred("451"))) for s in begin(outbox)]
        record(outbox, reports, lambda: next(chances))
        assert [look(outbox, id_).due_at - EPOCH for id_ in (first, second)] == [15, 45]

    def test_a_retry_after_is_honoured(self, outbox):
        id_ = put(outbox)
        say(outbox, one(outbox), Deferred("450", retry_after=600.0))
        assert look(outbox, id_).due_at == EPOCH + 600

    def test_patience_ends_as_failed(self, outbox, clock):
        id_ = put(outbox)
        say(outbox, one(outbox), Deferred("451 later"))
        clock.now += 2 * DAY
        (recorded,) = say(outbox, one(outbox), Deferred("451 later"))
        assert recorded.state is State.FAILED
        assert look(outbox, id_).reason == "gave up: 451 later"
        told = [each.kind.value for each in history(outbox, id_)]
        assert told == ["started", "deferred", "started", "failed"]

    def test_who_waited_for_us_until_its_patience_ended_has_one_more_attempt(self, outbox, clock):
        id_ = put(outbox)
        clock.now += 2 * DAY
        say(outbox, one(outbox), Deferred("451 greylisted"))
        assert look(outbox, id_).state is State.QUEUED
        clock.now += 60
        say(outbox, one(outbox), Deferred("451 greylisted"))
        assert look(outbox, id_).state is State.FAILED

    def test_patience_is_counted_from_when_it_was_first_due(self, outbox, clock):
        id_ = put(outbox, at=EPOCH + 10 * DAY)
        clock.now += 10 * DAY
        say(outbox, one(outbox), Deferred("451 later"))
        assert look(outbox, id_).state is State.QUEUED

    def test_patience_is_the_outboxs(self, make_outbox, clock):
        outbox = make_outbox(clock=clock, patience=Patience(give_up=10.0))
        id_ = put(outbox)
        say(outbox, one(outbox), Deferred("451"))
        clock.now += 11
        say(outbox, one(outbox), Deferred("451"))
        assert look(outbox, id_).state is State.FAILED

    def test_of_several_recipients_each_goes_its_own_way(self, outbox, clock):
        id_ = put(outbox, a_submission(ADA, BOB, CYD))
        outcomes = {ADA: Accepted("250"), BOB: Refused("550"), CYD: Deferred("451")}
        (recorded,) = say(outbox, one(outbox), outcomes)
        assert recorded.state is State.QUEUED
        assert states(outbox, id_) == [State.ACCEPTED, State.FAILED, State.QUEUED]
        clock.now += LONG
        assert one(outbox).recipients == (CYD,)
        found = look(outbox, id_)
        assert found.state is State.SENDING
        assert [each.attempts for each in found.recipients] == [1, 1, 1]

    def test_each_deferred_recipient_is_tried_at_its_own_time(self, outbox, clock):
        # At a domain of its own: one that asks for time gets it for all of its recipients.
        put(outbox, a_submission(ADA, EVE))
        outcomes = {ADA: Deferred("450", retry_after=60.0), EVE: Deferred("450", retry_after=600.0)}
        say(outbox, one(outbox), outcomes, jitter=0.0)
        clock.now += 60
        again = one(outbox)
        assert again.recipients == (ADA,)
        (recorded,) = say(outbox, again, Accepted("250"))
        assert recorded.state is State.QUEUED
        clock.now += 539
        assert take(outbox) == []
        clock.now += 1
        assert one(outbox).recipients == (EVE,)

    def test_a_receipt_for_a_recipient_who_is_done_changes_nothing(self, outbox, clock):
        id_ = put(outbox, a_submission(ADA, BOB))
        say(outbox, one(outbox), {ADA: Accepted("250 first"), BOB: Deferred("451")})
        clock.now += LONG
        say(outbox, one(outbox), {ADA: Refused("550"), BOB: Accepted("250")})
        assert states(outbox, id_) == [State.ACCEPTED, State.ACCEPTED]
        assert look(outbox, id_).recipients[0].reply == "250 first"

    def test_a_recipient_of_whom_nothing_is_said_is_unclear(self, outbox):
        id_ = put(outbox, a_submission(ADA, BOB))
        say(outbox, one(outbox), {ADA: Accepted("250")})
        assert [each.unclear for each in look(outbox, id_).recipients] == [0, 1]
        assert look(outbox, id_).state is State.QUEUED

    @pytest.mark.parametrize("fault", [Fault.OURS, Fault.NONE])
    def test_a_deferral_that_is_not_charged_gives_the_attempt_back(self, outbox, fault):
        id_ = put(outbox)
        say(outbox, one(outbox), Deferred("line broke", fault))
        found = look(outbox, id_)
        assert (found.attempts, found.recipients[0].attempts) == (0, 0)
        assert (found.state, found.due_at) == (State.QUEUED, EPOCH)

    def test_an_attempt_that_one_recipient_pays_for_is_counted(self, outbox):
        id_ = put(outbox, a_submission(ADA, BOB))
        say(outbox, one(outbox), {ADA: Deferred("x", Fault.NONE), BOB: Deferred("451")})
        found = look(outbox, id_)
        assert (found.attempts, [each.attempts for each in found.recipients]) == (1, [0, 1])

    def test_our_own_fault_has_an_end_too(self, outbox, clock):
        id_ = put(outbox)
        clock.now += 2 * DAY
        say(outbox, one(outbox), Deferred("535", Fault.OURS))
        assert look(outbox, id_).state is State.FAILED

    def test_unclear_is_spread_over_patience_and_then_unknown(self, outbox, clock):
        id_ = put(outbox)
        waits = []
        while look(outbox, id_).state is State.QUEUED:
            clock.now = look(outbox, id_).due_at
            submission = one(outbox)
            assert not submission.alone
            say(outbox, submission, Unclear("no answer"))
            waits.append((look(outbox, id_).due_at or clock.now) - clock.now)
        assert waits == pytest.approx([2 * DAY / 576, 2 * DAY / 8, 0])
        assert look(outbox, id_).state is State.UNKNOWN
        assert [each.kind.value for each in history(outbox, id_)] == ["started", "unclear"] * 3

    def test_giving_up_on_what_may_have_left_before_is_unknown_rather_than_failed(
        self, outbox, clock
    ):
        id_ = put(outbox)
        say(outbox, one(outbox), Unclear("no answer"))
        clock.now += 2 * DAY
        (recorded,) = say(outbox, one(outbox), Deferred("451 later"))
        assert recorded.state is State.UNKNOWN
        assert look(outbox, id_).reason == "may have been accepted: 451 later"

    def test_unclear_at_most_once_is_unknown_at_once(self, outbox):
        id_ = put(outbox, a_submission(at_most_once=True))
        (recorded,) = say(outbox, one(outbox), Unclear("no answer"))
        assert recorded.state is State.UNKNOWN
        assert look(outbox, id_).reason == "may have been accepted: no answer"

    def test_at_most_once_that_did_not_leave_is_tried_again(self, outbox):
        id_ = put(outbox, a_submission(at_most_once=True))
        say(outbox, one(outbox), Deferred("451"))
        assert look(outbox, id_).state is State.QUEUED

    def test_a_batch_is_recorded_in_its_order_and_only_what_is_ours(self, outbox):
        put_many(outbox, 3)
        first, second, third = begin(outbox)
        say(outbox, second, Accepted("250"))
        reports = [Report(s, Receipt.same(s, Accepted("250"))) for s in (third, second, first)]
        recorded = record(outbox, reports, lambda: 0.5)
        assert [each.submission for each in recorded] == [third, first]

    def test_two_reports_of_one_message_are_one(self, outbox):
        id_ = put(outbox)
        submission = one(outbox)
        reports = [
            Report(submission, Receipt.same(submission, Accepted("250"))),
            Report(submission, Receipt.same(submission, Refused("550"))),
        ]
        assert len(record(outbox, reports, lambda: 0.5)) == 1
        assert look(outbox, id_).state is State.ACCEPTED

    def test_no_reports_need_no_database(self, make_outbox):
        outbox = make_outbox()
        outbox.close()
        assert record(outbox, [], lambda: 0.5) == []

    def test_the_content_of_what_was_accepted_is_kept_until_it_is_pruned(self, outbox):
        id_ = put(outbox)
        say(outbox, one(outbox), Accepted("250"))
        assert submission(outbox, id_) is not None

    def test_sensitive_content_is_wiped_once_everybody_accepted_it(self, outbox, clock):
        id_ = put(outbox, a_submission(ADA, BOB, sensitive=True))
        say(outbox, one(outbox), {ADA: Accepted("250"), BOB: Deferred("451")})
        assert submission(outbox, id_) is not None
        clock.now += LONG
        say(outbox, one(outbox), Accepted("250"))
        assert submission(outbox, id_) is None
        assert look(outbox, id_).state is State.ACCEPTED

    def test_what_a_far_side_says_is_shortened_and_cannot_steer_a_terminal(self, outbox):
        id_ = put(outbox)
        say(outbox, one(outbox), Refused("550 \x1b[2J\r\n" + "x" * 10_000))
        reason = look(outbox, id_).reason
        assert reason.isprintable()
        assert len(reason) <= 500

    def test_no_body_and_no_fence_reaches_a_log_or_a_column_of_text(self, outbox, caplog):
        caplog.set_level(logging.DEBUG)
        canary = "c4n4ry-p4ssw0rd"
        for outcome in (
            Accepted("250"),
            Refused("550"),
            Unclear("no answer"),
            Deferred("451"),
            Deferred("535 refused", Fault.OURS),
        ):
            put(outbox, a_submission(content=canary.encode()))
            sent = one(outbox)
            assert canary.encode() in sent.content
            say(outbox, sent, outcome)
        with outbox.read() as connection:
            for column in COLUMNS_WITH_TEXT:
                found = connection.execute(select(column)).scalars().all()
                assert not [each for each in found if canary in each or sent.fence in each]
        assert canary not in caplog.text
        assert "535 refused" in caplog.text

    def test_of_plain_ones_too_only_those_still_ours_are_recorded(self, outbox):
        ids = put_many(outbox, 3)
        held = begin(outbox)
        with outbox.begin() as connection:
            another = tables.message.update().where(tables.message.c.id == ids[1])
            connection.execute(another.values(fence="another"))
        assert [each.submission.id for each in accept(outbox, held)] == [ids[0], ids[2]]
        assert [look(outbox, each).state for each in ids] == [
            State.ACCEPTED,
            State.SENDING,
            State.ACCEPTED,
        ]
        assert len(history(outbox, ids[0])) == 2

    def test_a_mail_that_one_of_two_does_not_get_ends_as_its_states_sum_up_to(self, outbox):
        id_ = put(outbox, a_submission(ADA, BOB))
        (held,) = begin(outbox)
        with outbox.begin() as connection:  # as another version may have it
            refused = tables.recipient.update().where(tables.recipient.c.address == BOB)
            connection.execute(refused.values(state="failed", due_at=None))
        (recorded,) = accept(outbox, [held.only([ADA])])
        assert states(outbox, id_) == [State.ACCEPTED, State.FAILED]
        assert recorded.state is look(outbox, id_).state is State.FAILED
        assert [each.kind.value for each in history(outbox, id_)] == ["started", "accepted"]

    def test_whoever_fell_due_after_the_claim_is_not_in_its_attempt(self, outbox, clock):
        id_ = put(outbox, a_submission(ADA, BOB))
        deferred = Deferred("450 later")
        say(outbox, one(outbox), {ADA: deferred, BOB: deferred})
        with outbox.begin() as connection:
            later = tables.recipient.update().where(tables.recipient.c.address == BOB)
            connection.execute(later.values(due_at=clock.now + 3600.0))
        clock.now += 60.0
        held = one(outbox)
        assert held.recipients == (ADA,)
        clock.now += 3600.0
        start(outbox, [held])  # renewed, as a lease is
        assert states(outbox, id_) == [State.SENDING, State.QUEUED]
        say(outbox, held, Accepted("250"))
        assert states(outbox, id_) == [State.ACCEPTED, State.QUEUED]
        assert one(outbox).recipients == (BOB,)

    def test_the_number_of_statements_does_not_grow_with_the_batch(self, outbox):
        counts = []
        said = []
        for size in (2, 100):
            put_many(outbox, size)
            held: list[Submission] = []
            for step in (lambda _: take(outbox), partial(start, outbox), partial(accept, outbox)):
                said.clear()
                with heard(outbox, lambda statement, *_: said.append(statement)):
                    held = step(held)
                counts.append(len(said))
        claim_small, start_small, record_small, claim_big, start_big, record_big = counts
        assert (claim_small, start_small, record_small) == (10, 1, 5)
        assert claim_big <= claim_small
        assert (start_big, record_big) == (start_small, record_small)

    def test_every_finishing_update_carries_the_fence(self, outbox):
        said = []
        put_many(outbox, 3)
        held = begin(outbox)
        with heard(outbox, lambda statement, *_: said.append(statement)):
            accept(outbox, held)
        finishing = [each for each in said if re.match(r"UPDATE (\S+\.)?outbox_message", each)]
        assert finishing
        assert all("fence" in each.split("WHERE")[1] for each in finishing)


def accept(outbox, held):
    reports = [Report(each, Receipt.same(each, Accepted("250"))) for each in held]
    return record(outbox, reports, lambda: 0.5)
