"""Due rows become somebody's, in order, each once."""

from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import pytest
from sqlalchemy import delete, update

from contract.outbox_ground import Ground
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Refused, Unclear
from flask_outbox.outbox import claim as claims
from flask_outbox.outbox import reclaim as reclaiming
from flask_outbox.outbox.claim import (
    claim,
    extend,
    has_open,
    leave,
    next_due,
    reclaim,
    release,
    start,
)
from flask_outbox.outbox.enqueue import Priority
from flask_outbox.outbox.erase import erase
from flask_outbox.outbox.expire import EXPIRED_MOST, expire, expire_leased
from flask_outbox.outbox.status import history, list_messages
from flask_outbox.outbox.tables import content, message
from outbox_mail import (
    ADA,
    BOB,
    CYD,
    EPOCH,
    a_submission,
    begin,
    look,
    one,
    put,
    put_many,
    say,
    take,
)

YEAR = 365 * 86400.0
HOUR = 3600.0
PARTY = tuple(f"guest{number}@example.org" for number in range(11))  # too many for one statement


def ids(submissions):
    return [each.id for each in submissions]


def spoil(outbox, id_):
    """Let nobody read what stands in the row."""
    with outbox.begin() as connection:
        connection.execute(update(message).where(message.c.id == id_).values(extra="{"))


def assert_told(news, id_, state):
    """See that it is told by what can still be read of it."""
    (told,) = news
    assert (told.submission.id, told.submission.content, told.state) == (id_, b"", state)
    assert told.submission.recipients == tuple(told.receipt)
    assert told.receipt.refused == list(told.receipt) != []
    assert told.reason


