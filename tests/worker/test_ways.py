"""Transports of several routes, and transports that are loaded, in a worker."""

import threading
from collections import Counter
from dataclasses import replace

import pytest

from flask_outbox.mail.outcome import Deferred, Fault
from flask_outbox.mail.route import Routing
from flask_outbox.outbox.schedule import Schedule
from flask_outbox.worker.leased import LOADED_AT_ONCE
from flask_outbox.worker.loop import drain
from flask_outbox.worker.ways import Ways
from worker_stage import BOUND, Told, a_submission, at_work, put, wait_for

AWAY = Deferred("connection refused", Fault.OURS)


class Away(Told):
    """Takes nothing, by our own fault."""

    def send(self, submissions):
        self.outcomes.update(dict.fromkeys((each.message_id for each in submissions), AWAY))
        return super().send(submissions)


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
