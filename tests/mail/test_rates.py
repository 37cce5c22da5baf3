"""Limits: never more than they say in any second, nothing lost by looking late, slots, slowing."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Refused, Unclear
from flask_outbox.mail.rates import (
    AHEAD,
    DAY,
    DOUBLES_IN,
    SLOWED_FIRST,
    SLOWEST,
    SOON,
    WARM_UP_DAYS,
    Limit,
    Meter,
    Queue,
    Rates,
    asks_to_slow,
    per_second,
    spoken,
    warm_up,
)

NOW = 1_800_000_000.0
BUSY = Deferred("421 4.7.0 try again later")

rates = st.sampled_from([0.5, 1.0, 3.0, 10.0, 20.0, 33.0, 50.0, 100.0, 250.0, 1000.0])


def meter(rate=None, **more):
    return Meter("to gmail.com by default", Limit(rate, **more))


def sent(one, looks):
    """Let workers look at these times, each take all that is free; give the time of each mail."""
    return [one.take(at) for at in looks for _ in range(one.free(at))]


def most_in_a_second(times):
    first, most = 0, 0
    for number, at in enumerate(times):
        while times[first] <= at - 1.0:
            first += 1
        most = max(most, number - first + 1)
    return most


@given(rates, st.lists(st.floats(0.0, 0.4), min_size=1, max_size=120))
def test_no_second_has_more_than_the_rate_and_one(rate, gaps):
    looks = [NOW]
    for gap in gaps:
        looks.append(looks[-1] + gap)
    times = sent(meter(rate), looks)
    assert most_in_a_second(times) <= rate + 1


@pytest.mark.parametrize("rate", [10.0, 20.0, 50.0, 100.0, 500.0])
def test_and_that_is_a_tenth_more_than_the_rate_at_most(rate):
    looks = [NOW + each / 997 for each in range(1500)]
    assert most_in_a_second(sent(meter(rate), looks)) <= rate * 1.1


@given(rates, st.lists(st.floats(0.001, AHEAD - 0.001), min_size=100, max_size=120))
def test_nothing_is_lost_by_workers_that_look_seldom(rate, gaps):
    one = meter(rate)
    looks = [NOW]
    for gap in gaps:
        looks.append(looks[-1] + gap)
    times = sent(one, looks)
    assert len(times) >= int((looks[-1] - NOW) * rate)


@given(rates, st.integers(2, 6), st.data())
def test_it_does_not_matter_how_many_workers_look(rate, workers, data):
    looks = sorted(
        NOW + at
        for _ in range(workers)
        for at in data.draw(st.lists(st.floats(0.0, 2.0), max_size=40))
    )
    times = sent(meter(rate), looks)
    if times:
        assert most_in_a_second(times) <= rate + 1


def test_what_was_not_used_is_not_saved_up():
    one = meter(100.0)
    one.take(NOW)
    later = NOW + 3600.0
    times = [one.take(later) for _ in range(one.free(later))]
    assert len(times) == 51
    assert times.count(later) == 1
    assert times[-1] == pytest.approx(later + AHEAD, abs=1e-5)


def test_mails_are_given_their_times_one_by_one():
    one = meter(50.0)
    times = [one.take(NOW) for _ in range(3)]
    assert [later - earlier for earlier, later in pairwise(times)] == pytest.approx(
        [0.02] * 2, abs=1e-5
    )


def test_what_does_not_go_after_all_leaves_its_time_to_another():
    one = meter(1.0)
    one.take(NOW)
    one.give_back(NOW)
    assert one.free(NOW) == 1


def test_but_not_between_those_who_have_a_turn_yet_to_come():
    one = meter(10.0)
    times = [one.take(NOW) for _ in range(one.free(NOW))]
    for _ in range(3):
        one.give_back(NOW)
    assert one.take(NOW) == pytest.approx(times[-1] + 0.1, abs=1e-5)


def test_one_that_knows_no_rate_lets_everything_go():
    one = meter()
    one.take(NOW)
    assert one.free(NOW) > 10**6
    assert not one.holds(NOW)


def test_so_many_at_once_and_no_more():
    one = meter(at_once=3)
    one.under_way = 2
    assert one.free(NOW) == 1
    one.take(NOW)
    assert one.free(NOW) == 0
    assert one.holds(NOW)


@given(rates, st.integers(1, 100))
def test_slots_come_one_after_another_and_each_finds_room(rate, count):
    one = meter(rate)
    for _ in range(one.free(NOW)):
        one.take(NOW)
    slots = [one.slot(NOW, Queue.NORMAL, had_slot=False) for _ in range(count)]
    assert all(
        later - earlier == pytest.approx(1 / rate, abs=1e-6) for earlier, later in pairwise(slots)
    )
    for at in slots:
        assert one.passes(at, Queue.NORMAL, had_slot=True)
        assert one.take(at) == pytest.approx(at, abs=1e-5)


def test_who_comes_new_stands_behind_those_that_have_slots():
    one = meter(10.0)
    one.take(NOW)
    last = [one.slot(NOW, Queue.NORMAL, had_slot=False) for _ in range(20)][-1]
    assert not one.passes(NOW + 1.0, Queue.NORMAL, had_slot=False)
    assert one.passes(NOW + 1.0, Queue.NORMAL, had_slot=True)
    assert one.passes(last, Queue.NORMAL, had_slot=False)


def test_urgent_mail_does_not_and_neither_does_normal_mail_behind_bulk():
    one = meter(10.0)
    one.take(NOW)
    for _ in range(20):
        one.slot(NOW, Queue.BULK, had_slot=False)
    assert one.passes(NOW + 0.1, Queue.NEXT, had_slot=False)
    assert one.passes(NOW + 0.1, Queue.NORMAL, had_slot=False)
    assert not one.passes(NOW + 0.1, Queue.BULK, had_slot=False)
    assert one.slot(NOW, Queue.NEXT, had_slot=False) == pytest.approx(NOW + 0.1)
    assert one.slot(NOW, Queue.NEXT, had_slot=False) == pytest.approx(NOW + 0.2)


def test_who_missed_a_slot_gets_one_soon_as_long_as_there_is_one_within_a_minute():
    one = meter(10.0)
    one.take(NOW)
    last = [one.slot(NOW, Queue.BULK, had_slot=False) for _ in range(10_000)][-1]
    slots = [one.slot(NOW, Queue.BULK, had_slot=True) for _ in range(700)]
    assert slots[0] == pytest.approx(NOW + 0.1)
    soon = [each for each in slots if each < NOW + SOON + 1]
    assert len(soon) == pytest.approx(SOON * 10, abs=2)
    assert slots[-1] > last


# --- slowing ---


@pytest.mark.parametrize(
    "outcome",
    [
        BUSY,
        Deferred("421 too many connections"),
        Deferred("450 4.7.1 rate limited"),
        Deferred("452-4.7.28 Gmail has detected an unusual rate"),
        Deferred("451", retry_after=30.0),
    ],
)
def test_what_asks_to_slow(outcome):
    assert asks_to_slow(outcome)


@pytest.mark.parametrize(
    "outcome",
    [
        Accepted("250 4.7.0"),
        Refused("550 5.7.1 no"),
        Unclear("421"),
        Deferred("450 4.2.2 full"),
        Deferred("451 try again"),
        Deferred("4214 what"),
        Deferred("450 see 4.7.1"),
        Deferred("421 4.7.0 no", Fault.OURS),
        Deferred("429", Fault.OURS, retry_after=30.0),
        Deferred("421 its line broke", Fault.NONE),
        Deferred("451 4.7.1 Greylisted, please try again"),
        Deferred("450 4.7.1 <ada@example.org>: Recipient address rejected: Gray-listed"),
    ],
)
def test_and_what_does_not(outcome):
    assert not asks_to_slow(outcome)


def test_a_limit_is_halved_and_doubles_every_five_minutes_until_it_is_what_it_was():
    one = meter(100.0)
    one.slow_down(NOW, NOW, BUSY)
    found = [one.rate_at(NOW + each * DOUBLES_IN) for each in (0.0, 0.5, 1.0, 2.0)]
    assert found == [50.0, pytest.approx(50.0 * 2**0.5), 100.0, 100.0]
    assert one.is_slowed(NOW)
    assert not one.is_slowed(NOW + DOUBLES_IN)


def test_what_was_under_way_together_halves_it_once():
    one = meter(100.0)
    for began in (NOW, NOW - 1.0, NOW - 60.0):
        one.slow_down(NOW + 1.0, began, BUSY)
    assert one.rate_at(NOW + 1.0) == 50.0
    one.slow_down(NOW + 2.0, NOW + 1.5, BUSY)
    assert one.rate_at(NOW + 2.0) == pytest.approx(25.0, rel=0.01)


def test_it_is_never_slower_than_one_a_minute():
    one = meter(100.0)
    for each in range(40):
        one.slow_down(NOW + each, NOW + each, BUSY)
    assert one.rate_at(NOW + 39) == SLOWEST


def test_but_what_was_set_slower_stays_so():
    one = meter(1 / 3600)
    one.slow_down(NOW, NOW, BUSY)
    assert one.rate_at(NOW) == 1 / 3600


def test_a_domain_without_a_limit_begins_at_ten_a_second_and_is_free_at_a_hundred():
    one = meter()
    one.slow_down(NOW, NOW, BUSY)
    assert one.rate_at(NOW) == SLOWED_FIRST
    assert one.holds(NOW)
    assert one.rate_at(NOW + 3 * DOUBLES_IN) == 80.0
    assert not one.holds(NOW + 4 * DOUBLES_IN)


def test_retry_after_closes_it_until_then_within_reason():
    one = meter(100.0)
    one.slow_down(NOW, NOW, Deferred("450", retry_after=30.0))
    assert one.free(NOW + 29.4) == 0
    assert one.free(NOW + 30.0) > 0
    assert Meter("", until=NOW + 30.0).take(NOW + 29.95) == NOW + 30.0
    assert one.slot(NOW, Queue.NEXT, had_slot=False) == NOW + 30.0
    one.slow_down(NOW, NOW, Deferred("450", retry_after=1e9))
    assert one.until == NOW + 3600.0
    one.slow_down(NOW, NOW, Deferred("450", retry_after=5.0))
    assert one.until == NOW + 3600.0


def test_the_reason_names_nobody():
    one = meter()
    one.slow_down(NOW, NOW, Deferred("450 4.7.1 <ada@example.org>: too fast\x1b[2J"))
    assert one.reason == "450 4.7.1 <…>: too fast [2J"


def test_slots_that_are_handed_out_while_it_is_slow_count_on_its_recovery():
    one = meter(100.0)
    one.slow_down(NOW, NOW, BUSY)
    slots = [one.slot(NOW, Queue.NORMAL, had_slot=False) for _ in range(50_000)]
    assert slots[-1] - NOW < 50_000 / 50.0
    assert slots[-1] - slots[-2] == pytest.approx(0.01)


# --- warm-up ---


def test_a_warm_up_begins_with_fifty_and_never_more_than_doubles():
    days = [warm_up(day) for day in range(WARM_UP_DAYS)]
    assert days[0] == warm_up(-3) == 50
    assert all(1.4 < later / earlier < 2.0 for earlier, later in pairwise(days))
    assert warm_up(WARM_UP_DAYS) is None


def test_its_slots_come_faster_day_by_day_and_end_with_it():
    one = meter(warm_since=NOW)
    one.take(NOW)
    slots = [one.slot(NOW, Queue.NORMAL, had_slot=False) for _ in range(500)]
    on_day = [
        sum(NOW + day * DAY <= each < NOW + (day + 1) * DAY for each in slots) for day in range(3)
    ]
    assert on_day == [pytest.approx(warm_up(day), abs=2) for day in range(3)]
    assert not one.holds(NOW + WARM_UP_DAYS * DAY)


def test_what_goes_before_its_time_is_counted_but_not_for_ever():
    one = meter(warm_since=NOW)
    for _ in range(10):
        one.take(NOW)
    assert one.opens_at(NOW) == pytest.approx(NOW + 10 * DAY / 50, abs=1)
    for _ in range(1000):
        one.take(NOW)
    assert one.opens_at(NOW) == pytest.approx(NOW + DAY, abs=1)


# --- words ---


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("50/s", 50.0),
        (" 1000 / m ", 1000 / 60),
        ("20000/h", 20000 / 3600),
        ("50000/d", 50000 / 86400),
        ("0.5/s", 0.5),
        ("1/d", 1 / 86400),
    ],
)
def test_a_rate_is_read_and_written(text, rate):
    assert per_second(text) == rate
    assert per_second(spoken(rate)) == pytest.approx(rate, rel=0.01)


@pytest.mark.parametrize(
    "text",
    ["", "50", "50/S", "0/s", "-1/s", "1e3/s", "inf/s", "nan/s", "50/w", "50 per s", "9999999/s"],
)
def test_anything_else_is_no_rate(text):
    assert per_second(text) is None


def test_a_star_is_whatever_has_no_limit_of_its_own():
    found = Rates(domains={"gmail.com": 20.0, "*": 100.0}, at_once={"bulk": 5})
    assert found.to_domain("gmail.com") == Limit(20.0)
    assert found.to_domain("example.org") == Limit(100.0)
    assert found.of_transport("bulk") == Limit(at_once=5)
    assert found.of_transport("default") == found.from_domain("example.com") == Limit()
