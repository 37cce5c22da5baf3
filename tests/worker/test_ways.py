"""Transports of several routes, and transports that are loaded, in a worker."""

import math
import threading
import time
from collections import Counter
from dataclasses import replace
from itertools import count

import pytest

from flask_outbox.mail.outcome import Deferred, Fault
from flask_outbox.mail.rates import Rates
from flask_outbox.mail.route import Routing
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.schedule import Priority, Schedule
from flask_outbox.worker import ways as the_ways
from flask_outbox.worker.lanes import Lanes
from flask_outbox.worker.leased import LOADED_AT_ONCE, Leased
from flask_outbox.worker.looks import NAMES_EVERY, Looks
from flask_outbox.worker.loop import Worker, drain
from flask_outbox.worker.ways import Ways
from worker_stage import BOUND, Told, a_submission, at_work, put, wait_for

AWAY = Deferred("connection refused", Fault.OURS)


class Away(Told):
    """Takes nothing, by our own fault."""

    def send(self, submissions):
        self.outcomes.update(dict.fromkeys((each.message_id for each in submissions), AWAY))
        return super().send(submissions)


class Silent(Told):
    """Takes what it is given and says nothing of it, until the test is over."""

    def __init__(self, hold):
        super().__init__(window=1)
        self.over = hold

    def send(self, submissions):
        self.holds = dict.fromkeys((each.message_id for each in submissions), self.over)
        return super().send(submissions)


class Free:
    """Lanes that are free."""

    def free(self, _route):
        return 5

    def room(self, _route):
        return 10


@pytest.fixture
def hold():
    """What everything silent waits for."""
    over = threading.Event()
    yield over
    over.set()


@pytest.fixture
def failover(plan):
    first, second = Away(), Told()
    routing = Routing("default", ({"a": 1.0}, {"b": 1.0}))
    return first, second, replace(plan, transports={"a": first, "b": second}, routings=[routing])


def test_what_one_route_does_not_take_goes_by_the_next_at_once(outbox, failover, eyes):
    _, second, plan = failover
    put(outbox, *(a_submission(f"n{number}") for number in range(30)))
    drain(plan, seconds=20)
    assert eyes.count("state = 'accepted' AND route = 'b' AND attempts = 1") == 30
    assert len(second.sent) == 30


def test_what_was_claimed_for_a_route_that_paused_is_given_back_and_goes_by_another(
    outbox, failover, eyes
):
    first, _, plan = failover
    hold = first.hold("n0")
    put(outbox, *(a_submission(f"n{number}") for number in range(60)))
    with at_work(plan):
        wait_for(lambda: "<n0@example.com>" in first.begun)
        hold.set()
        wait_for(lambda: eyes.count("state = 'accepted'") == 60)
    assert eyes.count("attempts = 1") == 60
    assert len(first.begun) < 20  # a window for each lane, and a probe or two


def test_each_route_has_lanes_of_its_own(outbox, plan, eyes):
    """One of two that share the mail is stuck; the other goes on with its part."""
    stuck, brisk = Told(window=1), Told(window=1)
    routing = Routing("default", ({"stuck": 1.0, "brisk": 1.0},))
    plan = replace(plan, transports={"stuck": stuck, "brisk": brisk}, routings=[routing])
    names = [f"n{number}" for number in range(8)]
    holds = [stuck.hold(name) for name in names]
    put(outbox, *map(a_submission, names))
    with at_work(plan):
        wait_for(lambda: len(brisk.sent) >= 4)
        assert eyes.count("state = 'accepted' AND route = 'stuck'") == 0
        for hold in holds:
            hold.set()
        wait_for(lambda: eyes.count("state = 'accepted'") == 8)


def shared(plan, outbox, hold, *tiers):
    """Have mail of a transport with a silent route and a brisk one; more than both hold."""
    silent, brisk = Silent(hold), Told(window=1)
    put(outbox, *(a_submission(f"n{number}") for number in range(60)))
    ways = {"silent": silent, "brisk": brisk}
    return silent, brisk, replace(plan, transports=ways, routings=[Routing("default", tiers)])


@pytest.mark.parametrize("weight", [1.0, 9.0])
def test_a_route_that_says_nothing_leaves_the_mail_to_the_one_that_shares_it(
    outbox, plan, eyes, hold, weight
):
    silent, brisk, plan = shared(plan, outbox, hold, {"silent": weight, "brisk": 1.0})
    with at_work(plan):
        wait_for(lambda: eyes.count("state = 'queued'") == 0)
        wait_for(lambda: eyes.count("state = 'sending' AND route = 'brisk'") == 0)
        held = eyes.count("state = 'sending' AND route = 'silent'")
        put(outbox, *(a_submission(f"later{number}") for number in range(20)))
        wait_for(lambda: len(brisk.sent) == 80 - held)
        assert len(silent.begun) == 2
        hold.set()
        wait_for(lambda: eyes.count("state = 'accepted'") == 80)


