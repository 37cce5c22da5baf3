"""MAIL_OAUTH2_TOKEN: a server of tokens and a mail server that takes no other, of our own."""

import asyncio
import base64
import json
import threading
from contextlib import contextmanager

import pytest
from flask import Flask

from flask_outbox import (
    ConfigurationError,
    GoogleToken,
    Mail,
    Message,
    Microsoft365Token,
    SendError,
    State,
)
from flask_outbox.transports.smtp import Smtp
from hostile import Hostile
from hostile_http import HostileHttp, say

MANY = 24


class Tokens:
    """The server of tokens, and what the mail server knows of them."""

    def __init__(self, script=None):
        self.good = set()
        self.in_force = True  # whether the mail server has heard of what is given out
        self.refused = 0
        self.web = HostileHttp(script or {}, answers=self.answer)
        self.relay = Hostile({"AUTH": self.log_in}, auth="XOAUTH2")
        self.lock = threading.Lock()

    def answer(self, asked, number):
        token = f"canary-{number}"
        if self.in_force:
            self.good.add(token)
        said = {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}
        return 200, {}, json.dumps(said).encode()

    def log_in(self, session):
        said = base64.b64decode(session.line.split(b" ")[2]).decode()
        if said.split("Bearer ")[1].strip("\1") in self.good:
            session.polite()
        else:
            with self.lock:
                self.refused += 1
            session.send(b"535 5.7.8 " + said.strip("\1").encode()[-20:] + b"\r\n")


@pytest.fixture
def tokens():
    tokens = Tokens()
    with tokens.web, tokens.relay:
        yield tokens


def app_for(tokens, tmp_path, **config):
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config.update(
        MAIL_PORT=tokens.relay.port,
        MAIL_USERNAME="shop@example.com",
        MAIL_DEFAULT_SENDER="shop@example.com",
        MAIL_OAUTH2_TOKEN=Microsoft365Token(
            "example.com", "id", "canary-secret", authority=tokens.web.home
        ),
        MAIL_WORKER="process",
        **config,
    )
    return app


def note():
    return Message("hi", ["ada@example.org"], "text")


@contextmanager
def sender(way, app):
    mail = Mail(app)
    with app.app_context():
        if way == "send":
            yield lambda: mail.send(note())
        else:
            yield lambda: asyncio.run(mail.send_async(note()))
    app.extensions["outbox"].close()


WAYS = pytest.mark.parametrize("way", ["send", "send_async"])


@WAYS
def test_a_token_is_asked_for_once_and_used_for_all(tokens, tmp_path, way):
    with sender(way, app_for(tokens, tmp_path, MAIL_MAX_EMAILS=1)) as send:
        for _ in range(3):
            send()
    assert len(tokens.relay.accepted) == len(tokens.relay.logins) == 3
    assert len(tokens.web.requests) == 1


@WAYS
def test_one_that_was_withdrawn_is_renewed_and_the_mail_goes_out(tokens, tmp_path, way):
    with sender(way, app_for(tokens, tmp_path, MAIL_MAX_EMAILS=1)) as send:
        send()
        tokens.good.clear()
        send()
        send()
    assert len(tokens.relay.accepted) == 3
    assert (tokens.refused, len(tokens.web.requests)) == (1, 2)


@WAYS
def test_where_none_is_good_two_were_tried_and_no_secret_is_told(tokens, tmp_path, way):
    tokens.in_force = False
    with sender(way, app_for(tokens, tmp_path)) as send, pytest.raises(SendError) as caught:
        send()
    assert (tokens.refused, len(tokens.web.requests)) == (2, 2)
    assert "535 5.7.8" in str(caught.value)
    assert "canary" not in str(caught.value)


@WAYS
def test_why_there_is_no_token_is_told_without_a_secret(tmp_path, way):
    refusal = {"error": "invalid_client", "error_description": "AADSTS7000222: canary-secret"}
    tokens = Tokens({"whole": say(401, refusal)})
    with (
        tokens.web,
        tokens.relay,
        sender(way, app_for(tokens, tmp_path)) as send,
        pytest.raises(SendError) as caught,
    ):
        send()
    assert "401 invalid_client (AADSTS7000222); check the client's id and secret" in str(
        caught.value
    )
    assert "canary" not in str(caught.value)


def test_many_threads_and_tasks_ask_once(tokens, tmp_path):
    app = app_for(tokens, tmp_path, MAIL_MAX_EMAILS=1)
    mail = Mail(app)

    async def all_at_once():
        with app.app_context():
            await asyncio.gather(*(mail.send_async(note()) for _ in range(MANY)))

    def in_thread():
        with app.app_context():
            mail.send(note())

    threads = [threading.Thread(target=in_thread) for _ in range(MANY)]
    for thread in threads:
        thread.start()
    asyncio.run(all_at_once())
    for thread in threads:
        thread.join()
    app.extensions["outbox"].close()
    assert len(tokens.relay.accepted) == 2 * MANY
    assert len(tokens.web.requests) == 1


def test_a_worker_sends_what_waited_by_tokens_of_google(tokens, tmp_path):
    app = app_for(tokens, tmp_path)
    app.config["MAIL_OAUTH2_TOKEN"] = GoogleToken(
        "id", "canary-secret", "canary-refresh", endpoint=f"{tokens.web.home}/token"
    )
    mail = Mail(app)
    with app.app_context():
        rows = [mail.send_later(note()) for _ in range(5)]
        assert mail.drain() == 5
        assert {mail.status(row).state for row in rows} == {State.ACCEPTED}
    app.extensions["outbox"].close()
    assert len(tokens.web.requests) == 1


