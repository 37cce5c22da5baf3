"""A transport of several routes: chosen at the claim, stored, and kept by what may have left."""

import logging
from collections import Counter

import pytest

from contract.outbox_ground import Ground
from flask_outbox.mail.exchange import Report
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Refused, Unclear
from flask_outbox.mail.route import Routing
from flask_outbox.mail.submission import Receipt
from flask_outbox.outbox.claim import claim, has_open, next_due, reclaim, release, start
from flask_outbox.outbox.enqueue import Priority
from flask_outbox.outbox.record import record
from flask_outbox.outbox.routes import ABOUT_TO_START, NO_ROUTE
from flask_outbox.outbox.stats import stats
from flask_outbox.outbox.status import cancel, retry
from flask_outbox.outbox.waiting import due_besides
from outbox_mail import ADA, BOB, EPOCH, a_submission, look, put, put_many, say

OURS = Deferred("connection refused", Fault.OURS)
FAILOVER = Routing("default", ({"first": 1.0}, {"second": 1.0}))
SHARED = Routing("default", ({"big": 3.0, "small": 1.0},))
BEHIND = Routing("default", ({"big": 3.0, "small": 1.0}, {"second": 1.0}))
ONLY_SECOND = Routing("default", ({"second": 1.0},))


def take(outbox, routing=FAILOVER, limit=100, full=()):
    return claim(
        outbox,
        transports=["default"],
        limit=limit,
        worker="w",
        routing=lambda _name: routing,
        full=full,
    )


def begin(outbox, routing=FAILOVER, limit=100):
    return start(outbox, take(outbox, routing, limit))


def routes(submissions):
    return Counter(each.route for each in submissions)


def fail(outbox, submissions, outcome=OURS):
    reports = [Report(each, Receipt.same(each, outcome)) for each in submissions]
    return record(outbox, reports, lambda: 0.5)


