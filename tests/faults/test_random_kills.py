"""A short run of the random kills; and the verdict, judged by workers that break the promise."""

from pathlib import Path

import pytest
from random_kills import run

from flask_outbox.mail.retry import Patience
from kill_verdict import Kill, Row, judge

ALL_WELL = {f"<n{i}@x>": Row("accepted", 0) for i in range(200)}
KILLS = [Kill("dot", frozenset({"<n1@x>", "<n2@x>"})), Kill("MAIL", frozenset({"<n1@x>"}))]


def verdict(rows=None, accepted=None, kills=None, **more):
    return judge(
        ALL_WELL if rows is None else rows,
        list(ALL_WELL) if accepted is None else accepted,
        KILLS if kills is None else kills,
        patience=Patience(give_up=1000.0, max_unclear=2),
        **more,
    )


@pytest.mark.timeout(100)
def test_random_kills_lose_nothing_and_copy_only_what_was_in_flight(place: str):
    judged = run(place, seed=20, kills=12, messages=300, workers=2, seconds=60.0, late=20.0)
    assert judged.holds, "\n".join(judged.lines())
    assert judged.kills == 12


def test_a_worker_that_loses_mail_and_says_nothing_does_not_pass(tmp_path: Path):
    more = {"options": ["--transport", "loses"]}
    judged = run(
        tmp_path / "outbox.sqlite3", seed=1, kills=1, messages=60, workers=1, seconds=30.0, **more
    )
    assert sorted(judged.lost) == sorted(f"<n{i}@example.com>" for i in range(7, 60, 10))


def test_a_worker_that_sends_twice_does_not_pass(tmp_path: Path):
    more = {"options": ["--transport", "duplicates"]}
    judged = run(
        tmp_path / "outbox.sqlite3", seed=1, kills=0, messages=60, workers=1, seconds=30.0, **more
    )
    assert not judged.lost
    assert sum("accepted 2 times" in each for each in judged.wrong) == 6


def test_workers_that_do_not_take_over_from_the_dead_do_not_pass(tmp_path: Path):
    judged = run(
        tmp_path / "outbox.sqlite3",
        seed=1,
        kills=1,
        messages=60,
        workers=1,
        seconds=8.0,
        options=["--lease", "60"],
    )
    assert judged.stuck
    assert set(judged.stuck) <= {*judged.lost}
    assert not judged.holds


def test_a_run_in_which_all_is_well_holds():
    assert verdict().holds


def test_copies_are_excused_by_kills_at_which_the_message_was_in_flight():
    judged = verdict(accepted=[*ALL_WELL, "<n1@x>", "<n1@x>", "<n2@x>"])
    assert judged.holds
    assert (judged.copies, judged.excused) == (3, 3)


def test_a_worker_that_records_what_it_never_sent_is_found_out():
    judged = verdict(accepted=[name for name in ALL_WELL if name != "<n7@x>"])
    assert judged.lost == ["<n7@x>"]
    assert not judged.holds


@pytest.mark.parametrize("state", ["queued", "sending", "failed", "expired"])
def test_a_worker_that_leaves_mail_lying_is_found_out(state):
    judged = verdict(rows={**ALL_WELL, "<n7@x>": Row(state, 0)})
    assert judged.lost == ["<n7@x>"]


def test_a_worker_that_sends_twice_without_a_kill_is_found_out():
    judged = verdict(accepted=[*ALL_WELL, "<n7@x>"])
    assert judged.wrong == ["<n7@x> was accepted 2 times, and in flight at 0 kills"]


def test_a_worker_that_sends_more_often_than_it_was_in_flight_is_found_out():
    judged = verdict(accepted=[*ALL_WELL, "<n2@x>", "<n2@x>"])
    assert judged.wrong == ["<n2@x> was accepted 3 times, and in flight at 1 kills"]


def test_more_copies_than_may_be_unclear_are_found_out_however_many_kills_there_were():
    kills = [Kill("dot", frozenset({"<n2@x>"}))] * 5
    judged = verdict(accepted=[*ALL_WELL, *["<n2@x>"] * 3], kills=kills)
    assert judged.wrong == ["<n2@x> was accepted 4 times"]


def test_a_mail_that_nobody_enqueued_is_found_out():
    assert verdict(accepted=[*ALL_WELL, "<who@x>"]).wrong == ["<who@x> was never enqueued"]


def test_unknown_wants_an_explanation_and_stays_rare():
    explained = {**ALL_WELL, "<n7@x>": Row("unknown", 3)}
    assert verdict(rows=explained).holds
    given_up = {**ALL_WELL, "<n7@x>": Row("unknown", 1, 1000.0)}
    assert verdict(rows=given_up).holds
    for row in (Row("unknown", 2, 999.0), Row("unknown", 0, 1000.0)):
        (wrong,) = verdict(rows={**ALL_WELL, "<n7@x>": row}).wrong
        assert (
            wrong == f"<n7@x> is unknown after {row.unclear} unclear outcomes, {row.seconds:.0f} s"
        )
    many = {**ALL_WELL, **{f"<n{i}@x>": Row("unknown", 3) for i in range(3)}}
    assert verdict(rows=many).wrong == ["3 of 200 messages are unknown"]


def test_kills_that_hit_nothing_prove_nothing():
    idle = [Kill("outside", frozenset())] * 3
    assert verdict(kills=[*KILLS, *idle]).wrong == ["only 2 of 5 kills hit a mail in flight"]
    assert verdict(wanted=3).wrong == ["2 kills, not 3"]
