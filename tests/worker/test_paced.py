"""How workers keep to a rate: what they hold begins at its time, and a drain stays for it."""

import math
import time
from dataclasses import replace
from itertools import pairwise

import pytest

from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.outcome import Deferred, Fault
from flask_outbox.mail.rates import AHEAD, TOO_LATE, Rates, Turn
from flask_outbox.mail.route import Routing
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.status import cancel, list_messages
from flask_outbox.transports.base import unsigned
from flask_outbox.worker import leased as leases
from flask_outbox.worker import looks, pace
from flask_outbox.worker.engine import drain
from flask_outbox.worker.journey import turn
from flask_outbox.worker.leased import Leased
from flask_outbox.worker.loop import Worker
from flask_outbox.worker.ways import Ways
from worker_stage import Told, a_submission, at_work, put, wait_for


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
    monkeypatch.setattr(pace, "time", clock)
    return clock


class Free:
    """Lanes that carry nothing."""

    idle = True

    def free(self, _route):
        return 5

    def window(self, _route):
        return 10

    def room(self, _route):
        return 10

    def spare(self, windows):
        return list(windows)

    def reports(self):
        return []

    def forget(self, _reports, _busy):
        pass


@pytest.fixture
def leased(transport):
    return Leased("w", Ways({"default": transport}))


def held(*waits):
    return [
        replace(
            a_submission(str(number)),
            id=str(number),
            route="default",
            turn=Turn(1000.0 + wait, 1000.0 + wait + TOO_LATE),
        )
        for number, wait in enumerate(waits)
    ]


def names(windows):
    return [each.id for window in windows for each in window]


def test_what_a_rate_holds_back_begins_at_its_time(leased, clock):
    leased.put(held(0.0, 0.02, 0.05), 10, [])
    assert leased.missed() == []
    assert names(leased.windows(Free())) == ["0"]
    assert 1000.02 <= leased.pace.begins_at < 1000.05
    clock.now += 0.03
    assert names(leased.windows(Free())) == ["0", "1"]
    clock.now += 0.03
    assert names(leased.windows(Free())) == ["0", "1", "2"]
    assert leased.missed() == []
    assert leased.pace.begins_at == math.inf


def test_who_missed_the_time_is_given_up_and_who_waits_for_a_lane_has_not_missed_it(leased, clock):
    leased.batch(Free(), ["default"])
    leased.put(held(0.0, 0.02, 0.3), 10, [])
    clock.now += 0.03
    assert leased.missed() == []
    clock.now += 0.3 + TOO_LATE
    assert [each.id for each in leased.missed()] == ["2"]
    assert names(leased.windows(Free())) == ["0", "1"]


def test_it_is_due_again_as_it_was_and_was_not_begun(outbox, leased, clock, eyes):
    put(outbox, *(a_submission(f"n{number}") for number in range(5)))
    clock.now = time.monotonic() + 10.0
    recorded = []
    turn(outbox, leased, Free(), unsigned, recorded)
    assert recorded == []
    assert leased.brought == 5
    assert eyes.count("state = 'queued' AND due_at IS NOT NULL AND attempts = 0") == 5


def test_what_was_given_up_for_a_pause_is_begun_no_more(leased, clock):
    leased.put(held(0.05), 10, [])
    leased.let_go(["default"])
    assert leased.pace.begins_at == math.inf
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


def test_what_goes_alone_waits_for_its_turn_too(leased, clock):
    (alone,) = held(0.3)
    leased.put([replace(alone, alone=True)], 10, [])
    assert leased.windows(Free()) == []
    clock.now += 0.31
    assert names(leased.windows(Free())) == ["0"]


def test_a_worker_knows_what_a_claim_takes_and_one_that_stood_still_says_nothing(leased, clock):
    steps = ((0.1, 0.1), (4.0, 0.1), (0.2, 0.2), (0.1, 0.2), (0.1, 0.1), (2.0, 0.1), (3.0, 2.0))
    for took, known in steps:
        leased.batch(Free(), ["default"])
        clock.now += took
        leased.put(held(clock.now), 10, [])
        assert leased.pace.takes == pytest.approx(known)


@pytest.mark.parametrize(("late", "missed"), [(0.09, []), (0.12, ["0"])])
def test_a_turn_may_come_while_the_next_claim_is_made(leased, clock, late, missed):
    leased.batch(Free(), ["default"])
    clock.now += 0.1
    leased.put(held(0.2), 1, [])
    clock.now += 0.1 + late
    assert [each.id for each in leased.missed()] == missed


def test_who_looks_after_a_turn_was_missed_does_so_at_once(leased, clock):
    leased.batch(Free(), ["default"])
    leased.put(held(0.0), 10, ["default"])
    assert leased.dry
    clock.now += 1.0
    assert leased.missed()
    assert not leased.dry


