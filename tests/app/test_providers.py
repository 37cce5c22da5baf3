"""An app whose mail leaves by a provider's API: now, in an event loop, later; and what cannot."""

import asyncio
import sqlite3
import subprocess
import sys
import traceback
from base64 import b64encode
from pathlib import Path

import pytest
from flask import Flask

from flask_outbox import (
    Accepted,
    Mail,
    Message,
    MessageError,
    SendError,
    State,
    UnsupportedFeature,
)
from flask_outbox.mail.outcome import Unclear
from hostile import reset, take, then
from hostile_http import HostileHttp, say

KEY = "canary-key"
URLS = {
    "resend": f"resend://{KEY}@?",
    "postmark": f"postmark://{KEY}@?",
    "sendgrid": f"sendgrid://{KEY}@?",
    "mailgun": f"mailgun://{KEY}@mg.example.com?",
    "ses": f"ses://AKIDEXAMPLE:{KEY}@?region=eu-west-1&",
}
SAID = {"mailgun": b64encode(f"api:{KEY}".encode()).decode(), "ses": "Credential=AKIDEXAMPLE/"}
PROVIDERS = pytest.mark.parametrize("scheme", URLS)


def note(**fields):
    plain = {"subject": "hi", "recipients": ["ada@example.org"], "body": "canary-body"}
    return Message(**{**plain, **fields})


@pytest.fixture
def make(make_sender):
    """Make an app whose mail leaves by this server."""

    def make(server, scheme="resend", **config):
        return make_sender(MAIL_TRANSPORT=f"{URLS[scheme]}home={server.home}", **config)

    return make


@PROVIDERS
def test_a_mail_leaves_now_and_in_a_loop_and_later(scheme, make):
    with HostileHttp() as server:
        app, mail = make(server, scheme)
        with app.app_context():
            now = mail.send(note())
            in_a_loop = asyncio.run(mail.send_async(note()))
            row = mail.send_later(note())
            server.wait_until(lambda server: len(server.accepted) == 3)
            mail.drain()
            app.extensions["outbox"].embedded.stop()
            status = mail.status(row)
        app.extensions["outbox"].close()
    assert now == {"ada@example.org": Accepted(now["ada@example.org"].text, "ref-1")}
    assert in_a_loop.reference == "ref-2"
    assert status.state is State.ACCEPTED
    assert status.recipients[0].reference == "ref-3"
    assert row in server.accepted[2].body.decode()
    assert all(SAID.get(scheme, KEY) in repr(asked.headers) for asked in server.requests)


def test_a_mail_in_doubt_is_sent_again_under_the_same_key_and_is_one_copy(make):
    with HostileHttp({"whole": [then(take, reset)]}, keys=True) as server:
        app, mail = make(server, MAIL_GIVE_UP=60)
        with app.app_context():
            row = mail.send_later(note())
            server.wait_until(lambda server: len(server.requests) == 2)
            app.extensions["outbox"].embedded.stop()
            status = mail.status(row)
        app.extensions["outbox"].close()
    first, second = server.requests
    assert first == second
    assert first.headers["idempotency-key"]
    assert len(server.accepted) == 1
    assert status.state is State.ACCEPTED
    assert status.recipients[0].unclear == 1


@pytest.mark.parametrize("answer", [say(401), say(403), say(429), say(503), say(404)])
def test_our_own_fault_pauses_the_route_and_charges_no_mail(answer, make, caplog):
    with HostileHttp({"whole": answer}) as server:
        app, mail = make(server, MAIL_WORKER="process")
        with app.app_context():
            row = mail.send_later(note())
            mail.drain(seconds=0.5)
            status = mail.status(row)
    assert status.state is State.QUEUED
    assert status.attempts == 0
    assert "Route default is paused" in caplog.text


def test_a_bug_that_shows_after_the_request_is_unclear(make, monkeypatch):
    def broken(self, response):
        raise KeyError("canary-body")

    monkeypatch.setattr("flask_outbox.transports.resend.Resend.reference", broken)
    with HostileHttp() as server:
        app, mail = make(server, MAIL_WORKER="process")
        message = note(body="x" * 3 + "\n" * 2000)  # its JSON is shorter than what was sealed
        with app.app_context():
            row = mail.send_later(message)
            mail.drain(seconds=0.5)
            status = mail.status(row)
    assert status.recipients[0].unclear == 1
    assert len(server.accepted) == 1


