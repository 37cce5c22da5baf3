"""MAIL_RATE and its like: what is read, what is refused by name, and what stats say of it."""

import json
from datetime import UTC, date, datetime

import pytest
from flask import Flask

from flask_outbox import ConfigurationError, Mail, Message
from flask_outbox.app.settings import read
from flask_outbox.mail.exchange import Report
from flask_outbox.mail.outcome import Deferred
from flask_outbox.mail.rates import Limit
from flask_outbox.mail.submission import Receipt
from flask_outbox.outbox.claim import claim, start
from flask_outbox.outbox.record import record

DECEMBER = datetime(2026, 12, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("MAIL_RATE", None, {}),
        ("MAIL_RATE", "", {}),
        ("MAIL_RATE", "50/s", {"*": 50.0}),
        ("MAIL_RATE", '{"default": "60/m", "*": "1/s"}', {"default": 1.0, "*": 1.0}),
        ("MAIL_RATE", {"default": "3600/h"}, {"default": 1.0}),
        ("MAIL_DOMAIN_RATES", {"Gmail.com": "20/s"}, {"gmail.com": 20.0}),
        ("MAIL_DOMAIN_RATES", {"Exämple.com": "20/s"}, {"xn--exmple-cua.com": 20.0}),
        ("MAIL_DOMAIN_RATES", "20/s", {"*": 20.0}),
        ("MAIL_CONCURRENCY", 5, {"*": 5}),
        ("MAIL_CONCURRENCY", "5", {"*": 5}),
        ("MAIL_CONCURRENCY", {"default": 5}, {"default": 5}),
        ("MAIL_DOMAIN_CONCURRENCY", '{"gmail.com": 3, "*": 9}', {"gmail.com": 3, "*": 9}),
        ("MAIL_WARM_UP", {"News.example.com": "2026-12-01"}, {"news.example.com": DECEMBER}),
        ("MAIL_WARM_UP", {"example.com": date(2026, 12, 1)}, {"example.com": DECEMBER}),
    ],
)
def test_limits_are_read_from_python_and_from_the_environment(key, value, expected):
    assert getattr(read({key: value}), key.removeprefix("MAIL_").lower()) == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MAIL_RATE", 50),
        ("MAIL_RATE", "50"),
        ("MAIL_RATE", "50/w"),
        ("MAIL_RATE", "0/s"),
        ("MAIL_RATE", "{broken"),
        ("MAIL_RATE", ["50/s"]),
        ("MAIL_RATE", {"default": 50}),
        ("MAIL_RATE", {"defualt": "50/s"}),
        ("MAIL_RATE", {"": "50/s"}),
        ("MAIL_DOMAIN_RATES", {"not a domain": "1/s"}),
        ("MAIL_DOMAIN_RATES", {"": "1/s"}),
        ("MAIL_DOMAIN_RATES", {"gmail.com": "1/s", "GMAIL.com": "2/s"}),
        ("MAIL_DOMAIN_RATES", {"ann@gmail.com": "1/s"}),
        ("MAIL_CONCURRENCY", 0),
        ("MAIL_CONCURRENCY", "many"),
        ("MAIL_CONCURRENCY", {"bulk": 5}),
        ("MAIL_DOMAIN_CONCURRENCY", {"gmail.com": 1.5}),
        ("MAIL_WARM_UP", "2026-12-01"),
        ("MAIL_WARM_UP", {"example.com": "first of December"}),
        ("MAIL_WARM_UP", {"example.com": None}),
        ("MAIL_WARM_UP", {"*": "2026-12-01"}),
    ],
)
def test_a_wrong_limit_names_the_key_at_start_up(key, value):
    with pytest.raises(ConfigurationError, match=key):
        Mail(app_with(**{key: value}))


def app_with(**config):
    app = Flask("shop")
    app.config.update(MAIL_TRANSPORT="memory:", **config)
    return app


def test_an_error_names_what_is_wrong_within_a_mapping():
    with pytest.raises(
        ConfigurationError, match=r"MAIL_DOMAIN_RATES\['gmail.com'\] must be a rate"
    ):
        read({"MAIL_DOMAIN_RATES": {"gmail.com": "fast"}})
    with pytest.raises(ConfigurationError, match=r"MAIL_RATE\['bulk'\] .* 'default', 'news'"):
        Mail(app_with(MAIL_TRANSPORTS={"news": "memory:"}, MAIL_RATE={"bulk": "1/s"}))


def test_a_limit_may_be_about_a_transport_that_a_loader_knows():
    mail = Mail()

    @mail.load_transport
    def load(_name):
        raise LookupError

    mail.init_app(app_with(MAIL_RATE={"tenant-7": "1/s"}))


@pytest.fixture
def shop(tmp_path):
    app = Flask("shop", instance_path=str(tmp_path))
    app.config.update(
        MAIL_TRANSPORT="memory:",
        MAIL_DEFAULT_SENDER="shop@example.com",
        MAIL_WORKER="process",
        MAIL_RATE="50/s",
        MAIL_DOMAIN_RATES={"gmail.com": "20/s"},
    )
    Mail(app)
    yield app
    app.extensions["outbox"].close()


def test_the_outbox_has_the_limits_of_the_app(shop):
    rates = shop.extensions["outbox"].outbox.rates
    assert rates.of_transport("default") == Limit(50.0)
    assert rates.to_domain("gmail.com") == Limit(20.0)


def test_what_is_sent_at_once_is_held_back_by_no_rate(shop):
    shop.config["MAIL_RATE"] = "1/h"
    mail = Mail(shop)
    with shop.app_context():
        for _ in range(3):
            mail.send(Message("hi", ["ann@gmail.com"], "text"))


def test_stats_name_a_slowed_domain_and_why(shop):
    with shop.app_context():
        Mail(shop).send_later(Message("hi", ["ann@gmail.com"], "text"))
    outbox = shop.extensions["outbox"].outbox
    (mail,) = start(outbox, claim(outbox, transports=["default"], limit=1, worker="w"))
    busy = Deferred("421 4.7.0 too fast", retry_after=60.0)
    record(outbox, [Report(mail, Receipt.same(mail, busy))], lambda: 0.5)
    told = shop.test_cli_runner().invoke(args=["outbox", "stats"]).output
    assert (
        "slowed      to gmail.com by default: 10/s after '421 4.7.0 too fast', nothing until"
        in (told.replace("10.0/s", "10/s"))
    )
    told = shop.test_cli_runner().invoke(args=["outbox", "stats", "--json"]).output
    (slowed,) = json.loads(told)["slowed"]
    assert slowed["name"] == "to gmail.com by default"