def url(tokens, user="shop%40example.com@"):
    return f"smtp://{user}127.0.0.1:{tokens.relay.port}"


@pytest.mark.parametrize(
    "config",
    [
        lambda url: {"MAIL_TRANSPORT": url},
        lambda url: {"MAIL_TRANSPORT": [url, "smtp://u:pw@127.0.0.1:1"]},
        lambda url: {"MAIL_TRANSPORT": ["smtp://u:pw@127.0.0.1:1", url]},
        lambda url: {"MAIL_TRANSPORT": {url: 2}},
        lambda url: {"MAIL_TRANSPORTS": {"default": [{url: 1}]}},
        lambda url: {"MAIL_TRANSPORTS": {"default": "resend://key@", "other": url}},
    ],
    ids=["alone", "first", "second", "weighed", "both", "named"],
)
def test_a_url_with_a_user_and_no_password_is_logged_in_to_by_it(tokens, tmp_path, config):
    app = app_for(tokens, tmp_path, **config(url(tokens)))
    del app.config["MAIL_PORT"], app.config["MAIL_USERNAME"]
    mail = Mail(app)
    with app.app_context():
        name = "other" if "other" in app.config.get("MAIL_TRANSPORTS", ()) else None
        assert mail.send(note(), transport=name).accepted
    app.extensions["outbox"].close()
    ((mechanism, (said,)),) = tokens.relay.logins
    assert mechanism == "XOAUTH2"
    assert said.startswith(b"user=shop@example.com\1")


@pytest.mark.parametrize(
    "config",
    [
        {"MAIL_SERVER": "smtp.gmail.com"},
        {"MAIL_TRANSPORT": "smtp://u:pw@smtp.gmail.com:587"},
        {"MAIL_TRANSPORT": "smtp://u:@smtp.gmail.com:587"},
        {"MAIL_TRANSPORT": "smtp://smtp.gmail.com:587"},
        {"MAIL_TRANSPORT": ["resend://key@", "null:"]},
        {"MAIL_TRANSPORT": "resend://key@", "MAIL_USERNAME": "u"},
    ],
    ids=str,
)
def test_a_token_that_nobody_logs_in_by_is_refused(config):
    app = Flask("shop")
    app.config.update(MAIL_OAUTH2_TOKEN=lambda: "token", **config)
    with pytest.raises(ConfigurationError, match="MAIL_OAUTH2_TOKEN is set, but nobody logs in"):
        Mail(app)


def test_a_token_may_stay_where_nothing_leaves():
    app = Flask("shop")
    app.config.update(MAIL_OAUTH2_TOKEN=lambda: "token", MAIL_TRANSPORT=["console:", "null:"])
    Mail(app)


def test_a_tenants_url_is_not_logged_in_to_by_the_apps_token(tokens, tmp_path):
    app = app_for(tokens, tmp_path)
    mail = Mail(app)
    mail.load_transport(lambda _name: url(tokens))
    with app.app_context(), pytest.raises(ConfigurationError, match="give an Smtp with token="):
        mail.send(note(), transport="acme")


def test_a_tenant_has_a_token_of_its_own(tokens, tmp_path):
    app = app_for(tokens, tmp_path)
    mail = Mail(app)
    own = Microsoft365Token("zeta.example", "id", "secret", authority=tokens.web.home)
    port = tokens.relay.port
    mail.load_transport(lambda name: Smtp("127.0.0.1", port, username=name, token=own))
    with app.app_context():
        assert mail.send(note(), transport="zeta").accepted
    app.extensions["outbox"].close()
    assert "zeta.example" in tokens.web.requests[0].path


def test_a_badge_tells_of_another_secret(tokens, tmp_path):
    def badge(secret):
        app = app_for(tokens, tmp_path, SECRET_KEY="key")
        app.config["MAIL_OAUTH2_TOKEN"] = GoogleToken("id", secret, "refresh")
        Mail(app)
        return app.extensions["outbox"].badge()

    assert badge("one") == badge("one")
    assert badge("one").settings != badge("two").settings


def told_by_the_doctor(app):
    Mail(app)
    result = app.test_cli_runner().invoke(args=["outbox", "doctor", "--no-dns", "--json"])
    app.extensions["outbox"].close()
    assert "canary" not in result.output
    return next(each for each in json.loads(result.stdout) if each["check"] == "transports")


def test_the_doctor_tells_a_refused_token_from_a_wrong_password(tokens, tmp_path):
    tokens.in_force = False
    finding = told_by_the_doctor(app_for(tokens, tmp_path))
    assert "by XOAUTH2" in finding["text"]
    assert "may send as it" in finding["fix"]


def test_the_doctor_tells_a_token_that_did_not_come_from_a_relay_that_is_away(tokens, tmp_path):
    app = app_for(tokens, tmp_path)
    app.config["MAIL_OAUTH2_TOKEN"] = Microsoft365Token(
        "example.com", "id", "canary-secret", authority="http://127.0.0.1:1"
    )
    finding = told_by_the_doctor(app)
    assert "no token came: 127.0.0.1:1: no connection" in finding["text"]
    assert "the server that MAIL_OAUTH2_TOKEN names" in finding["fix"]


def test_the_doctor_tells_a_token_that_was_not_given(tokens, tmp_path):
    app = app_for(tokens, tmp_path)
    with HostileHttp({"whole": [say(400, {"error": "invalid_client"})]}) as web:
        app.config["MAIL_OAUTH2_TOKEN"] = Microsoft365Token(
            "example.com", "id", "canary-secret", authority=web.home
        )
        finding = told_by_the_doctor(app)
    assert "gave no token: it answered 400 invalid_client" in finding["text"]
    assert "the id and secret it was given" in finding["fix"]
