"""Limits that all workers keep together: rates, slots, slowing, and what they do to no others."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from types import SimpleNamespace

import pytest
from sqlalchemy import func, select, update

from contract.outbox_ground import Ground
from flask_outbox.mail.errors import InDoubt
from flask_outbox.mail.exchange import Report
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Unclear
from flask_outbox.mail.rates import DAY, DOUBLES_IN, TOO_LATE, Limit, Rates
from flask_outbox.mail.route import Routing
from flask_outbox.mail.submission import Receipt
from flask_outbox.outbox import claim as claims
from flask_outbox.outbox import slots
from flask_outbox.outbox.claim import next_due, reclaim, release, start
from flask_outbox.outbox.enqueue import Priority, Schedule, enqueue
from flask_outbox.outbox.prune import prune
from flask_outbox.outbox.rates import IDLE, domain_named, locked
from flask_outbox.outbox.record import record
from flask_outbox.outbox.slots import bring_forward
from flask_outbox.outbox.stats import stats
from flask_outbox.outbox.status import cancel, list_messages
from flask_outbox.outbox.tables import message, rate
from outbox_mail import (
    ADA,
    BOB,
    EPOCH,
    KEYRING,
    a_submission,
    begin,
    look,
    put,
    put_many,
    say,
    take,
)

BUSY = Deferred("421 4.7.0 too fast")
OUR_FAULT = Deferred("503", Fault.OURS)
ANN = "ann@gmail.com"
BOUND = 60.0  # seconds
TWO_WAYS = Routing("default", ({"first": 1.0}, {"second": 1.0}))


def flood(outbox, count, *recipients, transport="default", **schedule):
    with outbox.begin() as connection:
        mail = a_submission(*(recipients or [ANN]), transport=transport)
        return [enqueue(connection, outbox, mail, Schedule(**schedule)) for _ in range(count)]


def ids(submissions):
    return [each.id for each in submissions]


def meters_of(outbox):
    with outbox.read() as connection:
        return sorted(connection.execute(select(rate.c.name)).scalars())


def next_at(outbox):
    """Give when the next mail may go to each domain, from EPOCH on; before that is at once."""
    with outbox.read() as connection:
        found = connection.execute(select(rate.c.name, rate.c.next_at)).all()
    return {domain_named(name): max(at - EPOCH, 0.0) for name, at in found}


def pass_the_time(outbox, clock, seconds, step=0.025, transports=("default",)):
    """Claim again and again, and have all of it accepted; give the time of each mail."""
    times = []
    until = clock.now + seconds
    while clock.now < until:
        for each in begin_by(outbox, transports):
            say(outbox, each, Accepted("250"))
            times.append(each.turn.begins_at if each.turn else clock.now)
        clock.now += step
    return times


def most_in_a_second(times):
    return max(sum(at <= each < at + 1.0 for each in times) for at in times)


def take_by(routing, outbox, **terms):
    return claims.claim(
        outbox, transports=["default"], limit=100, worker="w", routing=lambda _: routing, **terms
    )


def begin_by(outbox, transports):
    return start(outbox, take(outbox, transports=transports))


class RateContract(Ground):
    @pytest.fixture
    def limited(self, make_outbox, clock):
        """Open the outbox with these limits."""
        return lambda **terms: make_outbox(clock=clock, keyring=KEYRING, rates=Rates(**terms))

    @pytest.fixture(autouse=True)
    def _one_clock(self, monkeypatch, clock):
        """Let this process's own clock tell the database's time."""
        monkeypatch.setattr(claims, "time", clock)
        monkeypatch.setattr(slots, "LOOKS_FOR", BOUND)  # by the real clock, whatever else runs

    # --- of a transport ---

    def test_a_transport_is_not_claimed_for_beyond_its_rate(self, limited, clock):
        outbox = limited(transports={"*": 1.0})
        put_many(outbox, 30)
        assert [each.turn.begins_at for each in take(outbox)] == [EPOCH]
        assert take(outbox) == []
        assert EPOCH + 0.7 < next_due(outbox, ["default"]) < EPOCH + 1.0
        clock.now = next_due(outbox, ["default"])
        (ahead,) = take(outbox)
        assert ahead.turn.begins_at == pytest.approx(EPOCH + 1.0, abs=1e-5)

    def test_what_a_claim_takes_is_not_added_to_what_a_mail_has_to_wait(
        self, limited, clock, monkeypatch
    ):
        outbox = limited(transports={"*": 10.0})
        put_many(outbox, 2)

        def slowly(*given):
            clock.now += 0.06
            return read(*given)

        read = claims.read
        monkeypatch.setattr(claims, "read", slowly)
        begins_at = [each.turn.begins_at for each in take(outbox)]
        assert begins_at == pytest.approx([EPOCH, EPOCH + 0.1], abs=1e-5)

    def test_no_turn_is_given_that_would_be_over_before_the_end_of_the_claim(self, limited):
        outbox = limited(transports={"*": 10.0})
        put_many(outbox, 2)
        claimed = take_by(TWO_WAYS, outbox, takes=0.3)
        begins_at = [each.turn.begins_at for each in claimed]
        assert begins_at == pytest.approx([EPOCH + 0.3, EPOCH + 0.4], abs=1e-5)

    @pytest.mark.parametrize(("rate", "patience"), [(100.0, TOO_LATE), (1.0, 0.25), (0.01, 25.0)])
    def test_who_goes_seldom_may_be_late_by_more(self, limited, rate, patience):
        outbox = limited(transports={"*": rate})
        put_many(outbox, 1)
        (one,) = take(outbox)
        assert one.turn == pytest.approx((EPOCH, EPOCH + patience), abs=1e-5)

    def test_what_is_limited_only_in_number_has_no_turn(self, limited):
        outbox = limited(at_once={"*": 5}, domains_at_once={"*": 5})
        put_many(outbox, 2)
        assert [each.turn for each in take(outbox)] == [None, None]

    def test_a_claim_whose_commit_was_in_doubt_gives_turns_too(self, limited, monkeypatch):
        outbox = limited(transports={"*": 10.0})
        put_many(outbox, 2)
        begin = outbox.begin

        @contextmanager
        def cut(**said):
            monkeypatch.setattr(outbox, "begin", begin)
            with begin(**said) as connection:
                yield connection
            raise InDoubt("it is done, and nobody said so")

        monkeypatch.setattr(outbox, "begin", cut)
        assert [each.turn is None for each in take_by(TWO_WAYS, outbox)] == [False, False]

    @pytest.mark.parametrize("fault", [Fault.OURS, Fault.NONE])
    def test_what_did_not_leave_gives_its_turn_to_another(self, limited, fault):
        outbox = limited(
            transports={"*": 1 / 60}, domains={"gmail.com": 1 / 60}, warm_up={"example.com": EPOCH}
        )
        flood(outbox, 1)
        say(outbox, begin(outbox)[0], Deferred("503", fault))
        with outbox.read() as connection:
            times = connection.execute(select(rate.c.next_at)).scalars().all()
        assert times == pytest.approx([EPOCH] * 3, abs=1e-5)

    @pytest.mark.parametrize("told", [(ANN, Deferred("451 later")), (BOB, OUR_FAULT)])
    def test_what_left_or_may_have_does_not(self, limited, told):
        outbox = limited(transports={"*": 1 / 60})
        flood(outbox, 1, ANN, BOB)
        (begun,) = begin(outbox)
        record(outbox, [Report(begun, Receipt([told]))], lambda: 0.5)
        with outbox.read() as connection:
            assert connection.execute(select(rate.c.next_at)).scalar() > EPOCH + 59.0

    @pytest.mark.parametrize("how", ["released", "reclaimed"])
    def test_who_gives_back_a_slot_has_one_again_soon(self, limited, clock, how):
        outbox = limited(domains={"gmail.com": 1.0})
        row = flood(outbox, 150)[90]
        while row not in ids(claimed := take(outbox)):
            for each in start(outbox, claimed):
                say(outbox, each, Accepted("250"))
            clock.now = next_due(outbox, ["default"])
        if how == "released":
            release(outbox, claimed)
        else:
            clock.now += outbox.lease + 1.0
            reclaim(outbox)
        assert row in ids(take(outbox)) or look(outbox, row).due_at < clock.now + 3.0

    def test_a_mail_in_doubt_that_waits_for_its_route_takes_nobodys_turn(self, limited, clock):
        outbox = limited(transports={"*": 1 / 60})
        doubt = put(outbox)
        say(outbox, start(outbox, take_by(TWO_WAYS, outbox))[0], Unclear("no answer"))
        due_at = look(outbox, doubt).due_at
        clock.now = due_at - 61.0
        put(outbox)
        (paused,) = start(outbox, take_by(TWO_WAYS, outbox))
        say(outbox, paused, Deferred("503", Fault.OURS, retry_after=3600.0))
        clock.now = due_at - 0.5
        say(outbox, start(outbox, take_by(TWO_WAYS, outbox))[0], Accepted("250"))
        clock.now = due_at + 60.0
        new = put(outbox)
        assert ids(take_by(TWO_WAYS, outbox)) == [new]

    def test_what_no_limit_concerns_does_not_wait(self, limited):
        outbox = limited(domains={"gmail.com": 1.0})
        put_many(outbox, 2)
        assert [each.turn for each in take(outbox)] == [None, None]

    def test_what_waits_for_its_transport_is_not_moved(self, limited):
        outbox = limited(transports={"*": 10.0})
        put_many(outbox, 30)
        take(outbox)
        assert {each.due_at for each in list_messages(outbox)} == {EPOCH, None}

    def test_many_workers_keep_to_one_rate(self, limited, clock):
        outbox = limited(transports={"*": 100.0})
        put_many(outbox, 200)
        together = threading.Barrier(4)

        def claims(_):
            together.wait(30)
            return sum(len(take(outbox)) for _ in range(3))

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(claims, range(4))) == 51
            clock.now += 0.25
            assert sum(pool.map(claims, range(4))) == pytest.approx(25, abs=1)

    def test_a_rate_is_used_up_by_who_looks_often_enough(self, limited, clock):
        outbox = limited(transports={"*": 100.0})
        put_many(outbox, 400)
        times = pass_the_time(outbox, clock, 2.0)
        assert sum(each < EPOCH + 2.0 for each in times) == pytest.approx(200, abs=5)

    def test_each_transport_has_its_own(self, limited):
        outbox = limited(transports={"default": 1.0, "*": 2.0})
        flood(outbox, 3)
        other = flood(outbox, 3, transport="other")
        took = take(outbox, transports=["default", "other"])
        assert len(took) == 3
        assert take(outbox, transports=["default"]) == []
        assert set(ids(took)) & set(other)

    def test_urgent_mail_goes_first_within_the_rate(self, limited, clock):
        outbox = limited(transports={"*": 1.0})
        put_many(outbox, 3)
        take(outbox)
        urgent = put(outbox, priority=Priority.URGENT)
        clock.now += 1.0
        assert ids(take(outbox)) == [urgent]

    def test_no_more_at_once_than_is_set(self, limited):
        outbox = limited(at_once={"default": 2})
        put_many(outbox, 5)
        held = begin(outbox)
        assert len(held) == 2
        assert take(outbox) == []
        say(outbox, held[0], Accepted("250"))
        assert len(take(outbox)) == 1

    def test_many_workers_keep_to_one_number(self, limited):
        outbox = limited(at_once={"*": 3})
        put_many(outbox, 50)
        together = threading.Barrier(4)

        def claims(_):
            together.wait(30)
            return len(take(outbox))

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(claims, range(4))) == 3

    def test_what_is_given_back_makes_room(self, limited):
        outbox = limited(at_once={"*": 1})
        put_many(outbox, 2)
        release(outbox, take(outbox))
        assert len(take(outbox)) == 1

    # --- of a domain ---

    def test_a_row_over_the_rate_of_its_domain_leaves_the_head_of_the_queue(self, limited, clock):
        outbox = limited(domains={"gmail.com": 1.0})
        put_in = flood(outbox, 5)
        assert ids(take(outbox)) == put_in[:1]
        slots = [look(outbox, each).due_at - EPOCH for each in put_in[1:]]
        assert slots == pytest.approx([0.75, 1.75, 2.75, 3.75], abs=1e-5)
        assert look(outbox, put_in[1]).reason == "over the limit to gmail.com by default"
        assert next_due(outbox, ["default"]) == look(outbox, put_in[1]).due_at
        clock.now += 1.0
        assert ids(take(outbox)) == put_in[1:2]

    def test_waiting_for_a_slot_costs_no_attempt_and_no_patience(self, limited, clock):
        outbox = limited(domains={"gmail.com": 1 / 86400})
        flood(outbox, 1)
        take(outbox)
        for _ in range(4):
            flood(outbox, 1)
        take(outbox)
        last = list_messages(outbox)[0]
        assert last.due_at == pytest.approx(EPOCH + 4 * DAY, abs=1.0)
        assert (last.state, last.attempts) == (State.QUEUED, 0)
        for _ in range(4):
            clock.now = next_due(outbox, ["default"])
            held = begin(outbox)
        say(outbox, held[0], Deferred("450 full"))
        assert look(outbox, last.id).state is State.QUEUED

    def test_a_flood_to_one_domain_does_not_hold_up_anothers_mail(self, limited):
        outbox = limited(domains={"gmail.com": 10.0})
        flood(outbox, 3000)
        other = put(outbox)
        assert other in ids(take(outbox) + take(outbox))

    def test_a_claim_names_what_it_moved_since_there_may_be_more_behind_it(self, limited):
        outbox = limited(domains={"gmail.com": 1.0})
        put_in, other, moved = flood(outbox, 5), put(outbox), []
        asked = {"transports": ["default"], "limit": 6, "worker": "w1"}
        got = ids(claims.claim(outbox, **asked, moved=moved))
        assert got == [put_in[0], other]
        assert moved == put_in[1:]
        assert claims.claim(outbox, **asked, moved=moved) == []
        assert moved == put_in[1:]

    def test_each_of_a_flood_is_moved_once(self, limited, clock):
        outbox = limited(domains={"gmail.com": 100.0})
        put_in = flood(outbox, 300)
        assert len(take(outbox) + take(outbox)) == 51
        before = {each: look(outbox, each).due_at for each in put_in}
        assert len(pass_the_time(outbox, clock, 1.0)) == pytest.approx(75, abs=5)
        waiting = [each for each in put_in if look(outbox, each).state is State.QUEUED]
        assert len(waiting) > 150
        assert all(look(outbox, each).due_at == before[each] for each in waiting)

    def test_all_of_a_flood_leaves_in_the_time_that_it_takes(self, limited, clock):
        outbox = limited(domains={"*": 100.0})
        flood(outbox, 200)
        times = pass_the_time(outbox, clock, 2.2)
        assert len(times) == 200
        assert times[-1] - EPOCH == pytest.approx(2.0, abs=0.06)

    def test_many_workers_keep_to_the_rate_of_a_domain(self, limited, clock):
        outbox = limited(domains={"gmail.com": 100.0})
        flood(outbox, 200)
        together = threading.Barrier(4)

        def claims(_):
            together.wait(30)
            return len(take(outbox, 50))

        with ThreadPoolExecutor(4) as pool:
            counts = [sum(pool.map(claims, range(4)))]
            for _ in range(20):
                clock.now += 0.025
                counts.append(sum(pool.map(claims, range(4))))
        assert 70 <= sum(counts) <= 101

    def test_a_mail_to_several_counts_for_each_of_its_domains(self, limited):
        outbox = limited(domains={"gmail.com": 1.0, "example.org": 1.0})
        flood(outbox, 1, ANN, ADA, BOB)
        assert len(take(outbox)) == 1
        flood(outbox, 1)
        put(outbox)
        assert take(outbox) == []

    def test_a_mail_to_several_waits_for_all_of_them(self, limited, clock):
        outbox = limited(domains={"gmail.com": 1.0, "example.org": 10.0})
        flood(outbox, 1)
        put(outbox)
        take(outbox)
        (both,) = flood(outbox, 1, ANN, ADA)
        assert take(outbox) == []
        assert look(outbox, both).due_at == pytest.approx(EPOCH + 0.75, abs=1e-5)
        clock.now += 1.0
        assert ids(take(outbox)) == [both]

    def test_urgent_mail_passes_those_that_have_slots(self, limited, clock):
        outbox = limited(domains={"gmail.com": 1.0})
        put_in = flood(outbox, 50)
        take(outbox)
        (urgent,) = flood(outbox, 1, priority=Priority.URGENT)
        assert take(outbox) == []
        assert look(outbox, urgent).due_at == pytest.approx(EPOCH + 0.75, abs=1e-5)
        clock.now += 1.0
        assert ids(take(outbox)) == [urgent]
        missed = look(outbox, put_in[1])  # its slot went to the urgent one
        assert missed.due_at == pytest.approx(EPOCH + 1.75, abs=1e-5)

    def test_normal_mail_passes_bulk_that_has_slots(self, limited, clock):
        outbox = limited(domains={"gmail.com": 10.0})
        flood(outbox, 50, priority=Priority.BULK)
        take(outbox)
        clock.now += 0.1
        (normal,) = flood(outbox, 1)
        assert ids(take(outbox)) == [normal]

    def test_slots_that_passed_while_no_worker_ran_are_handed_out_anew(self, limited, clock):
        outbox = limited(domains={"gmail.com": 1.0})
        put_in = flood(outbox, 100)
        take(outbox)
        clock.now += 3600.0
        assert len(take(outbox)) == 1
        slots = [each.due_at for each in (look(outbox, id_) for id_ in put_in) if each.due_at]
        # One after another, and none for two of them, as among those who missed theirs just now.
        assert [each - clock.now for each in slots] == pytest.approx(
            [0.75 + at for at in range(98)], abs=1e-5
        )

    def test_no_more_to_a_domain_at_once_than_is_set(self, limited, clock):
        outbox = limited(domains_at_once={"gmail.com": 2})
        flood(outbox, 5)
        other = put(outbox)
        held = begin(outbox)
        assert len(held) == 3
        assert other in ids(held)
        clock.now += 1.0
        assert take(outbox) == []
        say(outbox, held[0], Accepted("250"))
        clock.now += 1.0
        assert len(take(outbox)) == 1

    def test_a_transport_has_its_own_rate_for_each_domain(self, limited):
        outbox = limited(domains={"gmail.com": 1.0})
        flood(outbox, 3)
        flood(outbox, 3, transport="other")
        assert len(take(outbox, transports=["default", "other"])) == 2

    def test_what_no_claim_has_room_for_is_given_back_to_its_domain(self, limited, monkeypatch):
        monkeypatch.setattr(claims, "OCTETS_MOST", 100)
        outbox = limited(domains={"*": 10.0})
        content = b"Subject: hello\r\n\r\n" + b"x" * 60
        put(outbox, a_submission(ANN, content=content))
        put(outbox, a_submission(ADA, content=content))
        assert len(take(outbox)) == 1
        assert next_at(outbox) == pytest.approx({"gmail.com": 0.1, "example.org": 0.0}, abs=1e-5)

    def test_what_goes_alone_is_given_back_to_its_domain(self, limited):
        outbox = limited(domains={"*": 10.0})
        flood(outbox, 1)
        alone = put(outbox)
        with outbox.begin() as connection:
            connection.execute(update(message).where(message.c.id == alone).values(alone=True))
        assert len(take(outbox)) == 1
        assert next_at(outbox) == pytest.approx({"gmail.com": 0.1, "example.org": 0.0}, abs=1e-5)

    def test_what_was_looked_at_and_left_costs_nothing(self, limited, clock):
        outbox = limited(domains={"*": 10.0})
        put_in = flood(outbox, 2)
        with outbox.begin() as connection:
            connection.execute(update(message).where(message.c.id == put_in[1]).values(alone=True))
        other = put(outbox)
        assert set(ids(take(outbox))) == {put_in[0], other}
        clock.now += 0.1
        assert ids(take(outbox)) == [put_in[1]]

    def test_where_nothing_is_set_nothing_is_written(self, outbox):
        put_many(outbox, 3)
        say(outbox, begin(outbox)[0], Accepted("250"))
        assert meters_of(outbox) == []

    def test_a_rate_that_is_set_higher_holds_at_once_for_new_mail_too(self, limited, clock):
        outbox = limited(domains={"gmail.com": 1.0})
        flood(outbox, 100)
        take(outbox, 1000)
        outbox.rates = Rates(domains={"gmail.com": 50.0})
        (new,) = flood(outbox, 1)
        times = pass_the_time(outbox, clock, 4.0, step=0.25)
        assert len(times) == 100
        assert all(later - sooner > 0.99 / 50.0 for sooner, later in pairwise(sorted(times)))
        assert look(outbox, new).state is State.ACCEPTED

    def test_a_transport_that_waited_for_a_day_goes_on_when_its_rate_is_set_higher(
        self, limited, clock
    ):
        outbox = limited(transports={"*": 1 / DAY})
        put_many(outbox, 20)
        assert len(take(outbox)) == 1
        outbox.rates = Rates(transports={"*": 100.0})
        assert len(pass_the_time(outbox, clock, 1.0, step=0.25)) == 19

    def test_while_workers_with_an_old_and_a_higher_rate_claim_in_turns_none_is_exceeded(
        self, limited, clock
    ):
        outbox = limited()
        put_many(outbox, 100)
        times = []
        while clock.now < EPOCH + 2.0:
            for rate_ in (10.0, 20.0, 20.0):
                outbox.rates = Rates(transports={"*": rate_})
                times += [each.turn.begins_at for each in take(outbox)]
            clock.now += 0.125
        assert len(times) > 25
        assert most_in_a_second(times) <= 21

    def test_turns_that_are_yet_to_come_count_when_a_rate_is_set_higher_again_and_again(
        self, limited
    ):
        outbox = limited(transports={"*": 10.0})
        put_many(outbox, 200)
        times = [each.turn.begins_at for each in take(outbox)]
        for rate_ in (20.0, 30.0, 40.0):
            outbox.rates = Rates(transports={"*": rate_})
            times += [each.turn.begins_at for each in take(outbox)]
        assert times == pytest.approx([EPOCH + n / 10 for n in range(6)], abs=1e-5)

    @pytest.mark.parametrize("step", [-35.0, -55.0, -61.0])
    def test_a_clock_that_is_set_back_stops_no_transport(self, limited, clock, step):
        outbox = limited(transports={"*": 100.0})
        put_many(outbox, 200)
        begin(outbox)
        clock.now += step
        reclaim(outbox)
        assert take(outbox) != []

    def test_any_number_of_limits_is_found(self, outbox):
        limits = {f"to d{number}.example by default": Limit(1.0) for number in range(70_000)}
        with outbox.begin() as connection:
            assert locked(connection, limits, EPOCH, ()) == {}

    def test_mail_that_two_limits_hold_exceeds_neither(self, limited, clock):
        outbox = limited(transports={"*": 50.0}, domains={"gmail.com": 20.0})
        flood(outbox, 150)
        put_many(outbox, 150)
        times: dict[str, list[float]] = {"gmail.com": [], "any": []}
        until = clock.now + 6.0
        while clock.now < until:
            for each in take(outbox):
                times["any"].append(each.turn.begins_at)
                if each.recipients == (ANN,):
                    times["gmail.com"].append(each.turn.begins_at)
            clock.now += 0.25
        for name, rate_ in (("any", 50.0), ("gmail.com", 20.0)):
            its = sorted(times[name])
            assert len(its) > 50
            assert all(later - sooner > 0.99 / rate_ for sooner, later in pairwise(its))

    def test_urgent_mail_does_not_stand_behind_high_mail(self, limited, clock):
        outbox = limited(domains={"gmail.com": 1.0})
        flood(outbox, 200, priority=Priority.HIGH)
        take(outbox, 400)
        urgent = flood(outbox, 2, priority=Priority.URGENT)
        take(outbox)
        slots = [look(outbox, id_).due_at - clock.now for id_ in urgent]
        assert slots == pytest.approx([0.75, 1.75], abs=1e-5)

    def test_patience_does_not_end_while_a_mail_waits_for_us(self, limited, clock):
        outbox = limited(domains={"gmail.com": 5 / DAY})
        put_in = flood(outbox, 20)
        take(outbox, 1000)
        last = put_in[-1]
        for _ in range(2):
            clock.now = look(outbox, last).due_at + 0.5
            while last not in ids(taken := begin_by(outbox, ["default"])):
                clock.now += 12000.0
            say(outbox, next(each for each in taken if each.id == last), Deferred("451 later"))
            clock.now = look(outbox, last).due_at
            take(outbox, 1000)
        assert look(outbox, last).state is State.QUEUED

    @pytest.mark.parametrize(
        ("attempts", "due", "lost"),
        [(0, 100.0, 250.0), (1, 100.0, 50.0), (1, 230.0, 20.0), (1, 260.0, -10.0)],
    )
    def test_a_slot_lengthens_patience_by_what_a_mail_loses_to_it(
        self, outbox, attempts, due, lost
    ):
        row, now = put(outbox), EPOCH + 200.0
        values = {"attempts": attempts, "first_due": EPOCH, "due_at": EPOCH + due}
        with outbox.begin() as connection:
            connection.execute(update(message).values(values))
            term = slots.move(row, EPOCH + 250.0 + slots.EARLY, "it", now)
            assert slots.MOVE.run(connection, [term]) == 1
            found = connection.execute(select(message.c.first_due, message.c.due_at)).one()
        assert tuple(found) == (EPOCH + lost, EPOCH + 250.0)

    def test_a_cancelled_mail_has_no_slot(self, limited, clock):
        outbox = limited(domains={"gmail.com": 1.0})
        put_in = flood(outbox, 2)
        take(outbox)
        assert cancel(outbox, put_in[1])
        clock.now += 1.0
        assert take(outbox) == []

    # --- slots that nobody waits for ---

    def test_when_all_that_wait_are_cancelled_the_next_one_goes_at_once(self, limited, clock):
        outbox = limited(domains={"gmail.com": 1.0})
        for id_ in flood(outbox, 200):
            take(outbox)
            cancel(outbox, id_)
        clock.now += 2.0
        assert bring_forward(outbox).moved == 0
        new = flood(outbox, 1)
        assert ids(take(outbox)) == new

    def test_who_stands_behind_those_that_were_cancelled_comes_sooner_in_order(
        self, limited, clock
    ):
        outbox = limited(domains={"gmail.com": 1.0})
        put_in = flood(outbox, 200)
        bulk = flood(outbox, 100, priority=Priority.BULK)
        take(outbox, 400)
        for id_ in put_in[:150:2] + put_in[1:150:3]:
            cancel(outbox, id_)
        clock.now += 2.0
        left = [id_ for id_ in put_in if look(outbox, id_).state is State.QUEUED]
        assert bring_forward(outbox).moved > 50
        slots = [look(outbox, id_).due_at for id_ in left]
        assert slots == sorted(slots)
        assert slots[-1] <= clock.now + len(left) + 10.0
        assert look(outbox, bulk[-1]).due_at == pytest.approx(EPOCH + 100 - 0.25, abs=1.0)
        (new,) = flood(outbox, 1)
        take(outbox)
        assert slots[-1] < look(outbox, new).due_at < slots[-1] + 2.0
        assert len(pass_the_time(outbox, clock, len(left), step=0.5)) >= len(left) - 2

    def test_while_a_limit_is_used_up_nobody_is_moved(self, limited, clock):
        outbox = limited(domains={"gmail.com": 1.0})
        put_in = flood(outbox, 200)
        take(outbox, 400)
        assert bring_forward(outbox).moved == 0
        clock.now += 2.0
        assert bring_forward(outbox).moved == 0
        due = look(outbox, put_in[-1]).due_at
        assert due == pytest.approx(EPOCH + 199 - 0.25, abs=1e-5)

    def test_what_waits_for_something_else_stays_where_it_is(self, limited, clock):
        outbox = limited(domains={"gmail.com": 1.0})
        scheduled = flood(outbox, 3, at=EPOCH + 50.0)
        [first, *others] = flood(outbox, 200)
        say(outbox, begin(outbox)[0], Deferred("451 later", retry_after=600.0))
        for id_ in others:
            cancel(outbox, id_)
        waits = [look(outbox, id_).due_at for id_ in (first, *scheduled)]
        clock.now += 2.0
        assert bring_forward(outbox).moved == 0
        assert [look(outbox, id_).due_at for id_ in (first, *scheduled)] == waits

    def test_when_a_rate_is_set_higher_who_waits_comes_sooner(self, limited, clock):
        outbox = limited(domains={"gmail.com": 1.0})
        put_in = flood(outbox, 200)
        take(outbox, 400)
        clock.now += 2.0
        outbox.rates = Rates(domains={"gmail.com": 100.0})
        assert bring_forward(outbox).moved > 150
        assert bring_forward(outbox).moved == 0
        assert look(outbox, put_in[-1]).due_at < clock.now + 10.0

    def test_a_domain_that_is_warmed_up_closes_up_over_all_transports(self, limited, clock):
        outbox = limited(warm_up={"example.com": EPOCH})
        first = flood(outbox, 20)
        second = flood(outbox, 20, transport="bulk")
        take(outbox, 100, transports=["default", "bulk"])
        for id_ in first:
            cancel(outbox, id_)
        clock.now += DAY / 50 + 1.0
        assert bring_forward(outbox).moved > 0
        left = [id_ for id_ in second if look(outbox, id_).state is State.QUEUED]
        slots = [look(outbox, id_).due_at for id_ in left]
        assert slots[0] <= clock.now + 1.0
        assert slots[-1] <= clock.now + len(left) * DAY / 50

    def test_who_looks_for_room_does_so_for_a_moment_and_goes_on_next_time(
        self, limited, clock, monkeypatch
    ):
        outbox = limited(domains={"*": 1.0})
        domains = [f"{name}.example" for name in "abc"]
        for each in domains:
            for id_ in flood(outbox, 200, f"ann@{each}")[:150]:
                take(outbox, 1000)
                cancel(outbox, id_)
        clock.now += 2.0
        looked = slots.Looked(0)
        moved = []
        for _ in domains:
            times_told = iter((0.0, BOUND + 1.0))  # it is over before the first was looked at
            told = SimpleNamespace(monotonic=times_told.__next__)
            monkeypatch.setattr(slots, "time", told)
            looked = bring_forward(outbox, looked.after)
            moved.append(looked.moved)
        assert moved == [50, 50, 50]

    # --- of a sending domain ---

    def test_a_new_domain_is_warmed_up_and_urgent_mail_passes(self, limited, clock):
        outbox = limited(warm_up={"example.com": EPOCH})
        put_in = put_many(outbox, 3)
        urgent = put(outbox, priority=Priority.URGENT)
        other = put(outbox, a_submission(sender="a@example.net"))
        assert set(ids(take(outbox))) == {urgent, other}
        waits = [look(outbox, each).due_at for each in put_in]
        assert waits[0] == pytest.approx(EPOCH + DAY / 50)
        assert waits[2] == pytest.approx(EPOCH + 3 * DAY / 50)
        clock.now = waits[0]
        assert ids(take(outbox)) == put_in[:1]

    def test_urgent_mail_of_a_new_domain_goes_at_once_whatever_went_before(self, limited):
        outbox = limited(warm_up={"example.com": EPOCH})
        assert len(take(outbox, 100)) == 0
        put_many(outbox, 1)
        assert len(take(outbox)) == 1
        urgent = [put(outbox, priority=Priority.URGENT) for _ in range(4)]
        claimed = take(outbox)
        assert sorted(ids(claimed)) == sorted(urgent)
        assert [each.turn for each in claimed] == [None] * 4

    # --- who comes again ---

    @pytest.mark.parametrize("fault", [Fault.OURS, Fault.TRANSIENT])
    def test_who_is_tried_again_does_not_stand_behind_all_who_came_since(
        self, limited, clock, fault
    ):
        outbox = limited(domains={"gmail.com": 1.0})
        flood(outbox, 200)
        [first] = begin(outbox)
        say(outbox, first, Deferred("away", fault))
        clock.now = max(clock.now + 1.5, look(outbox, first.id).due_at)
        flood(outbox, 200)
        seconds = 0
        while first.id not in ids(take(outbox)):
            clock.now, seconds = clock.now + 1.0, seconds + 1
            assert seconds < 60

    def test_a_new_domain_is_warmed_up_over_all_transports_together(self, limited):
        outbox = limited(warm_up={"example.com": EPOCH})
        first, second = flood(outbox, 2)
        [third] = flood(outbox, 1, transport="bulk")
        assert ids(take(outbox)) == [first]
        assert take(outbox, transports=["bulk"]) == []
        waits = [look(outbox, row).due_at for row in (second, third)]
        assert waits == [pytest.approx(EPOCH + n * DAY / 50) for n in (1, 2)]

    # --- slowed by itself ---

    def test_a_domain_that_says_so_is_slowed_and_no_other(self, outbox, clock):
        flood(outbox, 30)
        others = put_many(outbox, 30)
        first = begin(outbox, 1)
        say(outbox, first[0], BUSY)
        assert len(take(outbox)) == len(others) + 6
        clock.now += 0.4
        assert len(take(outbox)) == 1

    def test_what_was_claimed_before_it_was_slowed_slows_it_no_more(self, outbox, clock):
        flood(outbox, 5)
        first, *rest = take(outbox)
        say(outbox, start(outbox, [first])[0], BUSY)
        for each in rest:
            clock.now += 1.0
            say(outbox, start(outbox, [each])[0], BUSY)
        assert 10.0 <= stats(outbox).slowed[0].rate < 10.1
        clock.now += 60.0
        say(outbox, begin(outbox, 1)[0], BUSY)
        assert stats(outbox).slowed[0].rate < 6.0

    def test_what_a_domain_does_to_one_transport_is_nothing_to_another(self, outbox):
        flood(outbox, 3)
        flood(outbox, 10, transport="other")
        say(outbox, begin(outbox, 1)[0], BUSY)
        assert len(take(outbox, transports=["other"])) == 10

    def test_a_batch_that_is_told_so_together_is_slowed_once(self, limited):
        outbox = limited(domains={"gmail.com": 100.0})
        flood(outbox, 20)
        for each in begin(outbox):
            say(outbox, each, BUSY)
        (found,) = stats(outbox).slowed
        assert (found.name, found.rate, found.until) == ("to gmail.com by default", 50.0, None)
        assert found.reason == "421 4.7.0 too fast"

    def test_it_comes_back_slowly_and_is_told_no_more_then(self, limited, clock):
        outbox = limited(domains={"gmail.com": 100.0})
        flood(outbox, 1)
        say(outbox, begin(outbox)[0], BUSY)
        clock.now += DOUBLES_IN / 2
        assert stats(outbox).slowed[0].rate == pytest.approx(50.0 * 2**0.5)
        clock.now += DOUBLES_IN / 2
        assert stats(outbox).slowed == ()
        flood(outbox, 50)
        assert len(pass_the_time(outbox, clock, 0.6)) == 51  # with the one that was deferred

    def test_a_domain_without_a_limit_is_free_again_after_a_while(self, outbox, clock):
        flood(outbox, 1)
        say(outbox, begin(outbox)[0], BUSY)
        clock.now += 4 * DOUBLES_IN
        flood(outbox, 100)
        assert len(take(outbox, 200)) >= 100

    def test_retry_after_closes_a_domain_and_no_other(self, outbox, clock):
        put_in = flood(outbox, 3)
        say(outbox, begin(outbox, 1)[0], Deferred("450 later", retry_after=60.0))
        other = put(outbox)
        (urgent,) = flood(outbox, 1, priority=Priority.URGENT)
        assert ids(take(outbox)) == [other]
        assert stats(outbox).slowed[0].until == EPOCH + 60.0
        assert {look(outbox, each).due_at > EPOCH + 59.7 for each in [*put_in, urgent]} == {True}
        clock.now += 60.0
        assert ids(take(outbox))[0] == urgent

    def test_our_own_fault_slows_no_domain(self, outbox):
        flood(outbox, 1)
        say(outbox, begin(outbox)[0], Deferred("421 away", Fault.OURS))
        assert meters_of(outbox) == []

    def test_what_a_zombie_says_slows_nothing(self, outbox, clock):
        flood(outbox, 2)
        (zombie,) = begin(outbox, 1)
        clock.now += outbox.lease
        reclaim(outbox)
        say(outbox, zombie, BUSY)
        assert meters_of(outbox) == []

    def test_that_it_is_slower_is_one_line_of_the_log(self, outbox, caplog):
        caplog.set_level(logging.WARNING)
        flood(outbox, 5)
        for each in begin(outbox):
            say(outbox, each, BUSY)
        assert [each.getMessage() for each in caplog.records] == [
            "Slower to gmail.com by default: 10/s after '421 4.7.0 too fast'"
        ]

    # --- the rows ---

    def test_a_limit_that_nobody_needs_is_forgotten(self, limited, clock):
        outbox = limited(domains={"*": 10.0}, transports={"*": 50.0})
        put_many(outbox, 2)
        take(outbox)
        clock.now += IDLE
        assert len(meters_of(outbox)) == 2
        prune(outbox, content_after=None, rows_after=None)
        assert meters_of(outbox) == []

    def test_but_none_that_still_holds_something(self, limited, clock):
        outbox = limited(domains={"gmail.com": 1 / DAY})
        flood(outbox, 4)
        take(outbox)
        clock.now += IDLE + 1
        prune(outbox, content_after=None, rows_after=None)
        assert len(meters_of(outbox)) == 1

    @pytest.mark.parametrize("step", [-3600.0, -365 * DAY])
    def test_a_slot_does_not_outlive_a_step_of_the_clock(self, limited, clock, step):
        outbox = limited(domains={"gmail.com": 0.1}, transports={"*": 100.0})
        flood(outbox, 3)
        take(outbox)
        clock.now += step
        reclaim(outbox)
        assert len(take(outbox)) == 1
        assert all(
            each.due_at - clock.now < 60.0
            for each in list_messages(outbox)
            if each.state is State.QUEUED
        )

    def test_the_limits_of_a_wide_batch_are_found_with_few_statements(self, limited):
        outbox = limited(domains={"*": 10.0})
        for number in range(60):
            put(outbox, a_submission(f"ada@example{number}.org"))
        assert len(take(outbox)) == 60
        with outbox.read() as connection:
            assert connection.execute(select(func.count()).select_from(rate)).scalar_one() == 60
