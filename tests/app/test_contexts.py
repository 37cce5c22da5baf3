"""What many mails of one worker leave behind in the app: nothing."""

import gc
import logging
import threading
import weakref

import pytest
from flask import Flask, g
from flask_sqlalchemy import SQLAlchemy

from flask_outbox import Mail, Message, message_sent


@pytest.fixture
def mails(place):
    return 2000 if place.startswith("sqlite") else 200


@pytest.fixture
def app(tmp_path, place):
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config.update(
        MAIL_TRANSPORT="null:",
        MAIL_DEFAULT_SENDER="shop@example.com",
        MAIL_WORKER="process",
        MAIL_OUTBOX_URL=place,
        SQLALCHEMY_DATABASE_URI="sqlite://",
    )
    yield app
    app.extensions["outbox"].close()


def test_each_of_many_mails_has_its_own_g_and_session_though_a_teardown_raises(app, mails, caplog):
    caplog.set_level(logging.CRITICAL, "flask_outbox")  # what is kept of a log keeps its frames
    torn_down: list[None] = []

    @app.teardown_appcontext
    def raises(_error):
        if threading.current_thread() is not threading.main_thread():
            torn_down.append(None)
            raise RuntimeError("a teardown of the test")

    db = SQLAlchemy(app)  # after that teardown, so that its own comes first
    mail = Mail(app)
    heard: list[bool] = []
    kept: weakref.WeakSet[object] = weakref.WeakSet()

    def listener(_app, **_facts):
        heard.append("seen" in g)
        g.seen = bytearray(10_000)
        db.session.execute(db.text("SELECT 1"))
        kept.update([g._get_current_object(), db.session()])

    row = None
    with app.test_request_context():
        g.seen = "the caller's own"
        for _ in range(mails):
            row = mail.send_later(Message("hi", recipients=["ada@example.org"], body="text"))
        caller = g._get_current_object()
        with message_sent.connected_to(listener, sender=app):
            assert mail.drain() == mails
        assert (g._get_current_object(), g.seen) == (caller, "the caller's own")
        assert mail.status(row).state.value == "accepted"
        db.session.remove()
        assert len(db.session.registry.registry) == 0
        assert (len(heard), any(heard)) == (mails, False)
        assert len(torn_down) >= mails  # more, where somebody else listens, too
        gc.collect()
        assert len(kept) == 0
