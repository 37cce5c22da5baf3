"""Workers are seen by what they run with, and by who stopped beating without a goodbye."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from contract.outbox_ground import Ground
from flask_outbox.mail.outcome import Deferred, Fault
from flask_outbox.outbox.encryption import Keyring
from flask_outbox.outbox.stats import stats
from flask_outbox.outbox.workers import SILENT, Badge, end, goodbye, heartbeat
from outbox_mail import (
    ADA,
    BOB,
    EPOCH,
    KEYRING,
    OLD_KEY,
    a_submission,
    begin,
    look,
    put,
    put_many,
    say,
    take,
)

MINE = Badge(version="1.1", schema="0002", settings="5e77", secret="5ec7")
HOUR, YEAR = 3600.0, 365 * 86400.0


def beat(outbox, name, badge=MINE):
    return [each.worker.name for each in heartbeat(outbox, name, host="h", pid=7, badge=badge)]


def errors(caplog):
    return [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]


def seen(outbox):
    return {each.name: each for each in stats(outbox).workers}


class WorkerContract(Ground):
    def test_a_worker_that_is_silent_for_two_leases_is_told_once(self, outbox, clock, caplog):
        beat(outbox, "dies")
        beat(outbox, "lives")
        clock.now += SILENT * outbox.lease
        assert beat(outbox, "lives") == []
        clock.now += 1
        (lost,) = heartbeat(outbox, "lives", host="h", pid=7)
        assert (lost.worker.name, lost.silent) == ("dies", SILENT * outbox.lease + 1)
        assert beat(outbox, "lives") == []
        assert errors(caplog) == [
            "Worker dies stopped beating: it was last heard of 61 s ago.",
        ]
        assert (seen(outbox)["dies"].lost_at, seen(outbox)["lives"].lost_at) == (clock.now, None)

    def test_one_that_said_goodbye_is_not_missed(self, outbox, clock):
        beat(outbox, "ends")
        goodbye(outbox, "ends")
        clock.now += HOUR
        assert beat(outbox, "lives") == []

    def test_a_drain_that_ended_is_not_missed_and_what_it_ran_with_is_seen_for_a_day(
        self, outbox, clock
    ):
        beat(outbox, "ends")
        clock.now += 7
        end(outbox, "ends")
        (ended,) = stats(outbox).ended
        assert (ended.name, ended.badge, ended.beat_at) == ("ends", MINE, EPOCH + 7)
        assert seen(outbox) == {}
        clock.now += HOUR
        assert beat(outbox, "lives", replace(MINE, settings="other")) == []
        assert [each.name for each in stats(outbox).ended] == ["ends"]
        clock.now += 24 * HOUR
        assert beat(outbox, "new", replace(MINE, settings="third")) == ["lives"]
        assert stats(outbox).ended == ()

    def test_of_drains_with_the_same_on_one_host_the_latest_is_seen(self, outbox):
        for number in range(5):
            beat(outbox, f"drain{number}")
            end(outbox, f"drain{number}")
        heartbeat(outbox, "elsewhere", host="h2", pid=7, badge=MINE)
        end(outbox, "elsewhere")
        assert [each.name for each in stats(outbox).ended] == ["drain4", "elsewhere"]

    def test_drains_with_another_secret_are_told_once(self, outbox, caplog):
        theirs = replace(MINE, secret="other")
        for number in range(3):
            for kind, badge in (("a", MINE), ("b", theirs)):
                beat(outbox, f"{kind}{number}", badge)
                end(outbox, f"{kind}{number}")
        assert errors(caplog) == [
            "Worker b0 has another SECRET_KEY than a0: give every host that sends the same."
        ]

    def test_one_that_was_silent_itself_is_not_lost_to_itself(self, outbox, clock):
        beat(outbox, "sleeps")
        clock.now += HOUR
        assert beat(outbox, "sleeps") == []

    def test_one_that_beats_again_may_be_lost_again(self, outbox, clock):
        beat(outbox, "sleeps")
        clock.now += HOUR
        assert beat(outbox, "lives") == ["sleeps"]
        assert beat(outbox, "sleeps") == []
        assert seen(outbox)["sleeps"].lost_at is None
        clock.now += HOUR
        assert "sleeps" in beat(outbox, "other")

    def test_one_that_is_forgotten_was_told_before(self, outbox, clock):
        beat(outbox, "old")
        clock.now += YEAR
        assert beat(outbox, "new") == ["old"]
        assert list(seen(outbox)) == ["new"]

    @pytest.mark.parametrize("step", [-HOUR, -YEAR])
    def test_one_that_died_before_the_clock_was_set_back_is_found(self, outbox, clock, step):
        beat(outbox, "dies")
        clock.now += step
        assert beat(outbox, "lives") == ["dies"]
        assert beat(outbox, "lives") == []

    def test_of_many_observers_one_tells_it(self, outbox, clock, caplog):
        for name in ("a", "b", "c"):
            beat(outbox, name)
        clock.now += HOUR
        together = threading.Barrier(8)

        def observes(number):
            together.wait(30)
            return beat(outbox, f"new{number}")

        with ThreadPoolExecutor(8) as pool:
            told = [name for names in pool.map(observes, range(8)) for name in names]
        assert sorted(told) == ["a", "b", "c"]
        assert len(errors(caplog)) == 3

    def test_a_worker_says_what_it_runs_with(self, outbox):
        beat(outbox, "w")
        one = seen(outbox)["w"]
        assert (one.version, one.schema, one.settings, one.secret) == (
            *("1.1", "0002"),
            *("5e77", "5ec7"),
        )
        assert one.differs(MINE) == ()

    @pytest.mark.parametrize(
        ("badge", "differs"),
        [
            (Badge(version="1.0", schema="0002", settings="5e77", secret="5ec7"), ("version",)),
            (Badge(version="1.1", schema="0001", settings="5e77", secret="5ec7"), ("schema",)),
            (Badge(version="1.1", schema="0002", settings="0000", secret="5ec7"), ("settings",)),
            (Badge(version="1.1", schema="0002", settings="0000", secret="0000"), ("secret",)),
            (Badge(version="1.1", schema=None, settings=None, secret=None), ()),
            (Badge(version="1.0", schema="0001", settings="0", secret="5ec7"),
             ("version", "schema", "settings")),
        ],
    )  # fmt: skip
    def test_what_it_runs_with_is_compared_as_far_as_it_is_known(self, outbox, badge, differs):
        beat(outbox, "w", badge)
        assert seen(outbox)["w"].differs(MINE) == differs

    def test_one_with_another_secret_key_is_told_so_when_it_begins(self, outbox, clock, caplog):
        beat(outbox, "same")
        beat(outbox, "web", MINE)
        assert errors(caplog) == []
        other = Badge(settings="5e78", secret="07he")
        beat(outbox, "stranger", other)
        (line,) = errors(caplog)
        assert "SECRET_KEY" in line
        assert "stranger" in line
        assert "same, web" in line
        assert "07he" not in line
        beat(outbox, "stranger", other)
        assert len(errors(caplog)) == 1

    def test_a_key_of_which_nothing_is_known_is_no_other_key(self, outbox, caplog):
        beat(outbox, "older", Badge())
        beat(outbox, "new", MINE)
        assert errors(caplog) == []

    def test_a_key_of_a_worker_that_is_lost_is_nobodys(self, outbox, clock, caplog):
        beat(outbox, "dead", Badge(secret="07he"))
        clock.now += HOUR
        beat(outbox, "new")
        assert not [line for line in errors(caplog) if "SECRET_KEY" in line]

    @pytest.mark.parametrize(
        ("others", "mine", "probes"),
        [
            (["0ld"], "new", True),
            (["0ld", "older"], "new", True),
            (["new"], "new", False),
            (["0ld", "new"], "new", False),
            ([], "new", False),  # as a drain from cron, which would not let a far side rest
            (["0ld"], None, False),
        ],
    )
    def test_a_paused_route_is_probed_at_once_by_who_has_other_settings_than_all_before(
        self, outbox, clock, others, mine, probes
    ):
        for number, settings in enumerate(others):
            beat(outbox, f"w{number}", Badge(settings=settings))
        put_many(outbox, 3)
        refused = Deferred("535 5.7.8 refused", Fault.OURS, retry_after=600.0)
        say(outbox, begin(outbox, 1)[0], refused)
        clock.now += 1
        beat(outbox, "mine", Badge(settings=mine))
        assert len(take(outbox)) == int(probes)
        (route,) = stats(outbox).routes
        assert (route.failures, route.until > EPOCH + 1) == (1, not probes)

    @pytest.mark.parametrize(
        ("others", "mine", "is_due"),
        [
            (["0ld"], "new", True),
            ([], "new", True),
            (["0ld", "new"], "new", False),  # as one drain of many
            ([], None, False),
        ],
    )
    def test_what_is_held_back_for_its_key_is_due_when_who_begins_has_new_settings(
        self, outbox, clock, others, mine, is_due
    ):
        for number, settings in enumerate(others):
            beat(outbox, f"w{number}", Badge(settings=settings))
        locked = put(outbox, a_submission(ADA, BOB, sensitive=True))
        later = put_many(outbox, 1, delay=30.0)[0]
        outbox.keyring = Keyring([OLD_KEY])
        assert take(outbox) == []
        outbox.keyring = KEYRING
        clock.now += 1
        beat(outbox, "mine", Badge(settings=mine))
        taken = [(each.id, each.recipients) for each in take(outbox)]
        assert taken == ([(locked, (ADA, BOB))] if is_due else [])
        assert look(outbox, later).due_at == EPOCH + 30
