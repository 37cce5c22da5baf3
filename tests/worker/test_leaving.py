"""What a worker whose grace is over says of the mail that it has under way."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from flask_outbox.transports.resend import Resend
from flask_outbox.transports.smtp import Smtp
from flask_outbox.worker import loop
from flask_outbox.worker.carriers import AsyncCarrier, SyncCarrier
from flask_outbox.worker.loop import Worker, drain
from hostile import EXTENSIONS, Hostile, after, stall
from worker_stage import BOUND, a_submission, put, wait_for

IN_STEPS = tuple(each for each in EXTENSIONS if each != "PIPELINING")
IN_CHUNKS = (*EXTENSIONS, "CHUNKING")
CARRIERS = (AsyncCarrier, SyncCarrier)


def a_mail(name="one", **changes):
    """Make one that is longer than all that is said before it."""
    lines = ["From: shop@example.com", f"To: {name}@example.org", "Subject: hi"]
    lines += [f"Message-ID: <{name}@example.com>", "", *["Thank you for your order."] * 80, ""]
    return a_submission(name, content="\r\n".join(lines).encode(), **changes)


class Held:
    """An act that says nothing until the test lets it, and is polite then."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_go_on = threading.Event()

    def __call__(self, session):
        self.begun.set()
        self.may_go_on.wait(BOUND)
        session.polite()


def stalls():
    """Make an act that says nothing more, and an event that tells that it began."""
    begun = threading.Event()

    def act(session):
        begun.set()
        stall(session)

    return begun, act


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.may_go_on.set()


@pytest.fixture
def plan(plan):
    return replace(plan, connections=1, grace=0.2)


@pytest.fixture(params=CARRIERS)
def carrier(request, monkeypatch):
    """Carry the mail in each way."""
    monkeypatch.setattr(loop, "choose_carrier", request.param)
    return request.param


@contextmanager
def smtp(plan, **relay):
    """Give a relay, and a plan that sends by it."""
    with Hostile(**relay) as server:
        yield server, replace(plan, transports={"default": Smtp("127.0.0.1", server.port)})


def leave_while(condition, plan) -> None:
    """Run a worker; tell it to stop once that is so."""
    worker = Worker(plan)
    thread = threading.Thread(target=worker.run)
    thread.start()
    wait_for(condition)
    worker.stop()
    thread.join(5.0)
    assert not thread.is_alive()


def assert_given_back(eyes, count):
    """See that so many are due again as if they had never been tried."""
    untried = "attempts = 0 AND started_at IS NULL AND lease_until IS NULL AND alone = 0"
    assert eyes.count(f"state = 'queued' AND {untried}") == count
    recipients = eyes.rows("SELECT unclear, attempts FROM outbox_recipient")
    assert set(recipients) == {(0, 0)}


@pytest.mark.parametrize("extensions", [EXTENSIONS, IN_STEPS, IN_CHUNKS])
@pytest.mark.parametrize("point", ["greet", "EHLO", "MAIL", "RCPT", "DATA"])
def test_what_had_not_begun_to_leave_is_given_back_and_sent_by_the_next(  # noqa: PLR0913, PLR0917  fixtures
    outbox, plan, eyes, held, carrier, point, extensions
):
    put(outbox, *(a_mail(f"n{i}", at_most_once=True) for i in range(3)))
    with smtp(plan, script={point: [held]}, extensions=extensions) as (relay, by_relay):
        leave_while(held.begun.is_set, by_relay)
        assert_given_back(eyes, 3)
        assert relay.accepted == []
        held.may_go_on.set()
        assert drain(by_relay) == 3
        assert sorted(relay.message_ids) == [f"<n{i}@example.com>" for i in range(3)]
    assert eyes.count("state = 'accepted'") == 3


@pytest.mark.parametrize("extensions", [EXTENSIONS, IN_STEPS, IN_CHUNKS])
def test_of_a_batch_only_that_is_in_doubt_whose_content_was_out(
    outbox, plan, eyes, held, extensions
):
    put(outbox, *(a_mail(f"n{i}") for i in range(4)))
    with smtp(plan, script={"dot": [held]}, extensions=extensions) as (_, by_relay):
        leave_while(held.begun.is_set, by_relay)
        held.may_go_on.set()
    assert eyes.count("state = 'sending' AND started_at IS NOT NULL") == 1
    assert_given_back(eyes, 3)


def test_what_may_have_left_stays_in_doubt_until_its_lease_ends(outbox, plan, eyes, carrier):
    put(outbox, a_mail(at_most_once=True))
    begun, ends = stalls()
    with smtp(plan, script={"dot": ends}) as (_, by_relay):
        leave_while(begun.is_set, by_relay)
        assert eyes.one("state") == "sending"
        eyes.change("UPDATE outbox_message SET lease_until = leased_at")
        drain(by_relay)
    assert eyes.one("state") == "unknown"


def test_content_of_which_a_part_was_out_is_given_back(outbox, plan, eyes):
    begun, stops_reading = stalls()
    put(outbox, a_submission(content=b"Subject: hi\r\n\r\n" + b"x" * 70 + b"\r\n" * 4_000_000))
    script = {"body": after(10_000, stops_reading)}
    with smtp(plan, script=script, receive_buffer=4096) as (_, by_relay):
        leave_while(begun.is_set, by_relay)
    assert_given_back(eyes, 1)


def test_a_request_that_no_line_was_open_for_is_given_back(outbox, plan, eyes, held):
    put(outbox, a_mail(at_most_once=True))
    with Hostile(script={"greet": held}) as provider:  # and so it does not shake hands
        transport = Resend("key", home=f"https://127.0.0.1:{provider.port}")
        leave_while(held.begun.is_set, replace(plan, transports={"default": transport}))
        held.may_go_on.set()
    assert_given_back(eyes, 1)


def test_a_thread_that_outlives_its_worker_sends_no_more(outbox, plan, held, monkeypatch):
    monkeypatch.setattr(loop, "choose_carrier", SyncCarrier)
    put(outbox, a_mail())
    with smtp(plan, script={"MAIL": [held]}, extensions=IN_STEPS) as (relay, by_relay):
        leave_while(held.begun.is_set, by_relay)
        held.may_go_on.set()
        wait_for(lambda: not any(each.name == "outbox-lane" for each in threading.enumerate()))
        assert relay.verbs()[-1] == "MAIL"


def test_a_transport_at_work_outside_its_questions_may_have_sent(
    outbox, plan, transport, eyes, carrier
):
    begun, may_end = threading.Event(), threading.Event()

    def at_first_byte(_):
        begun.set()
        may_end.wait(BOUND)

    transport.at_first_byte = at_first_byte
    put(outbox, a_mail())
    leave_while(begun.is_set, plan)
    assert eyes.one("state") == "sending"
    may_end.set()
