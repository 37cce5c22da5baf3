"""Which route a mail takes, as a rule that needs no database."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_outbox.mail.exchange import Report
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Refused, Unclear
from flask_outbox.mail.route import PAUSE_MOST, Route, Routing, is_ours, open_from
from flask_outbox.mail.submission import Receipt, Submission

SUBMISSION = Submission(
    sender="shop@example.com",
    recipients=("ada@example.org",),
    content=b"Subject: hi\r\n\r\nhi\r\n",
    message_id="<1@example.com>",
    date=0.0,
)
OURS = Deferred("no route to host", Fault.OURS)
FAILOVER = Routing("default", ({"first": 1.0}, {"second": 1.0}))
SHARED = Routing("default", ({"big": 3.0, "small": 1.0}, {"last": 1.0}))


def told(route, outcome, now):
    route.hear(Report(SUBMISSION, Receipt.same(SUBMISSION, outcome)), now)


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
