"""The rules of trying again: for each outcome when, and for how long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Refused, Unclear
from flask_outbox.mail.retry import Patience, backoff, clamp_retry_after, next_attempt

DAY, HOUR, MINUTE = 86400.0, 3600.0, 60.0
NOW = 1_800_000_000.0
LATER = Deferred("451 4.7.1 greylisted")
jitters = st.floats(0, 1, exclude_max=True)


def after(outcome, *, attempt=1, jitter=0.5, age=0.0, **more):
    """Give the seconds until the next attempt; None for never."""
    terms = {"first_due": NOW - age, "patience": Patience(), **more}
    found = next_attempt(attempt, outcome, NOW, jitter, **terms)
    return None if found is None else found - NOW


def test_by_default_we_give_up_after_two_days_and_repeat_twice_what_is_unclear():
    assert Patience() == Patience(give_up=2 * DAY, max_unclear=2)


@pytest.mark.parametrize("outcome", [Accepted("250"), Refused("550 5.1.1 no such user")])
def test_what_was_accepted_or_refused_is_never_tried_again(outcome):
    assert after(outcome) is None


def test_back_off_doubles_its_ceiling_up_to_an_hour():
    ceilings = [backoff(attempt, 1.0) / MINUTE for attempt in range(1, 9)]
    assert ceilings == [1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff(10**6, 1.0) == HOUR


@given(st.integers(1, 1000), jitters)
def test_jitter_is_full_though_never_nothing(attempt, jitter):
    ceiling = min(HOUR, MINUTE * 2.0 ** min(attempt - 1, 16))
    assert backoff(attempt, jitter) == max(1.0, jitter * ceiling)


def test_what_is_transient_waits_for_its_back_off():
    assert after(LATER, attempt=3, jitter=0.5) == 2 * MINUTE


def test_or_for_as_long_as_the_far_side_asks_if_that_is_longer():
    asks = Deferred("450", retry_after=600.0)
    assert after(asks, attempt=1) == 600.0
    assert after(asks, attempt=7, jitter=0.5) == HOUR / 2


@pytest.mark.parametrize(
    ("asked", "believed"),
    [
        (5.0, 5.0),
        (1.0, 1.0),
        (0.0, 1.0),
        (-1.0, 1.0),
        (3600.0, 3600.0),
        (1e9, 3600.0),
        (float("inf"), 3600.0),
        (float("-inf"), 1.0),
        (float("nan"), 1.0),
    ],
)
def test_a_far_side_is_believed_between_a_second_and_an_hour(asked, believed):
    assert clamp_retry_after(asked) == believed
    assert after(Deferred("450", retry_after=asked), jitter=0.0) == believed


def test_the_last_attempt_is_at_the_give_up_time_and_none_is_after_it():
    assert after(LATER, attempt=9, jitter=0.9, age=2 * DAY - 10.0) == 10.0
    assert after(LATER, attempt=2, age=2 * DAY) is None


def test_who_came_to_its_first_attempt_after_the_give_up_time_has_one_more():
    assert after(LATER, attempt=1, jitter=0.5, age=2 * DAY) == 30.0
    assert after(LATER, attempt=1, jitter=0.5, age=9 * DAY) == 30.0


@given(st.integers(2, 100), jitters, st.floats(0, 3 * DAY), st.floats(-10, 1e6) | st.none())
def test_no_deferral_is_tried_in_the_past_or_after_the_give_up_time(attempt, jitter, age, asked):
    wait = after(Deferred("451", retry_after=asked), attempt=attempt, jitter=jitter, age=age)
    assert (wait is None) == (age >= 2 * DAY)
    assert wait is None or 0.0 < wait <= 2 * DAY - age + 1e-6


@pytest.mark.parametrize("fault", [Fault.OURS, Fault.NONE])
def test_what_is_not_the_messages_doing_waits_for_nothing_but_its_route(fault):
    assert after(Deferred("x", fault), attempt=50, jitter=0.9) == 0.0
    assert after(Deferred("x", fault, retry_after=600.0)) == 0.0


def test_our_own_faults_end_with_the_give_up_time_and_a_neighbours_line_ends_nothing():
    assert after(Deferred("x", Fault.OURS), age=2 * DAY) is None
    assert after(Deferred("x", Fault.NONE), age=2 * DAY) == 0.0


def test_what_is_unclear_is_repeated_twice_spread_over_the_give_up_time_and_then_never():
    waits = [after(Unclear("no answer"), unclear=count) for count in (1, 2, 3)]
    assert waits == [5 * MINUTE, 6 * HOUR, None]


def test_how_often_what_is_unclear_is_repeated_is_a_setting():
    gone = Unclear("no answer")
    assert after(gone, unclear=1, patience=Patience(max_unclear=0)) is None
    often = Patience(give_up=8 * HOUR, max_unclear=4)
    assert [after(gone, unclear=n, patience=often) for n in (2, 3, 4, 5)] == [HOUR] * 3 + [None]
