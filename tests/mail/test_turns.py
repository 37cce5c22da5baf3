"""Turns where several limits hold a mail."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_outbox.mail.rates import TOO_LATE, Limit, Meter
from flask_outbox.mail.turns import give_turns

NOW = 1_800_000_000.0


def meter(name, rate=None, at_once=None):
    return Meter(name, Limit(rate=rate, at_once=at_once))


def begins_at(turns):
    return {id_: turn.begins_at - NOW for id_, turn in turns.items()}


def test_by_one_limit_they_go_one_after_another_in_their_order():
    own = meter("own", 10.0)
    turns = give_turns([(id_, own, []) for id_ in "abc"], NOW)
    assert begins_at(turns) == pytest.approx({"a": 0.0, "b": 0.1, "c": 0.2}, abs=1e-5)


def test_what_none_holds_goes_at_once():
    at_once = meter("own", at_once=5)
    assert give_turns([("a", None, []), ("b", at_once, [])], NOW) == {}
    assert at_once.under_way == 1


def test_a_mail_waits_for_all_its_limits_and_each_goes_on_from_there():
    own, slow = meter("own", 100.0), meter("slow", 2.0)
    slow.take(NOW)
    turns = give_turns([("a", own, [slow])], NOW)
    assert begins_at(turns) == pytest.approx({"a": 0.5}, abs=1e-5)
    assert own.next_at == pytest.approx(NOW + 0.51, abs=1e-5)
    assert slow.next_at == pytest.approx(NOW + 1.0, abs=1e-5)


def test_who_waits_for_one_keeps_nobody_waiting_that_others_can_use():
    own, slow = meter("own", 10.0), meter("slow", 2.0)
    slow.take(NOW)
    mails = [("a", own, [slow]), ("b", own, []), ("c", own, []), ("d", own, [slow])]
    turns = begins_at(give_turns(mails, NOW))
    assert turns == pytest.approx({"b": 0.0, "c": 0.1, "a": 0.5, "d": 1.0}, abs=1e-5)


def test_so_it_is_of_who_has_to_wait_only_since_others_of_this_claim_went():
    own, slow, later = meter("own", 10.0), meter("slow", 2.0), meter("later", 5.0)
    later.take(NOW)
    mails = [("a", own, [slow]), ("b", own, [slow, meter("free", 100.0)]), ("c", own, [later])]
    turns = begins_at(give_turns(mails, NOW))
    assert turns == pytest.approx({"a": 0.0, "c": 0.2, "b": 0.5}, abs=1e-5)


def test_it_is_late_when_the_most_impatient_of_its_limits_says_so():
    (turn,) = give_turns([("a", meter("own", 1.0), [meter("to", 100.0)])], NOW).values()
    assert turn.ends_at - turn.begins_at == pytest.approx(TOO_LATE, abs=1e-5)


@given(
    own=st.sampled_from([None, 2.0, 50.0]),
    rates=st.lists(st.sampled_from([0.5, 3.0, 20.0, 100.0]), min_size=3, max_size=3),
    mails=st.lists(st.sets(st.integers(0, 2), max_size=3), max_size=60),
)
def test_none_lets_more_go_than_it_is_set_to(own, rates, mails):
    limits = [meter(f"to {number}", rate) for number, rate in enumerate(rates)]
    by = meter("own", own) if own else None
    asked = [(str(number), by, [limits[each] for each in its]) for number, its in enumerate(mails)]
    turns = give_turns(asked, NOW)
    for limit in [*limits, *([by] if by else [])]:
        its = [id_ for id_, way, others in asked if limit is way or limit in others]
        times = sorted(turns[id_].begins_at for id_ in its)
        assert all(later - earlier > 0.99 / limit.limit.rate for earlier, later in pairwise(times))