def test_a_route_that_holds_all_it_can_is_no_reason_to_fail_over(outbox, plan, eyes, hold):
    silent, brisk, plan = shared(plan, outbox, hold, {"silent": 1.0}, {"brisk": 1.0})
    with at_work(plan) as worker:
        wait_for(lambda: eyes.count("started_at IS NOT NULL") == 2)
        wait_for(lambda: worker._leased.dry and worker._leased.full(worker._lanes))
        assert eyes.count("state = 'queued' AND transport = 'default'") > 30
        hold.set()
        wait_for(lambda: len(silent.sent) == 60)
    assert brisk.begun == []


@pytest.mark.parametrize("rate", [0.0, 100.0])
def test_a_drain_stays_for_what_waits_for_a_full_route(file, plan, rate):
    limited = Outbox(f"sqlite:///{file}", rates=Rates(transports={"*": rate} if rate else {}))
    slow, behind = Told(window=1), Told()
    slow.at_first_byte = lambda _: time.sleep(0.002)
    put(limited, *(a_submission(f"n{number}") for number in range(60)))
    routing = Routing("default", ({"slow": 1.0}, {"behind": 1.0}))
    ways = {"slow": slow, "behind": behind}
    assert drain(replace(plan, outbox=limited, transports=ways, routings=[routing])) == 60
    assert behind.begun == []
    limited.close()


def test_two_that_hold_all_they_can_are_not_asked_for(outbox, plan, eyes, hold):
    _, _, plan = shared(plan, outbox, hold, {"silent": 1.0, "brisk": 1.0})
    plan = replace(plan, transports={"silent": Silent(hold), "brisk": Silent(hold)})
    with at_work(plan) as worker:
        wait_for(lambda: eyes.count("started_at IS NOT NULL") == 4)
        wait_for(lambda: len(worker._leased.full(worker._lanes)) == 2)
        assert worker._leased.hungry(worker._lanes) == []
        assert eyes.count("state = 'queued'") > 20
        hold.set()
        wait_for(lambda: eyes.count("state = 'accepted'") == 60)


def test_a_transport_that_nobody_configured_is_left_alone_without_a_loader(outbox, plan, eyes):
    put(outbox, a_submission(transport="acme"))
    assert drain(plan) == 0
    assert eyes.one("state") == "queued"


def test_loaded_transports_have_their_turns_with_the_configured_ones(outbox, plan, eyes):
    loaded = {}

    def load(name):
        return loaded.setdefault(name, Told())

    names = [f"t{number:02}" for number in range(3 * LOADED_AT_ONCE)]
    put(outbox, *(a_submission(f"{name}-{n}", transport=name) for name in names for n in range(3)))
    put(outbox, *(a_submission(f"d{number}") for number in range(5)))
    assert drain(replace(plan, load=load)) == 9 * LOADED_AT_ONCE + 5
    assert Counter(len(each.sent) for each in loaded.values()) == {3: len(names)}
    assert eyes.count("state = 'accepted' AND route = transport") == 9 * LOADED_AT_ONCE + 5


def test_a_thousand_stuck_tenants_take_no_more_than_so_many_lanes(outbox, plan, monkeypatch):
    monkeypatch.setattr("flask_outbox.worker.lanes.LANES_MOST", 10)
    hold, under_way, peaks = threading.Event(), [], []

    class Stuck(Told):
        def send(self, submissions):
            under_way.append(self)
            peaks.append(len(under_way))
            self.holds = dict.fromkeys((each.message_id for each in submissions), hold)
            yield from super().send(submissions)
            under_way.remove(self)

    put(outbox, *(a_submission(f"n{n}", transport=f"t{n}") for n in range(40)))
    with at_work(replace(plan, load=lambda _name: Stuck())):
        wait_for(lambda: len(under_way) == 10)
        hold.set()
        wait_for(lambda: len(peaks) == 40)
    assert max(peaks) == 10


@pytest.fixture
def tenants(outbox, plan, monkeypatch, hold):
    """Work where ten of the tenants may have a lane; those whose names begin with s are silent."""
    monkeypatch.setattr("flask_outbox.worker.lanes.LANES_MOST", 10)
    loaded = {}

    def load(name):
        silent = name.startswith("s")
        return loaded.setdefault(name, Silent(hold) if silent else Told(window=1))

    return loaded, replace(plan, load=load)


def silence(outbox, tenants, mails=8):
    for name in (f"s{number}" for number in range(tenants)):
        put(outbox, *(a_submission(f"{name}-{n}", transport=name) for n in range(mails)))


