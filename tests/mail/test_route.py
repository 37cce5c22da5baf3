"""Which route a mail takes, as a rule that needs no database."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_outbox.mail.exchange import Report
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Refused, Unclear
from flask_outbox.mail.route import PAUSE_MOST, Route, RoutePaused, Routing, is_ours, open_from
from flask_outbox.mail.submission import Receipt, Submission

SUBMISSION = Submission(
    sender="shop@example.com",
    recipients=("ada@example.org",),
    content=b"Subject: hi\r\n\r\nhi\r\n",
    message_id="<1@example.com>",
    date=0.0,
)
OURS = Deferred("no route to host", Fault.OURS)
BUSY = Deferred("429 rate limit exceeded", Fault.OURS, 30.0)
FAILOVER = Routing("default", ({"first": 1.0}, {"second": 1.0}))
SHARED = Routing("default", ({"big": 3.0, "small": 1.0}, {"last": 1.0}))


def told(route, outcome, now):
    route.hear(Report(SUBMISSION, Receipt.same(SUBMISSION, outcome)), now)


def told_of_several(route, outcomes, now):
    route.hear(Report(SUBMISSION, Receipt(dict(enumerate(outcomes)))), now)


def test_the_first_tier_is_taken_while_one_of_its_routes_may_be_used():
    assert FAILOVER.choose(["second", "first"], 0.99) == "first"
    assert FAILOVER.choose(["second"], 0.0) == "second"
    assert SHARED.choose(["last", "small"], 0.99) == "small"
    assert SHARED.choose(["last"], 0.5) == "last"
    assert SHARED.choose([], 0.5) is None


def test_within_a_tier_the_weights_decide():
    chosen = Counter(SHARED.choose(SHARED.routes, number / 100) for number in range(100))
    assert chosen == {"big": 75, "small": 25}


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.floats(1e-6, 1e6), min_size=1),
    st.floats(0.0, 1.0, exclude_max=True),
)
def test_whatever_the_weights_and_the_share_a_route_that_fits_is_chosen(weights, share):
    routing = Routing("default", (weights,))
    assert routing.choose(list(weights), share) in weights
    assert sorted(routing.in_order(share)) == sorted(weights)


def test_in_order_each_route_comes_once_and_the_preferred_tier_first():
    assert list(SHARED.in_order(0.0)) == ["big", "small", "last"]
    assert list(SHARED.in_order(0.9)) == ["small", "big", "last"]
    assert list(FAILOVER.in_order(0.9)) == ["first", "second"]


def test_a_transport_of_one_route_has_no_choice():
    single = Routing.single("bulk")
    assert (single.routes, single.has_choice) == (["bulk"], False)
    assert FAILOVER.has_choice


@pytest.mark.parametrize(
    ("outcome", "ours"),
    [
        (OURS, True),
        (Deferred("451 4.7.1 greylisted"), False),
        (Deferred("a neighbour's line broke", Fault.NONE), False),
        (Refused("550 5.1.1 no such user"), False),
        (Unclear("no answer"), False),
        (Accepted("250"), False),
    ],
)
def test_only_our_own_fault_is_a_reason_to_take_another_route(outcome, ours):
    assert is_ours(outcome) is ours


def test_pauses_double_up_to_a_minute_and_one_that_is_accepted_ends_them():
    route, now, waits = Route("default"), 1000.0, []
    for _ in range(9):
        told(route, OURS, now)
        waits.append(route.paused_until - now)
        now = route.paused_until
    assert waits == [1, 2, 4, 8, 16, 32, PAUSE_MOST, PAUSE_MOST, PAUSE_MOST]
    told(route, Accepted("250"), now)
    assert not route.on_probation
    assert not route.paused(now)


@pytest.mark.parametrize(("last", "pause"), [(BUSY, 30.0), (OURS, 1.0)])
def test_who_took_a_part_of_a_mail_and_turned_us_away_is_left_alone_as_asked(last, pause):
    route = Route("default")
    told_of_several(route, [Accepted("200"), last], 1000.0)
    assert (route.paused_until, route.reason) == (1000.0 + pause, last.text)
    assert route.news() == RoutePaused("default", pause, last.text)


def test_who_takes_a_part_of_each_mail_is_not_left_alone_for_longer_each_time():
    route, now = Route("default"), 1000.0
    for _ in range(5):
        told(route, OURS, now)
        now = route.paused_until
    for _ in range(3):
        told_of_several(route, [Accepted("200"), OURS], now)
        assert (route.paused_until - now, route.failures) == (1.0, 1)
        now = route.paused_until


def test_what_was_on_its_way_ends_no_pause_that_was_asked_for():
    route = Route("default")
    told(route, BUSY, 1000.0)
    told(route, Accepted("250"), 1000.5)
    told_of_several(route, [Accepted("200"), OURS], 1001.0)
    assert (route.paused_until, route.failures) == (1030.0, 1)
    told(route, Accepted("250"), 1030.0)
    assert (route.paused(1030.0), route.on_probation) == (False, False)


@pytest.mark.parametrize("failures", range(9))
@pytest.mark.parametrize("later", [0.0, 0.25])
def test_nor_one_that_is_only_a_little_longer_than_ours(failures, later):
    route = Route("default", failures=failures)
    if later:
        told(route, OURS, 1000.0)
    asked = min(2.0**failures, PAUSE_MOST) + 0.5
    told(route, Deferred("429", Fault.OURS, asked), 1000.0 + later)
    told(route, Accepted("250"), 1000.75)
    assert (route.paused_until, route.failures) == (1000.0 + later + asked, failures + 1)


@pytest.mark.parametrize("failures", range(9))
@pytest.mark.parametrize("now", [3.3, 1_764_000_000.1])
def test_but_one_of_ours_it_does(failures, now):
    route = Route("default", failures=failures)
    told(route, OURS, now)
    told(route, Accepted("250"), now + 0.5)
    assert (route.paused_until, route.failures) == (None, 0)


def test_who_takes_a_part_of_each_mail_eats_no_answers():
    route = Route("default")
    for _ in range(3):
        told_of_several(route, [Accepted("200"), Unclear("500")], 1000.0)
    assert route == Route("default")


def test_what_a_far_side_says_cannot_steer_a_terminal_by_the_reason_of_a_pause():
    route = Route("default")
    told(route, Deferred("550\x1b[31m\r\nred" + "x" * 1000, Fault.OURS), 0.0)
    assert route.reason.isprintable()
    assert len(route.reason) == 500


def test_a_transport_is_open_from_when_the_first_of_its_routes_is():
    here, there, well = Route("a"), Route("b"), Route("c")
    told(here, Deferred("503", Fault.OURS, 60.0), 1000.0)
    told(there, Deferred("503", Fault.OURS, 20.0), 1000.0)
    assert open_from([here, there], 1000.0) == 1020.0
    assert open_from([here, there, well], 1000.0) == 0.0
