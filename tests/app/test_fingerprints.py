"""What a worker shows of its configuration: enough to tell another, nothing to learn from."""

import functools

import pytest
from flask import Flask

from flask_outbox import Mail
from flask_outbox.app import fingerprints
from flask_outbox.app.keys import KEYS

KEY = "key"


class Way:
    """A transport of the app's own, with a secret in it."""

    name = "way"

    def __init__(self, secret):
        self.secret = secret

    def send(self, submissions):
        raise NotImplementedError


def badge(tmp_path, *, secret_key=KEY, live=None, **config):
    app = Flask("shop", instance_path=str(tmp_path))
    app.config.update(SECRET_KEY=secret_key, MAIL_WORKER="process", **config)
    mail = Mail(app)
    for name, value in (live or {}).items():
        setattr(mail, name, value)
    return app.extensions["outbox"].badge()


SAME = {"MAIL_PASSWORD": "canary", "MAIL_USERNAME": "ada", "MAIL_USE_TLS": True}


def test_equal_settings_have_equal_hashes_in_whatever_words(tmp_path):
    plain = badge(tmp_path, **SAME, MAIL_GIVE_UP=3600, MAIL_TRANSPORTS={"a": "null://"})
    other = badge(tmp_path, **SAME, MAIL_GIVE_UP="3600.0", MAIL_TRANSPORTS='{"a": "null://"}')
    assert plain == other
    assert len(plain.settings) == len(plain.secret) == 64


def test_a_module_may_have_another_name_where_it_is_the_program(tmp_path, monkeypatch):
    imported = badge(tmp_path, MAIL_TRANSPORT=Way("s"))
    monkeypatch.setattr(Way, "__module__", "__main__")
    assert badge(tmp_path, MAIL_TRANSPORT=Way("s")) == imported


@pytest.mark.parametrize(
    "change",
    [
        {"MAIL_PASSWORD": "other"},
        {"MAIL_USERNAME": "bob"},
        {"MAIL_SERVER": "relay.example.com"},
        {"MAIL_PORT": 587},
        {"MAIL_USE_TLS": False},
        {"MAIL_TRANSPORT": "smtp://relay.example.com"},
        {"MAIL_TRANSPORTS": {"bulk": "smtp://relay.example.com"}},
        {"MAIL_TRANSPORTS": {"bulk": "smtp://u:other@relay.example.com"}},
        {"MAIL_TRANSPORT": Way("s")},
        {"MAIL_OAUTH2_TOKEN": lambda: "token"},
        {"MAIL_OAUTH2_TOKEN": functools.partial(str, "token")},
        {"MAIL_EHLO_NAME": "shop.example.com"},
        {"MAIL_TIMEOUT": 5},
        {"MAIL_MAX_EMAILS": 7},
        {"MAIL_TLS_FINGERPRINT": "ab" * 32},
        {"MAIL_LEASE": 60},
        {"MAIL_GIVE_UP": 60},
        {"MAIL_MAX_UNCLEAR": 1},
        {"live": {"password": "other"}},
        {"live": {"server": "relay.example.com"}},
    ],
    ids=" ".join,
)
def test_whatever_decides_how_mail_leaves_makes_another_hash(tmp_path, change):
    before, after = badge(tmp_path, **SAME), badge(tmp_path, **{**SAME, **change})
    assert before.settings != after.settings
    assert before.secret == after.secret


@pytest.mark.parametrize(
    "change",
    [
        {"MAIL_DEFAULT_SENDER": "shop@example.com"},
        {"MAIL_REDIRECT_TO": "me@example.com"},
        {"MAIL_BASE_URL": "https://shop.example.com"},
        {"MAIL_MAX_SIZE": 5},
        {"MAIL_SUPPRESS_SEND": True},
        {"MAIL_DEBUG": 1},
        {"MAIL_CONNECTIONS": 50},
        {"MAIL_GRACE": 50},
        {"MAIL_WORKER": "embedded"},
        {"MAIL_OUTBOX_URL": "sqlite:///other.sqlite3"},
    ],
    ids=" ".join,
)
def test_what_machines_may_differ_in_does_not(tmp_path, change):
    values = {**SAME, **change}
    worker = values.pop("MAIL_WORKER", None)
    app = Flask("shop", instance_path=str(tmp_path))
    app.config.update(SECRET_KEY="key", **values, **({"MAIL_WORKER": worker} if worker else {}))
    Mail(app)
    assert app.extensions["outbox"].badge() == badge(tmp_path, **SAME)


def test_what_is_not_compared_are_keys_that_there_are():
    assert not fingerprints._NOT_COMPARED - set(KEYS)


def test_a_transport_of_the_apps_own_is_known_by_its_kind_alone(tmp_path):
    one, two = (badge(tmp_path, MAIL_TRANSPORT=Way(secret)) for secret in ("a", "b"))
    assert one == two


def test_another_secret_key_makes_other_hashes_of_both(tmp_path):
    one, two = badge(tmp_path, **SAME), badge(tmp_path, **SAME, secret_key="other")
    assert one.secret != two.secret
    assert one.settings != two.settings
    assert badge(tmp_path, secret_key=b"key").secret == one.secret


def test_without_a_secret_key_no_hash_of_settings_is_shown_that_could_be_tried_out(tmp_path):
    bare = badge(tmp_path, **SAME, secret_key=None)
    assert bare.settings is None
    assert bare.secret != badge(tmp_path, **SAME).secret


def test_no_secret_shows(tmp_path):
    shown = repr(badge(tmp_path, **SAME, secret_key="canary-key"))
    assert "canary" not in shown