def test_what_is_said_of_a_failure_now(make):
    with HostileHttp({"whole": [say(401), say(422), then(take, reset)]}) as server:
        app, mail = make(server)
        with app.app_context():
            with pytest.raises(SendError, match="key in MAIL_TRANSPORT") as refused:
                mail.send(note())
            with pytest.raises(SendError, match="did not leave"):
                mail.send(note())
            with pytest.raises(SendError, match="may have left") as doubt:
                mail.send(note())
    assert type(refused.value).__name__ == "AuthenticationRefused"
    assert isinstance(doubt.value.receipt["ada@example.org"], Unclear)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"provider": {"TemplateAlias": "x"}}, r"resend cannot carry provider\['TemplateAlias'\]"),
        ({"track_opens": True}, "resend cannot carry track_opens"),
        ({"mail_options": ["BODY=8BITMIME"]}, "resend cannot carry mail_options"),
    ],
)
def test_what_it_cannot_carry_is_refused_before_anything_is_written(fields, says, make, tmp_path):
    with HostileHttp() as server:
        app, mail = make(server)
        with app.app_context():
            for way in (mail.send, mail.send_later, lambda m: asyncio.run(mail.send_async(m))):
                with pytest.raises(UnsupportedFeature, match=says):
                    way(note(**fields))
    assert server.connections == 0
    assert not (tmp_path / "instance").exists()


SUPPRESSED = pytest.mark.parametrize("quiet", [{"TESTING": True}, {"MAIL_SUPPRESS_SEND": True}])


@SUPPRESSED
@pytest.mark.parametrize(
    "ways", [{"MAIL_TRANSPORT": "resend://key@"}, {"MAIL_TRANSPORTS": {"bulk": "resend://key@"}}]
)
def test_what_it_cannot_carry_is_refused_where_nothing_goes_out_too(quiet, ways, make_sender):
    _, mail = make_sender(**quiet, **ways)
    named = {"transport": "bulk"} if "MAIL_TRANSPORTS" in ways else {}
    message = note(provider={"TemplateAlias": "x"})
    with mail.app.app_context(), mail.record_messages() as recorded:
        for way in (
            lambda: mail.send(message, **named),
            lambda: mail.send_later(message, **named),
            lambda: asyncio.run(mail.send_async(message, **named)),
        ):
            with pytest.raises(UnsupportedFeature, match="resend cannot carry provider"):
                way()
        mail.send(note(), **named)
    assert len(recorded) == 1


@SUPPRESSED
@pytest.mark.parametrize(
    "ways",
    [
        {},
        {"MAIL_SERVER": "", "MAIL_PORT": 0},
        {"MAIL_SERVER": "no such server"},
        {"MAIL_TRANSPORT": "resend://@"},
        {"MAIL_TRANSPORT": "pigeon://key@"},
    ],
)
def test_where_nothing_goes_out_and_no_provider_is_named_nothing_is_refused(
    quiet, ways, make_sender
):
    _, mail = make_sender(**quiet, **ways)
    with mail.app.app_context():
        assert mail.send(note(provider={"TemplateAlias": "x"})).accepted
        assert mail.send_later(note(track_opens=True))


@SUPPRESSED
def test_where_nothing_goes_out_no_loader_is_asked(quiet, make_sender):
    _, mail = make_sender(**quiet)
    asked = []
    mail.load_transport(asked.append)
    with mail.app.app_context():
        assert mail.send(note(track_opens=True), transport="a-tenant").accepted
        assert mail.send_later(note(track_opens=True), transport="a-tenant")
    assert asked == []


@pytest.mark.parametrize("fields", [{"provider": {"template": 1}}, {"track_clicks": False}])
def test_a_relay_refuses_what_a_provider_is_told_and_the_local_ways_take_it(fields):
    for url, takes in (("smtp://relay.example.com", False), ("memory:", True)):
        app = Flask("shop")
        app.config.update(MAIL_TRANSPORT=url, MAIL_DEFAULT_SENDER="shop@example.com")
        mail = Mail(app)
        with app.app_context():
            if takes:
                assert mail.send(note(**fields)).accepted
            else:
                with pytest.raises(UnsupportedFeature, match="smtp cannot carry"):
                    mail.send(note(**fields))