def under_way(loaded):
    return [len(each.begun) - len(each.sent) for each in list(loaded.values())]


def test_a_tenant_with_much_mail_keeps_nobody_waiting_who_comes_later(outbox, tenants, eyes, hold):
    loaded, plan = tenants
    silence(outbox, 1, 40)
    with at_work(plan) as worker:
        wait_for(lambda: under_way(loaded) == [2])
        urgent = Schedule(priority=Priority.URGENT)
        put(outbox, a_submission(transport="acme"), schedule=urgent)
        worker.wake()
        wait_for(lambda: eyes.one("state") == "accepted")
        hold.set()
        wait_for(lambda: eyes.count("state = 'accepted'") == 41)


@pytest.mark.parametrize("wakes", [True, False])
def test_nor_does_one_whose_mail_goes_all_the_time(outbox, tenants, eyes, wakes):
    """Whatever is sent for it is followed by another mail."""
    loaded, plan = tenants
    much = loaded["much"] = Told(window=1)
    more = count(300)
    much.at_first_byte = lambda _: put(outbox, a_submission(f"m{next(more)}", transport="much"))
    put(outbox, *(a_submission(f"m{number}", transport="much") for number in range(300)))
    with at_work(plan) as worker:
        wait_for(lambda: much.begun)
        put(outbox, a_submission(transport="acme"))
        if wakes:
            worker.wake()
        wait_for(lambda: eyes.one("state") == "accepted")
        assert eyes.count("state = 'queued' AND transport = 'much'") > 100


def test_who_has_mail_is_not_asked_at_every_turn(outbox, tenants, monkeypatch):
    _, plan = tenants
    asked, begins = [], time.monotonic()
    asks = the_ways.due_besides
    monkeypatch.setattr(the_ways, "due_besides", lambda *those: asked.append(1) or asks(*those))
    put(outbox, *(a_submission(f"m{number}", transport="much") for number in range(300)))
    assert drain(plan) == 300
    assert 1 <= len(asked) <= 1 + (time.monotonic() - begins) / NAMES_EVERY


def test_it_is_asked_once_a_poll_however_often_the_look_is_put_off(outbox, plan):
    put(outbox, a_submission(transport="acme"))
    ways, lanes = replace(plan, load=lambda _name: Told()).ways, Free()
    leased = Leased("w", ways)
    looks = Looks(outbox, ways, plan.poll, leased, lanes)
    looks.before_turn()
    for its_time, asks in ((False, False), (True, True)):
        leased.join([])
        looks._look_at = math.inf
        looks._names_at -= its_time * (plan.poll + NAMES_EVERY)
        looks.before_turn()
        assert ("acme" in leased.hungry(lanes)) is asks


def test_those_who_come_and_those_who_were_served_are_asked_for_by_turns(monkeypatch):
    monkeypatch.setattr("flask_outbox.worker.leased.LOADED_AT_ONCE", 2)
    leased, lanes = Leased("w", Ways({}, load=lambda _name: Told())), Free()

    def serves():
        asked = leased.hungry(lanes)
        leased.put([a_submission()], 1, asked)  # there may be more
        return asked

    leased.join(["a", "b", "c"])
    assert [serves(), serves()] == [["a", "b"], ["c", "a"]]
    leased.join(["a", "b", "c", "new", "newer"])
    assert [serves(), serves()] == [["new", "b"], ["newer", "c"]]
    assert serves() == ["a", "new"]
    leased.join(["b", "newest"])  # the others have no mail any more
    assert [serves(), serves()] == [["newest", "b"], ["newest", "b"]]


@pytest.mark.parametrize("silent", [6, 9])
def test_silent_tenants_leave_lanes_to_a_healthy_one(outbox, tenants, eyes, hold, silent):
    loaded, plan = tenants
    silence(outbox, silent)
    with at_work(plan) as worker:
        wait_for(lambda: len(loaded) == silent and sum(under_way(loaded)) >= 10)
        put(outbox, a_submission(transport="acme"))
        worker.wake()
        wait_for(lambda: eyes.one("state") == "accepted")
        assert max(under_way(loaded)) == 2
        hold.set()


def test_tenants_take_no_lane_of_what_is_configured(outbox, tenants, transport, eyes, hold):
    loaded, plan = tenants
    silence(outbox, 12)
    with at_work(plan) as worker:
        wait_for(lambda: sum(under_way(loaded)) >= 10)
        put(outbox, *(a_submission(f"d{number}") for number in range(9)))
        worker.wake()
        wait_for(lambda: len(transport.sent) == 9)
        assert sum(under_way(loaded)) <= 20
        hold.set()
        wait_for(lambda: eyes.count("state = 'accepted'") == 105)


