"""Several routes of one transport, through an app: now, in an event loop, and later."""

import asyncio
import socket

import pytest
from sqlalchemy import update

from app_server import running
from flask_outbox import Message
from flask_outbox.app.sending import SendError
from flask_outbox.mail.errors import ConfigurationError, MessageError, UnsupportedFeature
from flask_outbox.mail.exchange import Report
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.outcome import Accepted, Deferred, Fault
from flask_outbox.mail.submission import Receipt
from flask_outbox.outbox import tables
from flask_outbox.transports.base import Carries
from hostile import Hostile, reset, say, take, then
from hostile_http import HostileHttp
from hostile_http import say as answer

ADA, BOB = "ada@example.org", "bob@example.org"


@pytest.fixture
def make(make_sender):
    return lambda transport, **config: make_sender(
        MAIL_TRANSPORT=transport, MAIL_WORKER="process", **config
    )


@pytest.fixture
def nobody():
    """A port at which nobody listens, and nobody else can begin to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"smtp://127.0.0.1:{held.getsockname()[1]}"


def relay(server):
    return f"smtp://127.0.0.1:{server.port}"


def resend(server):
    return f"resend://key@?home={server.home}"


def routes(app):
    """Name them, in the order in which they are preferred."""
    return app.extensions["outbox"].way().routing.routes


def note(*recipients, **fields):
    return Message("hi", list(recipients) or [ADA], "text", **fields)


def in_each_way(app, mail, message):
    """Send it now, in an event loop, and later."""
    with app.app_context():
        yield mail.send(message)
        yield asyncio.run(mail.send_async(message))
        row = mail.send_later(message)
        mail.drain(seconds=10)
        yield mail.status(row)


def test_what_is_away_is_passed_over_in_each_way(make, server, nobody):
    app, mail = make([nobody, relay(server)])
    now, in_a_loop, later = in_each_way(app, mail, note())
    assert now.accepted == in_a_loop.accepted == [ADA]
    assert (later.state, later.attempts) == (State.ACCEPTED, 1)
    assert later.route == routes(app)[1]
    assert len(server.taken) == 3


@pytest.mark.parametrize(
    "kind", [list, lambda ways: dict.fromkeys(ways, 1)], ids=["list", "mapping"]
)
def test_one_way_in_a_list_is_a_way_in_each_way(make, server, kind):
    app, mail = make(kind([relay(server)]))
    now, in_a_loop, later = in_each_way(app, mail, note())
    assert now.accepted == in_a_loop.accepted == [ADA]
    assert (later.state, later.route) == (State.ACCEPTED, "default.smtp-127.0.0.1")
    assert len(server.taken) == 3


def test_half_an_hour_of_503_is_carried_by_the_other_route(make, server):
    with HostileHttp({"whole": answer(503)}) as away:
        app, mail = make([resend(away), relay(server)])
        now, in_a_loop, later = in_each_way(app, mail, note())
    assert now.accepted == in_a_loop.accepted == [ADA]
    assert later.state is State.ACCEPTED
    assert len(server.taken) == 3


def test_a_refused_key_is_passed_over_and_alerts(make, server, caplog):
    with HostileHttp({"whole": answer(401)}) as locked:
        app, mail = make([resend(locked), relay(server)])
        with app.app_context():
            row = mail.send_later(note())
            mail.drain(seconds=10)
            assert mail.status(row).state is State.ACCEPTED
    assert "Route default.resend is paused" in caplog.text


def test_a_process_keeps_in_mind_what_failed_lately(make, server):
    with HostileHttp({"whole": answer(503, {}, retry_after="600")}) as away:
        app, mail = make([resend(away), relay(server)])
        with app.app_context():
            for _ in range(3):
                mail.send(note())
        assert len(away.requests) == 1
    assert len(server.taken) == 3


def test_where_all_have_failed_they_are_tried_all_the_same(make):
    with HostileHttp({"whole": answer(503)}) as one, HostileHttp({"whole": answer(503)}) as other:
        app, mail = make([resend(one), resend(other)])
        with app.app_context():
            for _ in range(2):
                with pytest.raises(SendError, match=r"Not accepted \(resend, then resend\)"):
                    mail.send(note())
        assert (len(one.requests), len(other.requests)) == (2, 2)


def test_a_recipients_fault_is_no_reason_to_try_another(make, server):
    with running({ADA: "550 5.1.1 no such user"}) as first:
        app, mail = make([relay(first), relay(server)])
        with app.app_context(), pytest.raises(SendError) as caught:
            mail.send(note())
        with app.app_context():
            row = mail.send_later(note())
            mail.drain(seconds=10)
            assert mail.status(row).state is State.FAILED
    assert caught.value.receipt.refused == [ADA]
    assert server.taken == []


def test_what_may_have_left_is_sent_by_no_other_route(make, server):
    with Hostile({"dot": then(take, reset)}) as first:
        app, mail = make([relay(first), relay(server)])
        with app.app_context(), pytest.raises(SendError) as caught:
            mail.send(note())
        assert caught.value.may_have_left
        with app.app_context(), pytest.raises(SendError):
            asyncio.run(mail.send_async(note()))
        with app.app_context():
            row = mail.send_later(note())
            mail.drain(seconds=10)
            status = mail.status(row)
    assert (status.state, status.recipients[0].unclear) == (State.QUEUED, 1)
    assert status.route == routes(app)[0]
    assert server.taken == []


def due_now(app):
    with app.extensions["outbox"].outbox.begin() as connection:
        connection.execute(update(tables.message).values(due_at=1.0))
        connection.execute(update(tables.recipient).values(due_at=1.0))


@pytest.mark.parametrize("after", ["swapped", "alone", "beside another"])
def test_what_may_have_left_goes_by_no_other_account_when_the_list_changes(make, after):
    script = {"whole": [then(take, reset), then(take, reset)]}
    with HostileHttp(script) as first, HostileHttp() as second:
        app, mail = make([resend(first), resend(second)])
        with app.app_context():
            row = mail.send_later(note())
            mail.drain(seconds=10)
        due_now(app)
        lists = {
            "swapped": [resend(second), resend(first)],
            "alone": [resend(second)],
            "beside another": [resend(second), "null:"],
        }
        app, mail = make(lists[after])
        with app.app_context():
            mail.drain(seconds=10)
            assert mail.status(row).state is State.QUEUED
    assert len(first.requests) == 1 + (after == "swapped")
    assert second.requests == []


def test_a_recipient_who_is_to_be_tried_later_is_not_tried_by_the_other(make, server):
    with Hostile({"RCPT": [say(b"250 ok"), say(b"451 4.3.0 later")]}) as first:
        app, mail = make([relay(first), relay(server)])
        with app.app_context():
            receipt = mail.send(note(ADA, BOB))
    assert (receipt.accepted, receipt.deferred) == ([ADA], [BOB])
    assert server.taken == []


class TakesAdaOnly:
    """For everybody else it is away."""

    name = "picky"
    carries = Carries()

    def send(self, submissions):
        for each in submissions:
            away = dict.fromkeys(each.recipients, Deferred("no way there", Fault.OURS))
            yield Report(each, Receipt({**away, ADA: Accepted("250")}))


def test_only_who_was_not_reached_is_tried_by_the_other(make, server):
    ways = [TakesAdaOnly(), relay(server)]
    app, mail = make(ways)
    with app.app_context():
        receipt = mail.send(note(BOB, ADA))
    app, mail = make(ways)  # which has not heard of the first that it turns us away
    with app.app_context():
        in_a_loop = asyncio.run(mail.send_async(note(BOB, ADA)))
    assert receipt.accepted == in_a_loop.accepted == [BOB, ADA]
    assert [each.recipients for each in server.taken] == [[BOB], [BOB]]


def test_the_mail_is_shared_by_weights(make, tmp_path):
    folders = {f"folder:{tmp_path / 'big'}": 3, f"folder:{tmp_path / 'small'}": 1}
    app, mail = make(folders)
    with app.app_context():
        for _ in range(40):
            mail.send_later(note())
        mail.drain()
    counts = [len(list((tmp_path / name).glob("*.eml"))) for name in ("big", "small")]
    assert sum(counts) == 40
    assert counts[0] > 20  # in rounds of claims, whose sizes are the worker's own


def test_a_mail_must_be_one_that_each_of_the_routes_can_carry(make, server):
    with HostileHttp() as api:
        app, mail = make([resend(api), relay(server)])
        with app.app_context(), pytest.raises(UnsupportedFeature, match="smtp"):
            mail.send_later(note(provider={"topic_id": "7"}))


def test_a_named_transport_is_chosen_per_message(make, tmp_path):
    app, mail = make("null:", MAIL_TRANSPORTS={"bulk": f"folder:{tmp_path / 'bulk'}"})
    with app.app_context():
        mail.send(note(), transport="bulk")
        asyncio.run(mail.send_async(note(), transport="bulk"))
        row = mail.send_later(note(), transport="bulk")
        mail.send(note())
        with mail.connect(transport="bulk") as connection:
            connection.send(note())
        mail.drain()
        assert mail.status(row).transport == "bulk"
        for send in (mail.send, mail.send_later):
            with pytest.raises(MessageError, match=r"transport must be one of .*'bulk'"):
                send(note(), transport="bluk")
    assert len(list((tmp_path / "bulk").glob("*.eml"))) == 4


def test_a_function_chooses_by_message(make, tmp_path):
    app, mail = make("null:", MAIL_TRANSPORTS={"bulk": f"folder:{tmp_path / 'bulk'}"})

    @mail.choose_transport
    def by_sender(message):
        return "bulk" if message.sender == "news@example.com" else None

    with app.app_context():
        mail.send(note(sender="news@example.com"))
        asyncio.run(mail.send_async(note(sender="news@example.com")))
        row = mail.send_later(note(sender="news@example.com"))
        other = mail.send_later(note())
        named = mail.send_later(note(sender="news@example.com"), transport="default")
        mail.drain()
        told = [mail.status(each).transport for each in (row, other, named)]
    assert told == ["bulk", "default", "default"]
    assert len(list((tmp_path / "bulk").glob("*.eml"))) == 3


@pytest.mark.parametrize(("chosen", "error"), [("bluk", "one of"), (7, "not int")])
def test_what_a_function_chooses_must_be_there(make, chosen, error):
    app, mail = make("null:")
    mail.choose_transport(lambda _message: chosen)
    with app.app_context(), pytest.raises(MessageError, match=f"transport.*{error}"):
        mail.send_later(note())


def test_the_doctor_looks_at_each_route(make, server, nobody):
    app, _ = make([nobody, relay(server)])
    told = app.test_cli_runner().invoke(args=["outbox", "doctor"]).output
    assert all(f"{name}: " in told for name in routes(app))


def test_no_credential_of_a_list_is_told(make):
    app, _ = make(["smtps://ada:canary-1@mail.example.com", "resend://canary-2@"])
    runtime = app.extensions["outbox"]
    assert "canary" not in repr((runtime, runtime.settings, runtime.way(), runtime.plan()))
    with pytest.raises(ConfigurationError) as caught:
        make(["smtps://ada:canary-3@mail.example.com:x"])
    assert "canary" not in str(caught.value)