def test_what_was_queued_for_another_transport_is_refused_by_name(make):
    with HostileHttp() as server:
        app, mail = make(server, "postmark", MAIL_WORKER="process")
        with app.app_context():
            row = mail.send_later(note(track_opens=True))
        app, mail = make(server, "resend", MAIL_WORKER="process")
        with app.app_context():
            mail.drain()
            status = mail.status(row)
    assert status.state is State.FAILED
    assert "resend cannot carry track_opens" in status.recipients[0].reply


def test_a_sensitive_mail_has_no_words_for_a_provider(make):
    with HostileHttp() as server:
        app, mail = make(server)
        message = note(provider={"template": {"id": "x"}}, sensitive=True)
        with app.app_context(), pytest.raises(MessageError, match="encrypted"):
            mail.send_later(message)


ANSWERS = {
    "accepted": say(200, {"id": f"ref {KEY}", "MessageID": f"ref {KEY}", "ErrorCode": 0}),
    "refused": say(422, {"message": f"no {KEY}", "Message": f"no {KEY}"}),
    "unauthorised": say(401, {"message": f"no {KEY}", "Message": f"no {KEY}"}),
    "a header": say(503, {}, x_key=KEY, retry_after=KEY),
    "in doubt": then(take, reset),
    "base64": say(400, {"message": b64encode(KEY.encode()).decode()}),
}


@pytest.fixture
def written(tmp_path, caplog, capfd):
    """Give a function that gathers what was logged, printed and stored."""
    caplog.set_level("DEBUG")

    def gather():
        database = sqlite3.connect(tmp_path / "instance" / "outbox.sqlite3")
        lines = [line for line in database.iterdump() if '"outbox_content"' not in line]
        database.close()
        return [*lines, caplog.text, *capfd.readouterr()]

    return gather


@PROVIDERS
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_whatever_is_answered_no_key_is_told(scheme, answer, make, written):
    told = []
    with HostileHttp({"whole": answer}) as server:
        app, mail = make(server, scheme, MAIL_DEBUG=True, MAIL_WORKER="process", SECRET_KEY="x")
        runtime = app.extensions["outbox"]
        with app.app_context():
            for way in (mail.send, lambda message: asyncio.run(mail.send_async(message))):
                try:
                    told.append(repr(way(note())))
                except SendError as error:
                    told += [*traceback.format_exception(error), repr(vars(error))]
            row = mail.send_later(note(sensitive=scheme == "resend"))
            mail.drain(seconds=0.5)
            told.append(repr(mail.status(row)))
            told += [repr(each) for each in (runtime, runtime.settings, runtime.transport())]
            told += [repr(runtime.plan()), repr(vars(runtime.transport())["_secrets"])]
    told += written()
    assert server.requests
    for canary in (KEY, b64encode(KEY.encode()).decode(), SAID["mailgun"], "canary-body"):
        assert not [text for text in told if canary in text]
    assert any("POST http://127.0.0.1" in text for text in told)


SMTP_ALONE = """
import sys, threading
from flask import Flask
from flask_outbox import Mail, Message
sys.path.insert(0, sys.argv[1])
from hostile import Hostile
with Hostile() as server:
    app = Flask("shop")
    app.config.update(
        MAIL_TRANSPORT=f"smtp://127.0.0.1:{server.port}", MAIL_DEFAULT_SENDER="s@example.com"
    )
    mail = Mail(app)
    with app.app_context():
        mail.send(Message("hi", ["ada@example.org"], "text"))
    assert len(server.accepted) == 1
assert not {"h11", "botocore", "flask_outbox.wire.http", "flask_outbox.wire.aws"} & set(sys.modules)
"""


def test_an_app_that_speaks_smtp_loads_no_http():
    command = [sys.executable, "-W", "error", "-c", SMTP_ALONE, str(Path(__file__).parents[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
