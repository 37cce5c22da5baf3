"""Sensitive mail by way of an app: whose keys it is kept under, and how long anything is kept."""

import sqlite3
from datetime import timedelta

import pytest
from cryptography.fernet import Fernet
from flask import Flask

from flask_outbox import ConfigurationError, Mail, Message
from flask_outbox.outbox.encryption import derived
from flask_outbox.outbox.prune import prune
from flask_outbox.worker.loop import drain
from hostile import Hostile
from outbox_mail import KEY, OLD_KEY

LINK = "https://shop.example.com/reset/c4n4ry"


def a_link():
    return Message("Reset", ["ada@example.org"], LINK, sensitive=True)


@pytest.fixture
def make(tmp_path):
    made = []

    def make(**config):
        app = Flask("shop", instance_path=str(tmp_path / "instance"))
        app.config.update(MAIL_DEFAULT_SENDER="shop@example.com", MAIL_WORKER="process", **config)
        Mail(app)
        made.append(app)
        return app

    yield make
    for app in made:
        app.extensions["outbox"].close()


@pytest.fixture
def rows(tmp_path):
    def rows(query):
        connection = sqlite3.connect(tmp_path / "instance" / "outbox.sqlite3")
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    return rows


def later(app, message=None, **terms):
    with app.app_context():
        return Mail().send_later(message or a_link(), **terms)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"SECRET_KEY": "dev"}, derived(b"dev")),
        ({"SECRET_KEY": b"dev"}, derived(b"dev")),
        ({"SECRET_KEY": "dev", "MAIL_OUTBOX_KEYS": [KEY, OLD_KEY]}, KEY),
        ({"MAIL_OUTBOX_KEYS": OLD_KEY}, OLD_KEY),
    ],
    ids=["a derived one", "from bytes", "a named one", "without a SECRET_KEY"],
)
def test_it_is_encrypted_with_the_apps_first_key(make, rows, config, key):
    later(make(**config))
    ((token, cipher),) = rows("SELECT content, cipher FROM outbox_content")
    assert cipher == "fernet"
    assert LINK.encode() in Fernet(key).decrypt(token)


@pytest.mark.parametrize(
    "after",
    [
        {"SECRET_KEY": "new", "SECRET_KEY_FALLBACKS": ["older", "old"]},
        {"SECRET_KEY": "old", "MAIL_OUTBOX_KEYS": [KEY]},
    ],
)
def test_it_is_sent_after_the_secret_was_rotated_or_a_key_was_named(make, after):
    later(make(SECRET_KEY="old"))
    with Hostile() as server:
        app = make(MAIL_PORT=server.port, **after)
        assert drain(app.extensions["outbox"].plan()) == 1
        assert LINK.encode() in server.accepted[0].content


@pytest.mark.parametrize("missing", ["key", "package"])
def test_where_it_cannot_be_encrypted_the_call_says_so_and_writes_nothing(
    make, rows, monkeypatch, missing
):
    app = make(**({"SECRET_KEY": "dev"} if missing == "package" else {}))
    later(app, Message("hi", ["ada@example.org"], "text"))
    if missing == "package":
        monkeypatch.setitem(__import__("sys").modules, "cryptography.fernet", None)
    fix = {"key": "set SECRET_KEY", "package": r"pip install 'flask-outbox\[crypto\]'"}[missing]
    for terms in ({}, {"key": "k"}):
        with pytest.raises(ConfigurationError, match=fix):
            later(app, **terms)
    assert rows("SELECT count(*) FROM outbox_message") == [(1,)]


def test_under_testing_no_key_is_needed(make):
    app = make(TESTING=True)
    later(app)


def test_workers_keep_as_long_as_the_settings_say(make, rows):
    with Hostile() as server:
        app = make(
            MAIL_PORT=server.port,
            MAIL_KEEP_CONTENT=timedelta(days=1),
            MAIL_KEEP_ROWS=timedelta(days=2),
        )
        plan = app.extensions["outbox"].plan()
        assert (plan.retention._keep.content, plan.retention._keep.rows) == (86400.0, 172800.0)
        assert app.extensions["outbox"].plan().retention is plan.retention
        later(app, Message("hi", ["ada@example.org"], "text"))
        drain(plan)
    assert prune(plan.outbox, content_after=60.0, rows_after=60.0).messages == 0


def test_by_default_content_is_kept_for_a_month_and_rows_for_a_year(make):
    keep = make().extensions["outbox"].plan().retention._keep
    assert (keep.content / 86400, keep.rows / 86400) == (30, 365)