class FailoverContract(Ground):
    def test_the_preferred_route_is_given_and_stored(self, outbox):
        (row,) = put_many(outbox, 1)
        (mine,) = take(outbox)
        assert (mine.route, look(outbox, row).route) == ("first", "first")

    def test_the_mail_is_shared_by_the_weights(self, outbox):
        put_many(outbox, 100)
        assert routes(take(outbox, SHARED)) == {"big": 75, "small": 25}

    def test_our_own_fault_sends_the_next_attempt_by_the_other_route_at_once(self, outbox):
        (row,) = put_many(outbox, 1)
        fail(outbox, begin(outbox))
        (again,) = begin(outbox)
        assert (again.route, again.attempt) == ("second", 1)  # the first cost it no attempt
        fail(outbox, [again], Accepted("250"))
        assert look(outbox, row).state is State.ACCEPTED

    @pytest.mark.parametrize("outcome", [Refused("550 5.1.1"), Deferred("451 4.7.1 greylisted")])
    def test_a_recipients_fault_leaves_the_route_as_it_is(self, outbox, clock, outcome):
        put_many(outbox, 2)
        (one, other) = begin(outbox)
        fail(outbox, [one], outcome)
        fail(outbox, [other], Accepted("250"))
        put_many(outbox, 1)
        clock.now += 7200
        assert set(routes(take(outbox))) == {"first"}

    def test_what_may_have_left_never_fails_over(self, outbox, clock):
        (row,) = put_many(outbox, 1)
        fail(outbox, begin(outbox), Unclear("no answer after the final dot"))
        put_many(outbox, 1, priority=Priority.URGENT)
        clock.now = look(outbox, row).due_at
        # Its route breaks down by somebody else's mail, just before it is due again.
        (other,) = begin(outbox, limit=1)
        fail(outbox, [other])
        taken = take(outbox)
        assert routes(taken) == {"second": 1}
        assert taken[0].id == other.id
        assert look(outbox, row).due_at == clock.now + 1  # it waits for its own, at its end

    def test_what_may_have_left_goes_again_by_its_own_route(self, outbox, clock):
        (row,) = put_many(outbox, 1)
        fail(outbox, begin(outbox), OURS)
        (mine,) = begin(outbox)
        assert mine.route == "second"
        fail(outbox, [mine], Unclear("no answer"))
        clock.now = look(outbox, row).due_at
        put_many(outbox, 3)
        taken = take(outbox)
        assert {each.route for each in taken if each.id == row} == {"second"}
        # Of the others one probes the first, which was paused, and two are on the safe side.
        assert routes(each for each in taken if each.id != row) == {"first": 1, "second": 2}

    def test_a_definite_failure_after_an_unclear_one_does_not_set_it_free(self, outbox, clock):
        (row,) = put_many(outbox, 1)
        fail(outbox, begin(outbox), Unclear("no answer"))
        clock.now = look(outbox, row).due_at
        fail(outbox, begin(outbox), OURS)
        assert take(outbox) == []
        clock.now = look(outbox, row).due_at
        assert routes(take(outbox)) == {"first": 1}

    def test_what_was_on_the_line_when_its_worker_died_goes_by_the_same_route(self, outbox, clock):
        put_many(outbox, 1)
        begin(outbox)
        clock.now += 31
        (dead,) = reclaim(outbox)
        put_many(outbox, 1, priority=Priority.URGENT)
        clock.now = look(outbox, dead.submission.id).due_at
        fail(outbox, begin(outbox, limit=1))  # the first is paused by the urgent one
        assert dead.submission.id not in {each.id for each in take(outbox)}

    def test_what_was_claimed_and_not_begun_is_free_to_take_another(self, outbox):
        put_many(outbox, 2)
        one, other = take(outbox)
        release(outbox, [other])
        fail(outbox, start(outbox, [one]))
        assert routes(take(outbox)) == {"second": 2}

    def test_a_route_comes_back_by_a_probe_of_the_least_urgent(self, outbox, clock):
        put_many(outbox, 1)
        fail(outbox, begin(outbox))
        fail(outbox, begin(outbox), Accepted("250"))
        put_many(outbox, 3, priority=Priority.URGENT)
        (bulk,) = put_many(outbox, 1, priority=Priority.BULK)
        clock.now += 1
        taken = take(outbox)
        assert {each.id for each in taken if each.route == "first"} == {bulk}
        put_many(outbox, 5)
        assert set(routes(take(outbox))) == {"second"}  # while the probe is under way
        (probe,) = [each for each in taken if each.route == "first"]
        fail(outbox, start(outbox, [probe]), Accepted("250"))
        put_many(outbox, 5)
        assert set(routes(take(outbox))) == {"first"}

    def test_while_all_routes_are_paused_nothing_is_claimed_until_the_first_is_over(
        self, outbox, clock
    ):
        put_many(outbox, 3)
        fail(outbox, begin(outbox, limit=1), Deferred("503", Fault.OURS, 60.0))
        fail(outbox, begin(outbox, limit=1), Deferred("503", Fault.OURS, 20.0))
        assert take(outbox) == []
        assert next_due(outbox, ["default"], lambda _name: FAILOVER) == EPOCH + 20
        clock.now += 20
        assert routes(take(outbox)) == {"second": 1}

    def test_half_an_hour_of_503_parks_no_mail(self, outbox, clock):
        """With and without another route, by a clock that is passed in."""
        alone = put(outbox, a_submission(transport="alone"))
        until = clock.now + 1800
        rows = []
        while clock.now < until:
            rows += put_many(outbox, 1)
            for name, routing in (("alone", Routing.single("alone")), ("default", FAILOVER)):
                claimed = claim(
                    outbox,
                    transports=[name],
                    limit=10,
                    worker="w",
                    routing=lambda _name, routing=routing: routing,
                )
                for each in start(outbox, claimed):
                    goes = each.route == "second"
                    fail(outbox, [each], Accepted("250") if goes else Deferred("503", Fault.OURS))
            clock.now += 10
        fail(outbox, begin(outbox), Accepted("250"))
        assert {look(outbox, row).state for row in rows} == {State.ACCEPTED}  # carried by failover
        waiting = look(outbox, alone)
        assert (waiting.state, waiting.attempts) == (State.QUEUED, 0)
        clock.now += 60
        (mine,) = claim(outbox, transports=["alone"], limit=9, worker="w")
        fail(outbox, start(outbox, [mine]), Accepted("250"))
        assert look(outbox, alone).state is State.ACCEPTED

    def test_a_recipient_who_was_reached_is_not_written_to_by_the_other_route(self, outbox):
        put(outbox, a_submission(ADA, BOB))
        (mine,) = begin(outbox)
        say(outbox, mine, {ADA: Accepted("250"), BOB: OURS})
        put_many(outbox, 1)
        # One that was accepted is a sign of life: the route is not paused, so it may go again.
        again = next(each for each in take(outbox) if each.recipients != (ADA,))
        assert again.recipients == (BOB,)

    def test_what_may_have_left_by_a_route_that_is_gone_waits_for_a_person(
        self, outbox, clock, caplog
    ):
        (row,) = put_many(outbox, 1)
        fail(outbox, begin(outbox), Unclear("no answer"))
        clock.now = look(outbox, row).due_at
        put_many(outbox, 1)
        with caplog.at_level(logging.ERROR, "flask_outbox.outbox"):
            taken = take(outbox, ONLY_SECOND)
        assert row not in {each.id for each in taken}
        assert len(taken) == 1  # it stands in nobody's way
        assert look(outbox, row).due_at == clock.now + NO_ROUTE
        assert row in caplog.text
        assert "route first, which is not one of those configured" in caplog.text
        assert cancel(outbox, row)
        assert retry(outbox, row)
        assert {each.id: each.route for each in take(outbox, ONLY_SECOND)}[row] == "second"

    def test_what_is_held_by_its_route_leaves_the_head_of_the_queue(self, outbox, clock):
        held = put_many(outbox, 5)
        fail(outbox, begin(outbox), Unclear("no answer"))  # five in a row pause the route, too
        clock.now = max(look(outbox, row).due_at for row in held)
        fail(outbox, begin(outbox, limit=1))
        put_many(outbox, 1)
        assert len(take(outbox, limit=5)) == 1
        assert all(look(outbox, row).due_at > clock.now for row in held[1:])

    def test_of_two_that_may_have_left_one_probes_their_route(self, outbox, clock):
        rows = put_many(outbox, 2)
        fail(outbox, begin(outbox), Unclear("no answer"))
        clock.now = max(look(outbox, row).due_at for row in rows)
        (probe,) = begin(outbox, limit=1)
        fail(outbox, [probe])
        clock.now += 1
        taken = take(outbox)
        assert routes(taken) == {"first": 1}
        (other,) = {*rows} - {each.id for each in taken}
        assert look(outbox, other).due_at == clock.now + ABOUT_TO_START

    def test_two_probes_are_not_under_way_at_once(self, outbox, clock):
        put_many(outbox, 4)
        fail(outbox, begin(outbox, limit=1))
        clock.now += 1
        assert routes(take(outbox, limit=2)) == {"first": 1, "second": 1}
        assert routes(take(outbox)) == {"second": 2}
        clock.now += ABOUT_TO_START  # whoever had it stands in a queue: no probe
        put_many(outbox, 1)
        assert routes(take(outbox)) == {"first": 1}

    def test_a_full_route_leaves_the_mail_to_the_other_of_its_tier(self, outbox):
        put_many(outbox, 20)
        assert routes(take(outbox, SHARED, limit=10, full=["big"])) == {"small": 10}
        assert routes(take(outbox, SHARED, limit=8)) == {"big": 6, "small": 2}

    @pytest.mark.parametrize(
        ("routing", "full"),
        [
            pytest.param(FAILOVER, ["first"], id="alone in its tier"),
            pytest.param(BEHIND, ["big", "small"], id="all of a tier"),
            pytest.param(BEHIND, ["big", "small", "second"], id="all"),
        ],
    )
    def test_a_tier_that_is_full_is_no_reason_to_fail_over(self, outbox, routing, full):
        rows = put_many(outbox, 3)
        other = put(outbox, a_submission(transport="other"))
        taken = claim(
            outbox,
            transports=["default", "other"],
            limit=9,
            worker="w",
            routing=lambda name: routing if name == "default" else Routing.single(name),
            full=full,
        )
        assert [each.id for each in taken] == [other]
        assert all(look(outbox, row).due_at == EPOCH for row in rows)

    def test_while_the_other_of_its_tier_is_paused_a_full_route_is_waited_for(self, outbox):
        put_many(outbox, 4)
        fail(outbox, begin(outbox, BEHIND, limit=1))  # of one mail big or small, by chance
        (paused,) = stats(outbox).routes
        (other,) = {"big", "small"} - {paused.name}
        assert take(outbox, BEHIND, full=[other]) == []
        assert set(routes(take(outbox, BEHIND, full=[paused.name]))) == {other}

    def test_behind_a_tier_that_is_paused_a_full_route_is_waited_for(self, outbox):
        put_many(outbox, 2)
        fail(outbox, begin(outbox, limit=1))
        assert take(outbox, full=["second"]) == []
        assert routes(take(outbox, full=["first"])) == {"second": 2}

    def test_a_route_comes_back_by_a_probe_while_the_other_is_full(self, outbox, clock):
        put_many(outbox, 5)
        fail(outbox, begin(outbox, limit=1))
        clock.now += 1
        assert routes(take(outbox, full=["second"])) == {"first": 1}
        assert take(outbox, full=["second"]) == []  # while it is under way

    def test_a_full_route_is_not_probed(self, outbox, clock):
        put_many(outbox, 5)
        fail(outbox, begin(outbox, limit=1))
        clock.now += 1
        assert routes(take(outbox, limit=2, full=["first"])) == {"second": 2}
        assert take(outbox, full=["first", "second"]) == []
        assert routes(take(outbox, limit=2)) == {"first": 1, "second": 1}

    def test_what_may_have_left_waits_for_its_route_when_that_is_full(self, outbox, clock):
        (row,) = put_many(outbox, 1)
        (mine,) = begin(outbox, SHARED)
        (other,) = {"big", "small"} - {mine.route}
        fail(outbox, [mine], Unclear("no answer"))
        clock.now = look(outbox, row).due_at
        put_many(outbox, 3)
        assert routes(take(outbox, SHARED, full=[mine.route])) == {other: 3}
        assert look(outbox, row).due_at == clock.now + ABOUT_TO_START
        clock.now += ABOUT_TO_START
        assert routes(take(outbox, SHARED)) == {mine.route: 1}

    def test_what_may_have_left_goes_again_by_a_route_behind(self, outbox, clock):
        (row,) = put_many(outbox, 1)
        fail(outbox, begin(outbox))
        fail(outbox, begin(outbox), Unclear("no answer"))
        clock.now = look(outbox, row).due_at
        put_many(outbox, 1)
        (probe,) = begin(outbox, limit=1)
        fail(outbox, [probe], Accepted("250"))
        put_many(outbox, 1)
        assert routes(take(outbox)) == {"first": 1, "second": 1}


