"""What a provider's API may do to a mail, and what must become of it in the outbox.

A worker sends by the real transport to a server that misbehaves on purpose; the outbox's clock is
the test's. What an answer means for an attempt is in ``contract/http_transport_contract.py``; here
is what follows from it.
"""

from dataclasses import dataclass, replace

import pytest

from contract.http_mails import plain, rich, sealed
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.message import Message
from flask_outbox.mail.route import Routing
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.status import status
from flask_outbox.transports.mailgun import Mailgun
from flask_outbox.transports.postmark import Postmark
from flask_outbox.transports.resend import Resend
from flask_outbox.transports.sendgrid import SendGrid
from flask_outbox.transports.ses import Ses
from flask_outbox.worker.loop import drain
from flask_outbox.worker.plan import Plan
from hostile import polite, raw, reset, stall, take, then
from hostile_http import HostileHttp, say
from outbox_mail import Clock
from worker_stage import BOUND, put

WAYS = {
    "resend": lambda home: Resend("key", home),
    "postmark": lambda home: Postmark("key", home),
    "sendgrid": lambda home: SendGrid("key", home),
    "mailgun": lambda home: Mailgun("key", "mg.example.com", home),
    "ses": lambda home: Ses("eu-west-1", ("AKIDEXAMPLE", "key"), home),
}
HALF_AN_HOUR, TWO_DAYS = 1800.0, 2 * 86400.0
LIMIT = 0.3  # seconds that an answer is waited for


@dataclass
class Desk:
    """An outbox, its clock, and a worker that sends by a transport."""

    outbox: Outbox
    clock: Clock
    scheme: str

    def put(self, *messages):
        each = [replace(sealed(message), id="", date=self.clock.now) for message in messages]
        return put(self.outbox, *each)

    def drain(self, home):
        """Send what is due, as a worker with one line does."""
        return drain(self.plan({"default": self.way(home)}), seconds=BOUND)

    def drain_by_two(self, first, second):
        """Send what is due by the first, or by the second where that is away."""
        routing = Routing("default", ({"first": 1.0}, {"second": 1.0}))
        ways = {"first": self.way(first), "second": self.way(second)}
        return drain(self.plan(ways, routings=[routing]), seconds=BOUND)

    def way(self, home):
        transport = WAYS[self.scheme](home)
        transport.seconds = LIMIT
        return transport

    def plan(self, ways, **more):
        return Plan(outbox=self.outbox, transports=ways, connections=1, **more)

    def look(self, row):
        return status(self.outbox, row)


@pytest.fixture(params=WAYS)
def desk(request, tmp_path):
    clock = Clock()
    outbox = Outbox(tmp_path / "outbox.sqlite3", clock=clock)
    outbox.open()
    yield Desk(outbox, clock, request.param)
    outbox.close()


# --- no whole answer after the whole body ---


@pytest.mark.parametrize("end", [reset, stall], ids=["reset", "timeout"])
def test_a_mail_whose_answer_never_came_is_sent_again_by_the_same_way(desk, end):
    with HostileHttp({"whole": [then(take, end)]}, keys=True) as server:
        (row,) = desk.put(plain())
        desk.drain(server.home)
        doubt = desk.look(row)
        desk.clock.now += TWO_DAYS / 576
        desk.drain(server.home)
    first, second = server.requests
    assert (doubt.state, doubt.recipients[0].unclear) == (State.QUEUED, 1)
    assert first.body == second.body
    assert row in first.body.decode()
    assert desk.look(row).state is State.ACCEPTED
    assert desk.look(row).attempts == 2


@pytest.mark.parametrize("code", [408, 500, 502, 504])
def test_an_answer_of_doubt_is_as_none_at_all(desk, code):
    with HostileHttp({"whole": [then(take, say(code))]}) as server:
        (row,) = desk.put(plain())
        desk.drain(server.home)
        assert (desk.look(row).state, desk.look(row).recipients[0].unclear) == (State.QUEUED, 1)
        desk.clock.now += TWO_DAYS / 576 - 1
        desk.drain(server.home)
        assert len(server.requests) == 1
        desk.clock.now += 1
        desk.drain(server.home)
    assert len(server.requests) == 2
    assert desk.look(row).state is State.ACCEPTED