class ClaimContract(Ground):
    def test_the_most_urgent_come_first_and_of_those_the_oldest(self, outbox, clock):
        bulk = put(outbox, priority=Priority.BULK)
        normal = put(outbox)
        clock.now += 1
        later = put(outbox)
        urgent = put(outbox, priority=Priority.URGENT)
        high = put(outbox, priority=Priority.HIGH)
        assert ids(take(outbox)) == [urgent, high, normal, later, bulk]

    def test_messages_of_one_instant_are_claimed_in_the_order_of_their_enqueueing(self, outbox):
        put_in = put_many(outbox, 30)
        assert ids(take(outbox)) == put_in

    def test_no_more_than_the_limit(self, outbox):
        put_in = put_many(outbox, 5)
        assert ids(take(outbox, 3)) == put_in[:3]
        assert ids(take(outbox, 3)) == put_in[3:]
        assert take(outbox, 3) == []

    def test_only_the_transports_asked_for(self, outbox):
        put(outbox, a_submission(transport="bulk"))
        assert take(outbox) == []
        assert len(take(outbox, transports=["bulk", "default"])) == 1

    def test_a_transport_with_a_long_queue_leaves_room_for_another(self, outbox):
        put_many(outbox, 10)
        other = put(outbox, a_submission(transport="other"))
        assert other in ids(take(outbox, 4, transports=["default", "other"]))

    def test_nothing_is_claimed_before_its_time(self, outbox, clock):
        id_ = put(outbox, at=EPOCH + 60)
        assert take(outbox) == []
        assert next_due(outbox, ["default"]) == EPOCH + 60
        clock.now += 60
        assert ids(take(outbox)) == [id_]

    def test_a_time_in_the_past_means_now(self, outbox):
        id_ = put(outbox, at=EPOCH - YEAR)
        assert look(outbox, id_).due_at == EPOCH

    def test_a_claim_charges_nothing(self, outbox):
        id_ = put(outbox)
        take(outbox)
        found = look(outbox, id_)
        assert (found.state, found.attempts, found.started_at) == (State.SENDING, 0, None)
        assert (found.worker, found.route) == ("w1", "default")

    def test_a_start_counts_the_attempt_and_says_so(self, outbox):
        id_ = put(outbox)
        assert one(outbox).attempt == 1
        assert (look(outbox, id_).attempts, look(outbox, id_).started_at) == (1, EPOCH)
        assert [each.kind.value for each in history(outbox, id_)] == ["started"]

    def test_a_start_said_twice_counts_once(self, outbox):
        put(outbox)
        claimed = take(outbox)
        assert start(outbox, claimed) == start(outbox, claimed)

    def test_a_start_renews_the_lease(self, outbox, clock):
        id_ = put(outbox)
        claimed = take(outbox)
        clock.now += outbox.lease * 0.9
        start(outbox, claimed)
        clock.now += outbox.lease * 0.9
        assert reclaim(outbox) == []
        assert look(outbox, id_).state is State.SENDING

    def test_a_start_of_what_somebody_else_took_over_gives_nothing(self, outbox, clock):
        put(outbox)
        lost = take(outbox)
        clock.now += outbox.lease
        reclaim(outbox)
        assert start(outbox, lost) == []
        (again,) = take(outbox)
        assert start(outbox, [*lost, again]) == start(outbox, [again])

    def test_whose_lease_was_lost_touches_nothing_of_its_successors_attempt(self, outbox, clock):
        id_ = put(outbox)
        lost = take(outbox)
        clock.now += outbox.lease
        reclaim(outbox)
        successors = take(outbox)
        start(outbox, lost)
        assert (look(outbox, id_).attempts, look(outbox, id_).started_at) == (0, None)
        start(outbox, successors)
        assert not leave(outbox, lost[0])
        assert leave(outbox, successors[0])

    def test_each_claim_has_its_own_fence(self, outbox):
        put_many(outbox, 2)
        first, second = take(outbox, 1) + take(outbox, 1)
        assert first.fence != second.fence

    def test_a_released_row_is_due_as_it_was_and_uncharged(self, outbox, clock):
        id_ = put(outbox)
        clock.now += 5
        release(outbox, take(outbox))
        found = look(outbox, id_)
        assert (found.state, found.due_at, found.attempts) == (State.QUEUED, EPOCH, 0)
        assert ids(take(outbox)) == [id_]

    def test_what_was_started_cannot_be_released(self, outbox):
        id_ = put(outbox)
        release(outbox, begin(outbox))
        assert look(outbox, id_).state is State.SENDING

    def test_what_somebody_else_took_over_cannot_be_released(self, outbox, clock):
        put(outbox)
        lost = take(outbox)
        clock.now += outbox.lease
        reclaim(outbox)
        (again,) = take(outbox)
        release(outbox, lost)
        assert look(outbox, again.id).state is State.SENDING

    def test_a_heartbeat_keeps_a_lease(self, outbox, clock):
        id_ = put(outbox)
        held = begin(outbox)
        for _ in range(5):
            clock.now += outbox.lease * 0.9
            extend(outbox, held)
            assert reclaim(outbox) == []
        assert look(outbox, id_).state is State.SENDING

    def test_a_heartbeat_does_not_keep_somebody_elses_lease(self, outbox, clock):
        put(outbox)
        lost = take(outbox)
        clock.now += outbox.lease
        reclaim(outbox)
        (again,) = begin(outbox)
        clock.now += outbox.lease * 0.9
        extend(outbox, lost)
        clock.now += outbox.lease * 0.2
        assert ids(each.submission for each in reclaim(outbox)) == [again.id]

    def test_what_is_too_old_expires_instead_of_being_claimed(self, outbox, clock):
        id_ = put(outbox, expires=EPOCH + 60)
        clock.now += 60
        assert take(outbox) == []
        found = look(outbox, id_)
        assert (found.state, found.due_at) == (State.EXPIRED, None)
        assert "expired" in found.reason
        assert [each.kind.value for each in history(outbox, id_)] == ["expired"]
        assert not has_open(outbox, ["default"])

    def test_what_is_too_old_is_never_claimed_however_much_of_it_there_is(self, outbox, clock):
        put_many(outbox, EXPIRED_MOST + 50, expires=clock.now + 1.0)
        clock.now += 1.0
        ended = expire(outbox)
        assert claim(outbox, transports=["default"], limit=1000, worker="w1") == []
        assert len(ended) == EXPIRED_MOST
        assert {each.state for each in ended} == {State.EXPIRED}
        assert len(expire(outbox)) == 50
        assert expire(outbox) == []

    def test_what_is_not_yet_too_old_is_claimed(self, outbox, clock):
        id_ = put(outbox, expires=EPOCH + 60)
        clock.now += 59
        assert ids(take(outbox)) == [id_]

    def test_an_expired_rest_leaves_the_accepted_recipient_alone(self, outbox, clock):
        id_ = put(outbox, a_submission(ADA, BOB), expires=EPOCH + 60)
        say(outbox, one(outbox), {ADA: Accepted("ok"), BOB: Deferred("451 later")})
        clock.now += 60
        assert take(outbox) == []
        found = look(outbox, id_)
        assert [each.state for each in found.recipients] == [State.ACCEPTED, State.EXPIRED]
        assert found.state is State.EXPIRED

    def test_what_got_too_old_since_its_claim_is_not_started_and_ends(self, outbox, clock):
        late = put(outbox, expires=EPOCH + 10)
        others = [put(outbox, expires=EPOCH + 60), put(outbox)]
        claimed = take(outbox)
        clock.now += 10
        assert ids(start(outbox, claimed)) == others
        assert (look(outbox, late).attempts, look(outbox, late).started_at) == (0, None)
        (ended,) = expire_leased(outbox, claimed)
        assert (ended.submission.id, ended.state) == (late, State.EXPIRED)
        found = look(outbox, late)
        assert (found.state, found.due_at, found.attempts) == (State.EXPIRED, None, 0)
        assert [each.kind.value for each in history(outbox, late)] == ["expired"]
        assert {look(outbox, id_).state for id_ in others} == {State.SENDING}

    def test_what_was_started_in_time_stays_so_when_that_is_said_again(self, outbox, clock):
        id_ = put(outbox, expires=EPOCH + 10)
        claimed = take(outbox)
        start(outbox, claimed)
        clock.now += outbox.lease * 0.9
        (again,) = start(outbox, claimed)
        assert again.attempt == look(outbox, id_).attempts == 1
        clock.now += outbox.lease * 0.9
        assert reclaim(outbox) == expire_leased(outbox, claimed) == expire(outbox) == []
        assert [each.state for each in say(outbox, again, Accepted("ok"))] == [State.ACCEPTED]

    def test_what_is_too_old_and_was_taken_over_is_left_to_its_new_owner(self, outbox, clock):
        id_ = put(outbox, expires=EPOCH + outbox.lease + 10)
        lost = take(outbox)
        clock.now += outbox.lease
        reclaim(outbox)
        (again,) = take(outbox)
        clock.now += 10
        assert expire_leased(outbox, lost) == []
        assert look(outbox, id_).state is State.SENDING
        assert len(expire_leased(outbox, [again])) == 1

    def test_whom_an_earlier_attempt_may_have_reached_is_unknown_and_not_expired(
        self, outbox, clock
    ):
        id_ = put(outbox, a_submission(ADA, BOB, CYD), expires=EPOCH + 60)
        reached = {ADA: Accepted("ok"), BOB: Unclear("no answer"), CYD: Deferred("451 later")}
        say(outbox, one(outbox), reached)
        clock.now += 60
        (ended,) = expire(outbox)
        why = "may have been accepted: expired before it could be sent again"
        assert (ended.state, ended.reason) == (State.UNKNOWN, why)
        assert (ended.receipt.unclear, ended.receipt.refused) == ([BOB], [CYD])
        found = look(outbox, id_)
        assert (found.state, found.reason) == (State.UNKNOWN, why)
        _, unknown, expired = found.recipients
        assert [each.state for each in found.recipients] == [
            State.ACCEPTED,
            State.UNKNOWN,
            State.EXPIRED,
        ]
        assert (unknown.reply, expired.reply) == (why, "451 later")
        told = [(each.recipient, each.kind.value) for each in history(outbox, id_)]
        assert told[-2:] == [(BOB, "unclear"), (CYD, "expired")]

    @pytest.mark.parametrize(
        ("earlier", "state", "reason"),
        [
            (Refused("550 no"), State.FAILED, "550 no"),
            (Unclear("no answer"), State.UNKNOWN, "may have been accepted: no answer"),
        ],
    )
    def test_an_expired_rest_does_not_hide_why_the_message_wants_to_be_looked_at(
        self, outbox, clock, earlier, state, reason
    ):
        id_ = put(outbox, a_submission(ADA, BOB, at_most_once=True), expires=EPOCH + 60)
        say(outbox, one(outbox), {ADA: earlier, BOB: Deferred("451 later")})
        clock.now += 60
        assert len(expire(outbox)) == 1
        found = look(outbox, id_)
        assert (found.state, found.reason) == (state, reason)
        assert found.recipients[1].state is State.EXPIRED

    def test_it_is_unknown_too_where_it_gets_too_old_between_its_claim_and_its_start(
        self, outbox, clock
    ):
        id_ = put(outbox, expires=EPOCH + 3600)
        say(outbox, one(outbox), Unclear("no answer"))
        clock.now = look(outbox, id_).due_at
        claimed = take(outbox)
        clock.now = EPOCH + 3600
        assert start(outbox, claimed) == []
        assert [each.state for each in expire_leased(outbox, claimed)] == [State.UNKNOWN]
        assert look(outbox, id_).state is State.UNKNOWN

    def test_a_rest_that_waits_for_another_time_ends_with_what_got_too_old(self, outbox, clock):
        id_ = put(outbox, a_submission(ADA, BOB), expires=EPOCH + 400)
        say(outbox, one(outbox), {ADA: Deferred("451 later"), BOB: Deferred("broke", Fault.NONE)})
        clock.now = look(outbox, id_).due_at
        claimed = take(outbox)
        assert [each.recipients for each in claimed] == [(BOB,)]
        clock.now = EPOCH + 400
        (ended,) = expire_leased(outbox, claimed)
        assert ended.submission.recipients == (ADA, BOB)
        assert {each.state for each in look(outbox, id_).recipients} == {State.EXPIRED}

    def test_one_claim_brings_no_more_content_than_memory_is_meant_for(self, outbox, monkeypatch):
        monkeypatch.setattr(claims, "OCTETS_MOST", 1000)
        put_in = [put(outbox, a_submission(content=b"x" * size)) for size in (5000, 400, 400, 400)]
        batches = [ids(take(outbox)) for _ in range(3)]
        assert batches == [put_in[:1], put_in[1:3], put_in[3:]]

    def test_next_due_is_never_when_nothing_waits(self, outbox):
        put(outbox)
        take(outbox)
        assert next_due(outbox, ["default"]) is None

    def test_next_due_is_the_earliest_of_all_priorities_and_transports(self, outbox):
        put(outbox, at=EPOCH + 30, priority=Priority.BULK)
        put(outbox, a_submission(transport="other"), at=EPOCH + 20)
        put(outbox, at=EPOCH + 40, priority=Priority.URGENT)
        assert next_due(outbox, ["default", "other"]) == EPOCH + 20
        assert next_due(outbox, ["default"]) == EPOCH + 30

    def test_open_is_what_is_queued_or_under_way(self, outbox):
        assert not has_open(outbox, ["default"])
        put(outbox)
        assert has_open(outbox, ["default"])
        submission = one(outbox)
        assert has_open(outbox, ["default"])
        say(outbox, submission, Accepted("ok"))
        assert not has_open(outbox, ["default"])

    def test_eight_threads_claim_two_thousand_rows_each_once(self, make_outbox):
        outbox = make_outbox()
        put_in = put_many(outbox, 2000)

        def work() -> list[str]:
            mine: list[str] = []
            while got := take(outbox, 37):
                mine += ids(got)
            return mine

        with ThreadPoolExecutor(8) as threads:
            shares = [each.result() for each in [threads.submit(work) for _ in range(8)]]
        assert sorted(chain.from_iterable(shares)) == sorted(put_in)

    @pytest.mark.parametrize("step", [-HOUR, HOUR, -YEAR, YEAR])
    def test_a_clock_that_steps_holds_nothing_up_longer_than_a_lease(self, outbox, clock, step):
        deferred, claimed, started, queued = put_many(outbox, 4)
        say(outbox, begin(outbox, 1)[0], Deferred("451 later"), jitter=1.0)
        take(outbox, 1)
        begin(outbox, 1)
        clock.now += step
        (recorded,) = reclaim(outbox)
        assert recorded.submission.id == started
        assert look(outbox, started).due_at == clock.now + outbox.patience.give_up / 576
        assert {claimed, queued} <= set(ids(take(outbox)))
        clock.now += 60  # what a deferral waits at most the first time
        take(outbox)
        assert look(outbox, deferred).state is State.SENDING

    @pytest.mark.parametrize("step", [-HOUR, -YEAR])
    def test_what_was_queued_before_the_clock_went_back_is_due_as_before(self, outbox, clock, step):
        id_ = put(outbox)
        clock.now += step
        assert take(outbox) == []
        reclaim(outbox)
        assert ids(take(outbox)) == [id_]
        assert look(outbox, id_).created_at == EPOCH

    def test_what_is_brought_back_then_is_bounded_and_the_rest_comes_next_time(
        self, outbox, clock, monkeypatch
    ):
        monkeypatch.setattr(reclaiming, "MEND_MOST", 2)
        put_many(outbox, 3)
        clock.now -= YEAR
        reclaim(outbox)
        assert len(take(outbox)) == 2
        reclaim(outbox)
        assert len(take(outbox)) == 1

    def test_patience_too_is_counted_by_the_clock_that_was_set_back(self, outbox, clock):
        id_ = put(outbox)
        clock.now -= YEAR
        reclaim(outbox)
        clock.now += outbox.patience.give_up
        say(outbox, one(outbox), Deferred("451 later", Fault.OURS))
        assert look(outbox, id_).state is State.FAILED

    @pytest.mark.parametrize("end", ["reclaimed", "released", "recorded"])
    def test_who_waits_while_others_are_under_way_is_due_as_before_too(self, outbox, clock, end):
        id_ = put(outbox, a_submission(ADA, BOB))
        say(outbox, one(outbox), {ADA: Deferred("broke", Fault.NONE), BOB: Deferred("451 later")})
        wait = look(outbox, id_).recipients[1].due_at - clock.now
        assert wait > 0
        (again,) = begin(outbox, 1) if end == "recorded" else take(outbox)
        assert again.recipients == (ADA,)
        clock.now -= YEAR
        if end == "reclaimed":
            reclaim(outbox)
        elif end == "released":
            release(outbox, [again])
        else:
            say(outbox, again, Accepted("250"))
        assert look(outbox, id_).recipients[1].due_at == pytest.approx(clock.now + wait, abs=1e-3)
        clock.now += outbox.patience.give_up
        say(outbox, one(outbox), Deferred("451 later", Fault.OURS))
        assert look(outbox, id_).state is State.FAILED

    @pytest.mark.parametrize("step", [-HOUR, -YEAR])
    @pytest.mark.parametrize("key", [None, "order-7"])
    @pytest.mark.parametrize("to", [(ADA,), PARTY])
    def test_what_was_to_wait_waits_as_long_by_the_clock_that_was_set_back(
        self, outbox, clock, to, key, step
    ):
        plain = put(outbox, a_submission(*to))
        id_ = put(outbox, a_submission(*to), delay=60, key=key)
        also_plain = put(outbox, a_submission(*to))
        clock.now += step
        reclaim(outbox)
        found = look(outbox, id_)
        assert (found.created_at, found.due_at) == (EPOCH, clock.now + 60)
        assert {each.due_at for each in found.recipients} == {found.due_at}
        assert ids(take(outbox)) == [plain, also_plain]
        clock.now += 60
        assert ids(take(outbox)) == [id_]

    def test_its_patience_is_counted_by_that_clock(self, outbox, clock):
        id_ = put(outbox, delay=60)
        clock.now -= YEAR
        reclaim(outbox)
        clock.now += 60 + outbox.patience.give_up
        say(outbox, one(outbox), Deferred("451 later", Fault.OURS))
        assert look(outbox, id_).state is State.FAILED

    def test_a_wait_stays_as_it_is_while_the_clock_goes_on(self, outbox, clock):
        id_ = put(outbox, delay=3600)
        clock.now += 60
        reclaim(outbox)
        assert look(outbox, id_).due_at == EPOCH + 3600

    @pytest.mark.parametrize("erased", ["before", "after"])
    @pytest.mark.parametrize(
        ("schedule", "waits"), [({"delay": 60}, 60), ({}, 0), ({"at": EPOCH + 60}, HOUR + 60)]
    )
    def test_so_it_is_where_one_of_its_recipients_is_erased(
        self, outbox, clock, erased, schedule, waits
    ):
        id_ = put(outbox, a_submission(ADA, BOB), **schedule)
        if erased == "before":
            erase(outbox, ADA)
        clock.now -= HOUR
        if erased == "after":
            erase(outbox, ADA)
        reclaim(outbox)
        assert look(outbox, id_).due_at == clock.now + waits

    def test_a_time_that_the_app_named_stays_when_the_clock_goes_back(self, outbox, clock):
        id_ = put(outbox, at=EPOCH + 60)
        clock.now -= HOUR
        reclaim(outbox)
        assert look(outbox, id_).due_at == EPOCH + 60

    def test_a_lease_up_to_twice_its_length_ahead_is_believed(self, outbox, clock):
        id_ = put(outbox)
        take(outbox)
        clock.now -= outbox.lease * 0.9
        reclaim(outbox)
        assert look(outbox, id_).state is State.SENDING
        clock.now -= outbox.lease * 0.2
        reclaim(outbox)
        assert look(outbox, id_).state is State.QUEUED

    def test_leases_of_another_length_are_measured_by_their_own(self, outbox, make_outbox, clock):
        id_ = put(outbox)
        take(make_outbox(clock=clock, lease=300.0))
        assert reclaim(outbox) == []
        assert look(outbox, id_).state is State.SENDING

    def test_a_row_that_cannot_be_read_fails_and_its_neighbours_go_on(self, outbox, caplog):
        good, bad, bare = put_many(outbox, 3)
        with outbox.begin() as connection:
            connection.execute(update(message).where(message.c.id == bad).values(extra="{"))
            connection.execute(delete(content).where(content.c.message == bare))
        assert ids(take(outbox)) == [good]
        for id_ in (bad, bare):
            assert look(outbox, id_).state is State.FAILED
            assert look(outbox, id_).reason.startswith("poison")
            assert f"Message {id_} is failed: its row cannot be read" in caplog.text
        assert {each.state for each in list_messages(outbox)} == {State.SENDING, State.FAILED}

    def test_what_became_of_a_row_that_cannot_be_read_is_told(self, outbox):
        (bad,) = put_many(outbox, 1)
        spoil(outbox, bad)
        failed = []
        assert claim(outbox, transports=["default"], limit=9, worker="w1", failed=failed) == []
        assert_told(failed, bad, State.FAILED)

    def test_so_it_is_of_one_that_cannot_be_read_when_its_worker_died(self, outbox, clock):
        (bad,) = put_many(outbox, 1)
        begin(outbox)
        spoil(outbox, bad)
        clock.now += outbox.lease * 1.1
        assert_told(reclaim(outbox), bad, State.FAILED)
        assert look(outbox, bad).state is State.FAILED

    def test_so_it_is_of_one_that_cannot_be_read_when_it_is_too_old(self, outbox, clock):
        bad = put(outbox, expires=EPOCH + 60)
        spoil(outbox, bad)
        clock.now += 60
        assert_told(expire(outbox), bad, State.EXPIRED)