class BesidesContract(Ground):
    """Transports that nobody configured: an app's loader knows them."""

    def test_transports_that_have_mail_are_named(self, outbox, clock):
        for name in ("default", "acme", "zeta", "later", "sent"):
            put(outbox, a_submission(transport=name), at=clock.now + 60 * (name == "later"))
        (sent,) = start(outbox, claim(outbox, transports=["sent"], limit=1, worker="w"))
        say(outbox, sent, Accepted("250"))
        assert due_besides(outbox, ["default"]) == ["acme", "zeta"]
        assert next_due(outbox, ["default"], besides=True) == EPOCH
        for name in ("default", "acme", "zeta"):
            claim(outbox, transports=[name], limit=9, worker="w")
        assert due_besides(outbox, ["default"]) == []
        assert next_due(outbox, ["default"], besides=True) == EPOCH + 60
        assert next_due(outbox, ["default"]) is None

    def test_every_priority_is_looked_at(self, outbox):
        for number, priority in enumerate(Priority):
            put(outbox, a_submission(transport=f"t{number}"), priority=priority)
        assert due_besides(outbox, ()) == ["t0", "t1", "t2", "t3"]

    def test_a_tenants_pause_is_no_others(self, outbox, clock):
        for name in ("acme", "zeta"):
            put(outbox, a_submission(transport=name))
            put(outbox, a_submission(transport=name))
        (mine,) = start(outbox, claim(outbox, transports=["acme"], limit=1, worker="w"))
        fail(outbox, [mine])
        assert due_besides(outbox, ()) == ["zeta"]
        claim(outbox, transports=["zeta"], limit=9, worker="w")
        assert next_due(outbox, (), besides=True) == clock.now + 1

    def test_what_waits_for_a_transport_of_no_configuration_is_seen_if_asked_for(self, outbox):
        put(outbox, a_submission(transport="acme"))
        assert not has_open(outbox, ["default"])
        assert has_open(outbox, ["default"], besides=True)