@pytest.mark.parametrize("desk", ["resend"], indirect=True)
def test_with_resend_a_mail_whose_answer_never_came_is_one_copy(desk):
    with HostileHttp({"whole": [then(take, stall)]}, keys=True) as server:
        (row,) = desk.put(plain())
        desk.drain(server.home)
        desk.clock.now += TWO_DAYS / 576
        desk.drain(server.home)
    keys = {asked.headers["idempotency-key"] for asked in server.requests}
    assert (len(server.requests), len(keys), len(server.accepted)) == (2, 1, 1)
    assert desk.look(row).recipients[0].reference == "ref-1"


def test_a_mail_in_doubt_is_sent_three_times_at_most(desk):
    with HostileHttp({"whole": then(take, reset)}) as server:
        (row,) = desk.put(plain())
        for _ in range(10):
            desk.drain(server.home)
            desk.clock.now += TWO_DAYS / 8
    assert len(server.requests) == 3
    assert desk.look(row).state is State.UNKNOWN


@pytest.mark.parametrize(
    "answer",
    [
        *(say(200, b""), say(202, b"<!doctype html>"), say(200, b'{"id": "4')),
        then(raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"), reset),
        then(raw(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n"), stall),
    ],
    ids=["empty", "a page", "half of it", "no chunk", "stalled"],
)
def test_what_was_accepted_is_not_sent_again_whatever_the_body_says(desk, answer):
    with HostileHttp({"whole": answer}) as server:
        (row,) = desk.put(plain())
        desk.drain(server.home)
        desk.clock.now += TWO_DAYS
        desk.drain(server.home)
    assert len(server.requests) == 1
    assert desk.look(row).state is State.ACCEPTED
    assert desk.look(row).recipients[0].reference == ""


@pytest.mark.parametrize("end", [reset, stall], ids=["reset", "timeout"])
def test_a_mail_whose_answer_never_came_does_not_fail_over(desk, end):
    never = {"whole": [then(take, end), say(503, retry_after="60")]}
    with HostileHttp(never) as first, HostileHttp() as second:
        desk.put(plain())
        desk.drain_by_two(first.home, second.home)
        for _ in range(3):
            desk.clock.now += TWO_DAYS / 576
            desk.drain_by_two(first.home, second.home)
    assert len(first.requests) == 3
    assert len({asked.body for asked in first.requests}) == 1
    assert second.requests == []


# --- our own faults: the route pauses ---


@pytest.mark.parametrize("code", [401, 403, 429, 503])
def test_what_is_about_us_pauses_the_route_and_costs_no_mail_anything(desk, code, caplog):
    with HostileHttp({"whole": say(code, retry_after="90")}) as server:
        rows = desk.put(*(plain() for _ in range(9)))
        desk.drain(server.home)
        asked = len(server.requests)
        assert asked < 5, "the others wait with it"
        desk.clock.now += 89
        desk.drain(server.home)
        assert len(server.requests) == asked
    assert "Route default is paused for 90 s" in caplog.text
    with HostileHttp() as server:
        desk.clock.now += 1
        desk.drain(server.home)
    assert len(server.accepted) == 9
    found = [desk.look(row) for row in rows]
    assert {(each.state, each.attempts) for each in found} == {(State.ACCEPTED, 1)}


@pytest.mark.parametrize("desk", ["resend", "postmark", "sendgrid"], indirect=True)
def test_a_mail_to_hidden_recipients_that_is_turned_away_midway_goes_on_when_it_may(desk):
    hidden = [f"{each}@example.org" for each in "abcde"]
    busy = say(429, retry_after="30")
    with HostileHttp({"whole": [polite, polite, *[busy] * 9]}) as server:
        (row,) = desk.put(Message("hi", bcc=hidden, body="x", sender="shop@example.com"))
        desk.drain(server.home)
        desk.clock.now += 29
        desk.drain(server.home)
        assert len(server.requests) == 3
    assert [each.attempts for each in desk.look(row).recipients] == [1, 1, 0, 0, 0]
    with HostileHttp() as server:
        desk.clock.now += 1
        desk.drain(server.home)
    said = [asked.body.decode() for asked in server.requests]
    assert [[each for each in hidden if each in body] for body in said] == [[x] for x in hidden[2:]]
    assert desk.look(row).state is State.ACCEPTED


def test_half_an_hour_of_503_parks_no_mail(desk):
    answers = {"whole": say(503)}
    with HostileHttp(answers) as server:
        rows = desk.put(plain(), plain())
        began = desk.clock.now
        while desk.clock.now < began + HALF_AN_HOUR:
            desk.drain(server.home)
            desk.clock.now += 60
        assert len(server.requests) >= 5
    with HostileHttp() as server:
        desk.clock.now += 3600
        desk.drain(server.home)
    assert len(server.accepted) == 2
    assert {desk.look(row).state for row in rows} == {State.ACCEPTED}
    assert {desk.look(row).attempts for row in rows} == {1}


@pytest.mark.parametrize("code", [401, 429, 503])
def test_what_is_about_us_fails_over_at_once_and_is_survived(desk, code):
    with HostileHttp({"whole": say(code)}) as first, HostileHttp() as second:
        began = desk.clock.now
        rows = []
        while desk.clock.now < began + HALF_AN_HOUR:
            rows += desk.put(plain())
            desk.drain_by_two(first.home, second.home)
            assert desk.look(rows[-1]).state is State.ACCEPTED
            desk.clock.now += 300
    assert len(second.accepted) == len(rows)
    assert first.accepted == []
    assert {desk.look(row).attempts for row in rows} == {1}


@pytest.mark.parametrize(
    "home",
    ["https://no-such-host.invalid", "http://127.0.0.1:1", "https://127.0.0.1:1"],
)
def test_an_api_that_cannot_be_reached_is_our_own_fault(desk, home, caplog):
    (row,) = desk.put(plain())
    desk.drain(home)
    assert (desk.look(row).state, desk.look(row).attempts) == (State.QUEUED, 0)
    assert "Route default is paused" in caplog.text


# --- what is about the mail ---


@pytest.mark.parametrize("code", [400, 413, 422])
def test_what_is_about_the_mail_fails_it_alone_and_for_good(desk, code):
    with HostileHttp({"whole": [say(code)]}) as server:
        rows = desk.put(plain(), plain())
        desk.drain(server.home)
        desk.clock.now += TWO_DAYS
        desk.drain(server.home)
    assert len(server.requests) == 2
    assert {desk.look(row).state for row in rows} == {State.ACCEPTED, State.FAILED}


# --- some of its recipients ---


# The others take the mail as it is sealed: one request for all.
IN_PARTS = pytest.mark.parametrize("desk", ["resend", "postmark", "sendgrid"], indirect=True)


def hidden():
    return Message("hi", [], "hello", sender="shop@example.com", bcc=["a@x.example", "b@x.example"])


@IN_PARTS
def test_of_two_requests_for_one_mail_each_has_its_own_end(desk):
    with HostileHttp({"whole": [say(422)]}) as server:
        (row,) = desk.put(hidden())
        desk.drain(server.home)
    assert len(server.accepted) == 1
    states = {each.address: each.state for each in desk.look(row).recipients}
    assert states == {"a@x.example": State.FAILED, "b@x.example": State.ACCEPTED}


@IN_PARTS
def test_of_two_requests_for_one_mail_only_what_failed_is_repeated(desk):
    with HostileHttp({"whole": [then(take, reset)]}) as server:
        (row,) = desk.put(hidden())
        desk.drain(server.home)
        desk.clock.now += TWO_DAYS / 576
        desk.drain(server.home)
    named = ["a@x.example" in asked.body.decode() for asked in server.requests]
    assert named == [True, False, True]
    assert {each.state for each in desk.look(row).recipients} == {State.ACCEPTED}


@pytest.mark.parametrize("desk", ["postmark"], indirect=True)
def test_whom_postmark_does_not_write_to_fails_and_the_others_have_their_mail(desk):
    said = "Found inactive addresses: bob@example.org. Inactive recipients are ones that …"
    refusal = say(422, {"ErrorCode": 406, "Message": said})
    with HostileHttp({"whole": [refusal]}) as server:
        (row,) = desk.put(rich())
        desk.drain(server.home)
    states = {each.address: each.state for each in desk.look(row).recipients}
    assert [name for name, state in states.items() if state is State.FAILED] == ["bob@example.org"]
    assert set(states.values()) == {State.FAILED, State.ACCEPTED}
    (accepted,) = server.accepted
    assert "bob@example.org" not in accepted.body.decode()
