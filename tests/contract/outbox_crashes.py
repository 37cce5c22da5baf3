"""What a dead worker leaves behind, by how far it had come."""

from sqlalchemy import select, update

from contract.outbox_ground import Ground
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.outcome import Accepted, Unclear
from flask_outbox.mail.retry import MAX_CRASHES, Patience
from flask_outbox.outbox.claim import extend, leave, reclaim, start
from flask_outbox.outbox.stats import stats
from flask_outbox.outbox.status import cancel, history, retry
from flask_outbox.outbox.tables import FORMAT, message, recipient
from outbox_mail import ADA, BOB, a_submission, begin, look, one, put, put_many, say, take

LONG = 7 * 3600.0  # longer than any wait between attempts, shorter than patience


def die(outbox, clock):
    """Nothing is heard of the worker any more."""
    clock.now += outbox.lease
    return reclaim(outbox)


def kinds(outbox, id_):
    return [each.kind.value for each in history(outbox, id_)]


class CrashContract(Ground):
    def test_a_lease_that_was_never_started_goes_back_uncharged(self, outbox, clock):
        id_ = put(outbox)
        take(outbox)
        assert die(outbox, clock) == []
        found = look(outbox, id_)
        assert (found.state, found.attempts, found.crashes) == (State.QUEUED, 0, 0)
        (again,) = take(outbox)
        assert not again.alone

    def test_a_lease_that_is_not_over_stays(self, outbox, clock):
        id_ = put(outbox)
        take(outbox)
        clock.now += outbox.lease - 0.001
        reclaim(outbox)
        assert look(outbox, id_).state is State.SENDING

    def test_one_that_was_started_is_unclear_and_later_claimed_alone(self, outbox, clock):
        first, second, third = put_many(outbox, 3)
        begin(outbox, 1)
        (recorded,) = die(outbox, clock)
        assert isinstance(recorded.receipt[ADA], Unclear)
        assert (recorded.submission.id, recorded.state) == (first, State.QUEUED)
        found = look(outbox, first)
        assert (found.attempts, found.recipients[0].unclear) == (1, 1)
        assert found.due_at == clock.now + outbox.patience.give_up / 576
        assert kinds(outbox, first) == ["started", "unclear"]
        clock.now += LONG
        (again,) = take(outbox)
        assert (again.id, again.alone) == (first, True)
        assert [each.id for each in take(outbox)] == [second, third]

    def test_a_row_that_goes_alone_is_alone_in_its_claim(self, outbox, clock):
        first = put(outbox)
        begin(outbox)
        die(outbox, clock)
        clock.now += LONG
        put_many(outbox, 3)
        (alone,) = take(outbox)
        assert alone.id == first
        assert len(take(outbox)) == 3

    def test_a_row_that_goes_alone_does_not_wait_for_ever_behind_others(self, outbox, clock):
        first = put(outbox)
        begin(outbox)
        die(outbox, clock)
        clock.now = look(outbox, first).due_at
        put_many(outbox, 2, at=clock.now - 1)
        clock.now += 1
        from flask_outbox.outbox.enqueue import Priority  # noqa: PLC0415

        put(outbox, priority=Priority.URGENT)
        assert first not in [each.id for each in take(outbox, 1)]
        clock.now += outbox.lease
        put(outbox, priority=Priority.URGENT)
        assert [each.id for each in take(outbox)] == [first]

    def test_repeated_deaths_after_the_start_end_as_unknown(self, outbox, clock):
        id_ = put(outbox)
        copies = 0
        while look(outbox, id_).state is State.QUEUED:
            clock.now += LONG
            submission = one(outbox)
            leave(outbox, submission)
            copies += 1
            die(outbox, clock)
        assert look(outbox, id_).state is State.UNKNOWN
        assert copies == 1 + outbox.patience.max_unclear
        assert "may have been accepted" in look(outbox, id_).reason

    def test_patience_with_unclear_is_a_setting(self, make_outbox, clock):
        outbox = make_outbox(clock=clock, patience=Patience(max_unclear=0))
        id_ = put(outbox)
        begin(outbox)
        die(outbox, clock)
        assert look(outbox, id_).state is State.UNKNOWN

    def test_at_most_once_is_unknown_at_the_first_death_after_the_start(self, outbox, clock):
        id_ = put(outbox, a_submission(at_most_once=True))
        begin(outbox)
        (recorded,) = die(outbox, clock)
        assert recorded.state is State.UNKNOWN
        assert look(outbox, id_).state is State.UNKNOWN
        assert take(outbox) == []

    def test_at_most_once_that_was_not_started_is_queued_again(self, outbox, clock):
        id_ = put(outbox, a_submission(at_most_once=True))
        take(outbox)
        die(outbox, clock)
        assert look(outbox, id_).state is State.QUEUED

    def test_deaths_before_the_first_byte_of_a_row_claimed_alone_end_as_poison(self, outbox, clock):
        id_ = put(outbox)
        begin(outbox)
        die(outbox, clock)
        for crash in range(1, MAX_CRASHES + 1):
            assert look(outbox, id_).state is State.QUEUED
            clock.now += LONG
            assert one(outbox).alone
            (recorded,) = die(outbox, clock)
            assert look(outbox, id_).crashes == crash
        assert recorded.state is State.FAILED
        assert look(outbox, id_).reason.startswith("poison")
        assert look(outbox, id_).recipients[0].unclear == 1
        assert take(outbox) == []

    def test_the_neighbours_of_poison_lose_nothing(self, outbox, clock):
        put_in = put_many(outbox, 5)
        batch = take(outbox)
        start(outbox, batch[:1])  # and this one kills the worker
        die(outbox, clock)
        again = begin(outbox)
        assert [each.id for each in again] == put_in[1:]
        assert {each.attempt for each in again} == {1}

    def test_poison_is_retried_by_hand_and_still_alone(self, outbox, clock):
        id_ = put(outbox)
        begin(outbox)
        die(outbox, clock)
        for _ in range(MAX_CRASHES):
            clock.now += LONG
            begin(outbox)
            die(outbox, clock)
        assert retry(outbox, id_)
        submission = one(outbox)
        assert (submission.alone, submission.attempt) == (True, 1)
        assert look(outbox, id_).crashes == 0
        say(outbox, submission, Accepted("ok"))
        assert look(outbox, id_).state is State.ACCEPTED

    def test_a_row_alone_that_was_about_to_leave_is_unclear(self, outbox, clock):
        id_ = put(outbox)
        begin(outbox)
        die(outbox, clock)
        clock.now += LONG
        assert leave(outbox, one(outbox))
        die(outbox, clock)
        found = look(outbox, id_)
        assert (found.crashes, found.recipients[0].unclear) == (0, 2)

    def test_the_mark_of_leaving_ends_with_its_attempt(self, outbox, clock):
        id_ = put(outbox)
        begin(outbox)
        die(outbox, clock)
        clock.now += LONG
        leave(outbox, one(outbox))
        die(outbox, clock)
        clock.now += LONG
        begin(outbox)
        die(outbox, clock)
        assert look(outbox, id_).crashes == 1

    def test_no_mark_without_a_start_or_for_somebody_elses_row(self, outbox, clock):
        put(outbox)
        (claimed,) = take(outbox)
        assert not leave(outbox, claimed)
        start(outbox, [claimed])
        assert leave(outbox, claimed)
        die(outbox, clock)
        assert not leave(outbox, claimed)

    def test_what_a_dead_worker_says_later_changes_nothing(self, outbox, clock):
        id_ = put(outbox)
        zombie = one(outbox)
        die(outbox, clock)
        before = look(outbox, id_), history(outbox, id_)
        assert say(outbox, zombie, Accepted("ok")) == []
        extend(outbox, [zombie])
        assert (look(outbox, id_), history(outbox, id_)) == before

    def test_what_a_dead_worker_says_does_not_touch_its_successors_attempt(self, outbox, clock):
        id_ = put(outbox)
        zombie = one(outbox)
        die(outbox, clock)
        clock.now += LONG
        successor = one(outbox)
        assert say(outbox, zombie, Accepted("stale")) == []
        (recorded,) = say(outbox, successor, Accepted("fresh"))
        assert recorded.state is State.ACCEPTED
        assert look(outbox, id_).recipients[0].reply == "fresh"

    def test_only_the_recipients_of_the_attempt_are_in_doubt(self, outbox, clock):
        from flask_outbox.mail.outcome import Deferred  # noqa: PLC0415

        id_ = put(outbox, a_submission(ADA, BOB))
        say(outbox, one(outbox), {ADA: Accepted("ok"), BOB: Deferred("451 later")})
        clock.now += LONG
        assert one(outbox).recipients == (BOB,)
        die(outbox, clock)
        assert [each.unclear for each in look(outbox, id_).recipients] == [0, 1]

    def test_a_row_of_a_newer_version_is_left_alone(self, outbox, clock):
        newer, stranger, ours = put_many(outbox, 3)
        with outbox.begin() as connection:
            connection.execute(
                update(message).where(message.c.id == newer).values(format=FORMAT + 1)
            )
            for table, name in ((message, "id"), (recipient, "message")):
                connection.execute(
                    update(table)
                    .where(table.c[name] == stranger)
                    .values(state="pondered", due_at=None)
                )
            connection.execute(
                update(message).where(message.c.id == stranger).values(lease_until=1.0)
            )
        clock.now += LONG
        assert reclaim(outbox) == []
        assert [each.id for each in take(outbox)] == [ours]
        assert not cancel(outbox, stranger)
        assert stats(outbox).counts == {State.QUEUED: 1, State.SENDING: 1}
        with outbox.read() as connection:
            kept = select(message.c.state, message.c.format)
            found = connection.execute(kept.where(message.c.id.in_([newer, stranger]))).all()
        assert set(found) == {("queued", FORMAT + 1), ("pondered", FORMAT)}
