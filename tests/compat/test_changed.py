"""What is different from Flask-Mail on purpose: each is an error that says how to go on."""

import socket

import pytest
from flask import Flask

import certificates
from app_server import running
from flask_outbox import ConfigurationError, Mail, Message, SendError
from hostile import Hostile


def app_with(**config):
    app = Flask("shop")
    app.config.update(MAIL_DEFAULT_SENDER="shop@example.com", **config)
    return app


def send(**config):
    app = app_with(**config)
    mail = Mail(app)
    with app.app_context():
        mail.send(Message("hi", ["ada@example.org"], "text"))


def test_a_login_without_tls_is_refused_at_start_up():
    with pytest.raises(ConfigurationError, match=r"MAIL_USE_TLS.*\?tls=insecure"):
        Mail(app_with(MAIL_SERVER="mail.example.com", MAIL_USERNAME="a", MAIL_PASSWORD="s3cret"))


def test_a_login_without_tls_is_fine_on_loopback_and_where_it_is_asked_for():
    Mail(app_with(MAIL_SERVER="127.0.0.1", MAIL_USERNAME="a", MAIL_PASSWORD="s3cret"))
    Mail(app_with(MAIL_SERVER="localhost", MAIL_USERNAME="a", MAIL_PASSWORD="s3cret"))
    Mail(app_with(MAIL_TRANSPORT="smtp://a:s3cret@mail.example.com?tls=insecure"))


def test_a_user_name_alone_logs_nobody_in():
    Mail(app_with(MAIL_SERVER="mail.example.com", MAIL_USERNAME="shop@example.com"))


@pytest.mark.parametrize("implicit", [False, True])
def test_a_certificate_that_cannot_be_verified_names_the_settings(implicit):
    context = certificates.server_context("of a stranger")
    key = "MAIL_USE_SSL" if implicit else "MAIL_USE_TLS"
    with Hostile(tls=context, implicit=implicit) as server:
        with pytest.raises(SendError, match=r"MAIL_TLS_CA_FILE.*fingerprint"):
            send(MAIL_SERVER="localhost", MAIL_PORT=server.port, **{key: True})
        assert server.accepted == []


def test_an_authority_of_ones_own_or_a_pinned_certificate_is_trusted():
    colons = ":".join(map("".join, zip(*[iter(certificates.fingerprint())] * 2, strict=True)))
    for trust in (
        {"MAIL_TLS_CA_FILE": certificates.ca_file()},
        {"MAIL_TLS_FINGERPRINT": colons.upper()},
    ):
        with Hostile(tls=certificates.server_context()) as server:
            send(MAIL_SERVER="localhost", MAIL_PORT=server.port, MAIL_USE_TLS=True, **trust)
            assert len(server.accepted) == 1


def test_tls_and_ssl_together_are_refused_at_start_up():
    with pytest.raises(ConfigurationError, match="MAIL_USE_TLS and MAIL_USE_SSL"):
        Mail(app_with(MAIL_USE_TLS=True, MAIL_USE_SSL=True))
    with pytest.raises(ConfigurationError, match="MAIL_USE_TLS and MAIL_USE_SSL"):
        Mail(app_with(MAIL_USE_TLS=True, MAIL_USE_SSL=True, TESTING=True))


@pytest.mark.parametrize(("key", "value"), [("MAIL_SERVER", ""), ("MAIL_PORT", 0)])
def test_no_server_and_no_port_are_refused_unless_suppressed(key, value):
    with pytest.raises(ConfigurationError, match=key):
        Mail(app_with(**{key: value}))
    Mail(app_with(**{key: value}, MAIL_SUPPRESS_SEND=True))
    Mail(app_with(**{key: value}, TESTING=True))


def test_what_start_up_let_pass_is_refused_when_it_is_to_be_used():
    app = app_with(MAIL_SERVER="", TESTING=True)
    mail = Mail(app)
    app.testing = False
    with app.app_context(), pytest.raises(ConfigurationError, match="MAIL_SERVER"):
        mail.send(Message("hi", ["ada@example.org"], "text"))


def test_465_and_587_mixed_up_say_which_switch_to_turn():
    with pytest.raises(ConfigurationError, match="MAIL_USE_SSL=True"):
        Mail(app_with(MAIL_SERVER="mail.example.com", MAIL_PORT=465, MAIL_USE_TLS=True))
    with pytest.raises(ConfigurationError, match="MAIL_USE_TLS=True"):
        Mail(app_with(MAIL_SERVER="mail.example.com", MAIL_PORT=587, MAIL_USE_SSL=True))


def test_a_server_that_speaks_first_where_tls_should_names_the_switch():
    with running() as server, pytest.raises(SendError, match="MAIL_USE_TLS"):
        send(MAIL_PORT=server.port, MAIL_USE_SSL=True)


@pytest.fixture
def nobody_on_25(monkeypatch):
    """Make sure that nobody listens on the default port, whatever this machine runs."""
    real = socket.socket.connect
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        there = unused.getsockname()

        def connect(self, address):
            return real(self, there if address == ("127.0.0.1", 25) else address)

        monkeypatch.setattr(socket.socket, "connect", connect)
        yield


def test_nobody_on_the_default_says_that_no_server_was_configured(nobody_on_25):
    with pytest.raises(SendError, match=r"No mail server was configured.*MAIL_SERVER") as caught:
        send()
    assert isinstance(caught.value, ConnectionRefusedError)


def test_nobody_where_a_server_was_configured_asks_whether_it_runs():
    with Hostile({}) as server:
        port = server.port
    with pytest.raises(SendError, match="MAIL_PORT") as caught:
        send(MAIL_PORT=port)
    assert "No mail server was configured" not in str(caught.value)
