"""How workers keep to a rate: what they hold begins at its time, and a drain stays for it."""

import math
import time
from dataclasses import replace
from itertools import pairwise

import pytest

from flask_outbox.mail.rates import AHEAD, Rates
from flask_outbox.outbox.database import Outbox
from flask_outbox.transports.base import unsigned
from flask_outbox.worker import leased as leases
from flask_outbox.worker.engine import drain
from flask_outbox.worker.journey import turn
from flask_outbox.worker.leased import TOO_LATE, Leased
from flask_outbox.worker.loop import Worker
from flask_outbox.worker.ways import Ways
from worker_stage import a_submission, at_work, put, wait_for


@pytest.fixture
def outbox(file):
    outbox = Outbox(f"sqlite:///{file}", lease=5.0, rates=Rates(transports={"*": 20.0}))
    outbox.open()
    yield outbox
    outbox.close()


@pytest.fixture
def clock(monkeypatch):
    """The time that what is leased is measured by."""

    class Stopped:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Stopped()
    monkeypatch.setattr(leases, "time", clock)
    return clock


class Free:
    """Lanes that carry nothing."""

    idle, spare = True, 100

    def free(self, _route):
        return 5

    def window(self, _route):
        return 10

    def room(self, _transport):
        return 10

    def reports(self):
        return []

    def forget(self, _reports):
        pass


@pytest.fixture
def leased(transport):
    return Leased("w", Ways({"default": transport}))


def held(*waits):
    return [
        replace(a_submission(str(number)), id=str(number), route="default", begins_at=1000.0 + wait)
        for number, wait in enumerate(waits)
    ]


def names(windows):
    return [each.id for window in windows for each in window]


def test_what_a_rate_holds_back_begins_at_its_time(leased, clock):
    leased.put(held(0.0, 0.02, 0.05), 10, [])
    assert leased.missed() == []
    assert names(leased.windows(Free())) == ["0"]
    assert 1000.02 <= leased.begins_at < 1000.05
    clock.now += 0.03
    assert names(leased.windows(Free())) == ["0", "1"]
    clock.now += 0.03
    assert names(leased.windows(Free())) == ["0", "1", "2"]
    assert leased.missed() == []
    assert leased.begins_at == math.inf


def test_who_missed_the_time_is_given_up_and_who_waits_for_a_lane_has_not_missed_it(leased, clock):
    leased.put(held(0.0, 0.02, 0.3), 10, [])
    clock.now += 0.03
    assert leased.missed() == []
    clock.now += 0.3 + TOO_LATE
    assert [each.id for each in leased.missed()] == ["2"]
    assert names(leased.windows(Free())) == ["0", "1"]


def test_where_all_miss_theirs_again_and_again_they_go_after_all(leased, clock):
    all_ = ["0", "1"]
    for missed in (all_, all_, all_, [], all_):
        leased.put(held(clock.now - 1000.0, clock.now - 999.99), 10, [])
        clock.now += 1.0
        assert [each.id for each in leased.missed()] == missed
        leased.let_all_go()


def test_it_is_due_again_as_it_was_and_was_not_begun(outbox, leased, clock, eyes):
    put(outbox, *(a_submission(f"n{number}") for number in range(5)))
    clock.now = time.monotonic() + 10.0
    assert turn(outbox, leased, Free(), unsigned) == []
    assert leased.brought == 5
    assert eyes.count("state = 'queued' AND due_at IS NOT NULL AND attempts = 0") == 5


def test_what_was_given_up_for_a_pause_is_begun_no_more(leased, clock):
    leased.put(held(0.05), 10, [])
    leased.let_go(["default"])
    assert leased.begins_at == math.inf
    clock.now += 1.0
    assert leased.missed() == []


def test_a_worker_keeps_to_the_rate_and_uses_it_up(outbox, plan, transport, eyes):
    put(outbox, *(a_submission(f"n{number}") for number in range(30)))
    times = []
    sends = transport.send

    def timed(submissions):
        times.extend([time.monotonic()] * len(submissions))
        return sends(submissions)

    transport.send = timed
    with at_work(replace(plan, poll=60.0)):
        wait_for(lambda: eyes.count("state = 'accepted'") == 30)
    apart = [later - earlier for earlier, later in pairwise(times)]
    assert times[-1] - times[0] >= 29 / 20 - AHEAD
    assert sum(each < 0.02 for each in apart) <= 10


def test_a_drain_stays_for_what_the_rate_lets_go(outbox, plan, eyes):
    put(outbox, *(a_submission(f"n{number}") for number in range(15)))
    assert Worker(plan).drain() == 15
    assert eyes.count("state = 'accepted'") == 15


def test_and_for_what_has_a_slot(file, plan, eyes):
    slow = Outbox(f"sqlite:///{file}", rates=Rates(domains={"example.org": 20.0}))
    put(slow, *(a_submission(f"n{number}") for number in range(15)))
    assert drain(replace(plan, outbox=slow)).tried == 15
    slow.close()


def test_but_not_for_what_cannot_be_had(outbox, plan, eyes):
    put(outbox, a_submission())
    eyes.change("UPDATE outbox_message SET format = 99")
    assert Worker(plan).drain() == 0