@pytest.fixture
def limited(file):
    """Open the outbox with these limits."""
    made = []

    def make(**limits):
        made.append(Outbox(f"sqlite:///{file}", rates=Rates(**limits)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_what_a_rate_holds_back_is_no_reason_to_let_others_wait(
    limited, plan, transport, monkeypatch
):
    monkeypatch.setattr(looks, "IN_TIME", 60.0)  # until what is limited is looked for again
    outbox = limited(transports={"slow": 1 / 3600})
    put(outbox, *(a_submission(f"n{number}") for number in range(300)))
    put(outbox, *(a_submission(f"s{number}", transport="slow") for number in range(3)))
    ways = {"default": transport, "slow": Told()}
    with at_work(replace(plan, outbox=outbox, transports=ways, poll=60.0)):
        wait_for(lambda: len(transport.sent) == 300)


def test_nor_is_what_has_a_slot_however_much_of_it_there_is(limited, plan, eyes, monkeypatch):
    monkeypatch.setattr(looks, "IN_TIME", 60.0)
    outbox = limited(domains={"gmail.com": 1 / 3600})
    mixed = ("example.org" if number % 20 == 0 else "gmail.com" for number in range(1000))
    put(outbox, *(a_submission(f"n{n}", recipients=(f"n{n}@{at}",)) for n, at in enumerate(mixed)))
    with at_work(replace(plan, outbox=outbox, poll=60.0)):
        wait_for(lambda: eyes.count("state = 'accepted'") == 51)


def test_whose_mail_was_not_asked_for_may_have_more(transport):
    leased = Leased("w", Ways({"default": transport, "slow": Told()}))
    leased.put([], 10, ["slow"])
    assert leased.dry
    assert leased.hungry(Free()) == ["default"]
    leased.put([], 10, ["default"])
    assert leased.hungry(Free()) == []
    leased.ask_anew()
    assert leased.hungry(Free()) == ["default", "slow"]


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param({"transports": {"*": 100.0}}, id="a rate"),
        pytest.param({"domains": {"gmail.com": 1.0}}, id="another domain's"),
        pytest.param({"at_once": {"*": 50}}, id="a number"),
    ],
)
def test_a_drain_fails_over_whatever_is_limited(limited, plan, transport, limits):
    outbox, away = limited(**limits), Told()
    away.outcomes = {f"<n{each}@example.com>": Deferred("421", Fault.OURS) for each in range(10)}
    put(outbox, *(a_submission(f"n{number}") for number in range(10)))
    ways = Routing("default", ({"a": 1.0}, {"b": 1.0}))
    both = {"a": away, "b": transport}
    Worker(replace(plan, outbox=outbox, transports=both, routings=[ways])).drain()
    assert len(transport.sent) == 10


def test_a_drain_waits_for_the_places_that_its_own_mail_takes(limited, plan, transport):
    outbox = limited(at_once={"*": 1})
    put(outbox, *(a_submission(f"n{number}") for number in range(4)))
    assert Worker(replace(plan, outbox=outbox)).drain() == 4


def test_a_drain_stays_for_what_the_rate_lets_go(outbox, plan, eyes):
    put(outbox, *(a_submission(f"n{number}") for number in range(15)))
    assert Worker(plan).drain() == 15
    assert eyes.count("state = 'accepted'") == 15


def test_and_for_what_has_a_slot(file, plan, eyes):
    slow = Outbox(f"sqlite:///{file}", rates=Rates(domains={"example.org": 20.0}))
    put(slow, *(a_submission(f"n{number}") for number in range(15)))
    assert drain(replace(plan, outbox=slow)).tried == 15
    slow.close()


def test_who_stands_behind_mail_that_was_cancelled_is_sent_when_there_is_room(
    limited, plan, transport
):
    outbox = limited(domains={"example.org": 0.7})
    put(outbox, *(a_submission(f"n{number}") for number in range(100)))
    Worker(replace(plan, outbox=outbox)).drain()
    waiting = list_messages(outbox, state=State.QUEUED, limit=100)
    assert len(waiting) > 90
    for each in waiting[1:]:  # the newest first
        cancel(outbox, each.id)
    sent = len(transport.sent)
    time.sleep(1.5)  # until there is room
    with at_work(replace(plan, outbox=outbox)):
        wait_for(lambda: len(transport.sent) == sent + 1)


def test_but_not_for_what_cannot_be_had(outbox, plan, eyes):
    put(outbox, a_submission())
    eyes.change("UPDATE outbox_message SET format = 99")
    assert Worker(plan).drain() == 0
