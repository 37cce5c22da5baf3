"""Transports that a loader makes of a name: a thousand tenants, each by itself."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask, current_app

from flask_outbox import Mail, Message
from flask_outbox.app import tenants
from flask_outbox.mail.errors import ConfigurationError, MessageError, UnsupportedFeature
from flask_outbox.mail.exchange import Report
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.outcome import Accepted, Deferred, Fault
from flask_outbox.mail.submission import Receipt
from flask_outbox.outbox.stats import stats
from flask_outbox.transports.base import Carries
from flask_outbox.worker.loop import drain


class Account:
    """A far side that takes one password, and writes down what it took."""

    name = "account"
    carries = Carries(window=4)

    def __init__(self, password, wanted, taken):
        self.password, self.wanted, self.taken = password, wanted, taken

    def send(self, submissions):
        for each in submissions:
            if self.password != self.wanted():
                yield Report(each, Receipt.same(each, Deferred("535 refused", Fault.OURS)))
            else:
                self.taken.append(each.transport)
                yield Report(each, Receipt.same(each, Accepted("250")))


def note(**fields):
    return Message("hi", ["ada@example.org"], "text", **fields)


@pytest.fixture
def app(tmp_path):
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config.update(
        MAIL_TRANSPORT="null:", MAIL_DEFAULT_SENDER="shop@example.com", MAIL_WORKER="process"
    )
    return app


@pytest.fixture
def mail(app):
    mail = Mail(app)
    with app.app_context():
        yield mail
    app.extensions["outbox"].close()


@pytest.fixture
def forgetful(monkeypatch):
    """Nothing that was loaded is kept."""
    monkeypatch.setattr(tenants, "FRESH", -1.0)


def test_each_of_a_thousand_tenants_has_a_way_out_of_its_own(mail, app):
    taken, asked = [], []

    @mail.load_transport
    def load(name):
        assert current_app.name == "shop"
        asked.append(name)
        return Account("good", lambda: "good", taken)

    names = [f"tenant-{number}" for number in range(1000)]
    for name in names:
        mail.send_later(note(), transport=name)
    assert mail.drain() == 1000
    assert sorted(taken) == sorted(names)
    assert not any(stats(app.extensions["outbox"].outbox).counts.values())


def test_a_loader_is_called_in_the_apps_context_in_a_workers_thread_too(mail, app, forgetful):
    mail.load_transport(lambda _name: "null:" if current_app.name == "shop" else None)
    row = mail.send_later(note(), transport="acme")
    with ThreadPoolExecutor(1) as threads:
        threads.submit(drain, app.extensions["outbox"].plan()).result()
    assert mail.status(row).state is State.ACCEPTED


def test_one_tenants_pause_touches_no_other(mail, app):
    taken, words = [], {"acme": "old", "zeta": "good"}
    mail.load_transport(lambda name: Account(words[name], lambda: "good", taken))
    rows = {name: [mail.send_later(note(), transport=name) for _ in range(5)] for name in words}
    mail.drain(seconds=0.5)
    assert taken == ["zeta"] * 5
    assert {mail.status(row).attempts for row in rows["acme"]} == {0}
    (paused,) = stats(app.extensions["outbox"].outbox).routes
    assert (paused.name, paused.reason) == ("acme", "535 refused")


def test_rotated_credentials_take_effect_for_what_is_queued(mail, forgetful):
    taken, words = [], {"acme": "old"}
    mail.load_transport(lambda name: Account(words[name], lambda: "good", taken))
    row = mail.send_later(note(), transport="acme")
    mail.drain(seconds=0.3)
    assert mail.status(row).state is State.QUEUED
    words["acme"] = "good"
    end = time.monotonic() + 20
    while mail.status(row).state is State.QUEUED and time.monotonic() < end:
        mail.drain(seconds=2)
    assert mail.status(row).state is State.ACCEPTED


def test_what_was_loaded_is_kept_for_a_short_time(mail):
    asked = []

    @mail.load_transport
    def load(name):
        asked.append(name)
        return "null:"

    for _ in range(20):
        mail.send_later(note(), transport="acme")
    mail.drain()
    assert asked == ["acme"]


def test_the_outbox_has_the_name_and_no_credential(mail, app, caplog):
    mail.load_transport(lambda name: f"resend://canary-{name}@?home=http://127.0.0.1:1")
    caplog.set_level(logging.DEBUG)
    mail.send_later(note(), transport="acme")
    mail.drain(seconds=0.3)
    runtime = app.extensions["outbox"]
    with runtime.outbox.read() as connection:
        dump = "".join(connection.connection.dbapi_connection.iterdump())
    assert "acme" in dump
    assert "canary" not in dump + caplog.text + repr((runtime, runtime.plan()))


def test_a_loader_that_raises_pauses_its_tenant_alone_and_says_so_without_its_words(
    mail, caplog, forgetful
):
    broken = [True]

    @mail.load_transport
    def load(name):
        if name == "acme" and broken[0] is None:
            raise ValueError("canary: password of acme")
        return "null:"

    row = mail.send_later(note(), transport="acme")
    other = mail.send_later(note(), transport="zeta")
    broken[0] = None
    mail.drain(seconds=0.5)
    assert (mail.status(row).state, mail.status(row).attempts) == (State.QUEUED, 0)
    assert mail.status(other).state is State.ACCEPTED
    assert "transport acme could not be loaded: ValueError" in caplog.text
    assert "canary" not in caplog.text


def test_a_tenant_that_nobody_knows_is_refused_at_once(mail):
    mail.load_transport(lambda _name: None)
    for send in (mail.send, mail.send_later):
        with pytest.raises(MessageError, match=r"transport: 'acme' is not in MAIL_TRANSPORTS"):
            send(note(), transport="acme")


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb"])
def test_a_name_that_no_tenant_can_have_never_gets_to_the_loader(mail, name):
    asked = []
    mail.load_transport(asked.append)
    with pytest.raises(MessageError, match="transport must be 1 to 64 printable characters"):
        mail.send_later(note(), transport=name)
    assert asked == []


def test_a_name_of_a_route_is_no_tenants(tmp_path):
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config.update(
        MAIL_TRANSPORT=["memory:", "null:"],
        MAIL_DEFAULT_SENDER="shop@example.com",
        MAIL_WORKER="process",
    )
    mail, asked = Mail(app), []
    mail.load_transport(asked.append)
    with app.app_context():
        for send in (mail.send, mail.send_later):
            with pytest.raises(MessageError, match=r"'default\.memory' is the name of a route"):
                send(note(), transport="default.memory")
    assert asked == []
    assert app.extensions["outbox"].transport().sent == []


def test_a_loader_must_give_a_way_out(mail):
    mail.load_transport(lambda _name: 7)
    with pytest.raises(ConfigurationError, match=r"load_transport must give a URL.*not int"):
        mail.send_later(note(), transport="acme")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("smtp://canary@127.0.0.1", "the URL has a user and no password; .* an Smtp with token="),
        ("sendgrid://canary", "the URL: write sendgrid://KEY@"),
        ("canary", "the URL has to be a URL such as"),
        ("smtp://a:canary@127.0.0.1:99999", "the port has to be"),
    ],
)
def test_what_is_wrong_with_a_tenants_url_is_said_of_that(url, says, app):
    app.config.update(MAIL_TRANSPORT="smtp://shop@127.0.0.1", MAIL_OAUTH2_TOKEN=lambda: "token")
    mail = Mail(app)
    mail.load_transport(lambda _name: url)
    with app.app_context(), pytest.raises(ConfigurationError, match=says) as error:
        mail.send_later(note(), transport="acme")
    assert str(error.value).startswith("@mail.load_transport gave for 'acme': ")
    assert "MAIL_" not in str(error.value)
    assert "canary" not in str(error.value)


def test_what_a_tenants_provider_cannot_carry_is_refused_when_it_is_written_down(mail):
    mail.load_transport(lambda _name: "smtp://127.0.0.1")
    with pytest.raises(UnsupportedFeature, match="smtp"):
        mail.send_later(note(provider={"template": "x"}), transport="acme")


def test_a_configured_name_is_not_the_loaders(mail):
    asked = []
    mail.load_transport(asked.append)
    mail.send_later(note())
    mail.drain()
    assert asked == []


def test_mail_is_sent_now_by_a_tenants_transport(mail):
    taken = []
    mail.load_transport(lambda _name: Account("good", lambda: "good", taken))
    assert mail.send(note(), transport="acme").accepted == ["ada@example.org"]
    mail.choose_transport(lambda _message: "zeta")
    mail.send(note())
    assert taken == ["acme", "zeta"]


def test_a_url_in_place_of_a_name_is_refused_and_not_quoted(make_sender):
    app, mail = make_sender(MAIL_WORKER="process")
    mail.load_transport(lambda _name: "null:")
    with app.app_context(), pytest.raises(MessageError, match="transport must be a name") as caught:
        mail.send_later(Message("hi", ["ada@example.org"], "x"), transport="smtps://u:canary@h")
    assert "canary" not in str(caught.value)
