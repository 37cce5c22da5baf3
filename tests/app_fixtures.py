"""Fixtures of the tests that have an app: one under test, and one that really sends."""

import pytest
from flask import Flask

from app_server import running
from flask_outbox import Mail


@pytest.fixture
def app(tmp_path):
    """An app as Flask-Mail's documentation has it, under test."""
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config.update(TESTING=True, MAIL_DEFAULT_SENDER="shop@example.com")
    with app.app_context():
        yield app


@pytest.fixture
def mail(app):
    return Mail(app)


@pytest.fixture
def server():
    with running() as server:
        yield server


@pytest.fixture
def live(server, tmp_path):
    """An app that really sends, to the server."""
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config.update(MAIL_PORT=server.port, MAIL_DEFAULT_SENDER="shop@example.com")
    Mail(app)
    with app.app_context():
        yield app
    app.extensions["outbox"].close()


@pytest.fixture
def make_sender(tmp_path):
    """Make an app that really sends, with its Mail; closed at the end."""
    made = []

    def make(**config):
        app = Flask("shop", instance_path=str(tmp_path / "instance"))
        app.config.update(MAIL_DEFAULT_SENDER="shop@example.com", **config)
        mail = Mail(app)
        made.append(app.extensions["outbox"])
        return app, mail

    yield make
    for runtime in made:
        runtime.close()