def test_a_tenant_that_is_alone_has_all_of_its_connections(outbox, tenants, hold):
    loaded, plan = tenants
    silence(outbox, 1)
    with at_work(plan):
        wait_for(lambda: under_way(loaded) == [2])
        hold.set()


def test_who_has_no_lane_gets_one_before_others_get_another(outbox, tenants, monkeypatch):
    monkeypatch.setattr("flask_outbox.worker.lanes.LANES_MOST", 1)
    loaded, plan = tenants
    order = []

    def load(name):
        made = loaded.setdefault(name, Told(window=1))
        made.sent = order
        return made

    names = ("acme", "much")
    put(outbox, *(a_submission(f"{name}{n}", transport=name) for name in names for n in range(20)))
    assert drain(replace(plan, load=load)) == 40
    halves = [Counter(each[1:5] for each in half) for half in (order[:20], order[20:])]
    assert all(min(half[name] for name in names) > 4 for half in halves)


class Still:
    """Carries what it is given for good."""

    def carry(self, *_):
        pass


@pytest.mark.parametrize(
    ("busy", "asked", "given"),
    [
        ("", "aaaa", "aaa"),
        ("", "aabb", "abab"),
        ("", "abc", "ab"),
        ("", "aabc", "ab"),
        ("a", "aabc", "b"),
        ("a", "aab", "baa"),
        ("aaa", "abb", "b"),
        ("aab", "aabc", ""),
        ("aab", "c", ""),
        ("ddd", "aab", "aba"),
        ("ab", "cdd", "dd"),
        ("aab", "abd", "da"),
    ],
)
def test_two_tenants_have_a_lane_and_two_more_are_shared(monkeypatch, busy, asked, given):
    """Of what is d by its name, which is configured, all may go."""
    monkeypatch.setattr("flask_outbox.worker.lanes.LANES_MOST", 2)
    lanes = Lanes(Still(), Ways({"d": Told()}, load=lambda _name: Told()), 5, lambda: None)
    for route in busy:
        lanes.send([a_submission(id=route, route=route)])
    windows = lanes.spare([a_submission(route=route)] for route in asked)
    assert "".join(window[0].route for window in windows) == given


def test_a_worker_is_woken_for_a_loaded_transport_too(outbox, plan, eyes):
    with at_work(replace(plan, load=lambda _name: Told(), poll=60.0)) as worker:
        wait_for(lambda: eyes.rows("SELECT 1 FROM outbox_worker"))
        put(outbox, a_submission(transport="acme"))
        worker.wake()
        wait_for(lambda: eyes.one("state") == "accepted")


def test_a_worker_knows_when_mail_of_a_loaded_transport_is_due(outbox, plan, eyes):
    with outbox.read() as connection:
        soon = outbox.now(connection) + 0.3
    put(outbox, a_submission(transport="acme"), schedule=Schedule(at=soon))
    with at_work(replace(plan, load=lambda _name: Told(), poll=32 * BOUND)):
        wait_for(lambda: eyes.one("state") == "accepted")


@pytest.mark.parametrize("by", ["default", "acme"])
def test_a_drain_sends_what_stands_behind_one_that_goes_alone(outbox, plan, eyes, by):
    put(outbox, *(a_submission(f"n{number}", transport=by) for number in range(20)))
    eyes.change("UPDATE outbox_message SET alone = 1 WHERE message_id = '<n0@example.com>'")
    assert Worker(replace(plan, load=lambda _name: Told())).drain() == 20


def test_what_cannot_be_loaded_pauses_its_route_and_charges_nothing(outbox, plan, eyes, caplog):
    def load(name):
        raise KeyError("canary")

    put(outbox, a_submission(transport="acme"), a_submission("two"))
    drain(replace(plan, load=load), seconds=0.5)
    assert (eyes.one("state"), eyes.one("attempts")) == ("queued", 0)
    assert eyes.one("state", "two") == "accepted"
    assert "transport acme could not be loaded: KeyError" in caplog.text
    assert "canary" not in caplog.text


def test_what_waits_for_a_tenant_of_a_routes_name_never_goes_by_that_route(outbox, failover, eyes):
    """It was queued before that route was there."""
    _, second, plan = failover
    asked = []
    put(outbox, a_submission(transport="b"), a_submission("two"))
    drain(replace(plan, load=asked.append), seconds=0.5)
    assert (eyes.one("state"), eyes.one("attempts")) == ("queued", 0)
    assert eyes.one("state", "two") == "accepted"
    assert second.sent == ["<two@example.com>"]
    assert asked == []


def test_a_route_that_is_gone_is_no_reason_to_fail(outbox, plan):
    ways = Ways({"default": Told()})
    assert ways.transport("gone").name == "missing"
    assert ways.routing("gone") == Routing.single("gone")
    assert ways.names == ["default"]
