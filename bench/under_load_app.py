"""The app under load: one route, and four ways to send its mail, chosen by ``WAY``."""

import os
from collections.abc import Callable
from threading import Thread

import flask_mail
from flask import Flask, current_app, request

import flask_outbox

app = Flask(__name__, instance_path=os.environ.get("INSTANCE"))
app.config.update(
    MAIL_SERVER="127.0.0.1",
    MAIL_PORT=int(os.environ.get("RELAY_PORT", "25")),
    MAIL_DEFAULT_SENDER="shop@example.com",
)
BODY = "Your order has been received and is being packed.\n" * 20
WAY = os.environ.get("WAY", "none")

if WAY == "outbox":
    app.config["MAIL_CONNECTIONS"] = 25
    outbox = flask_outbox.Mail(app)
else:
    mail = flask_mail.Mail(app)


def none(_person: str) -> None:
    """Send nothing: what the request costs without mail."""


def in_the_request(person: str) -> None:
    """Send as Flask-Mail's documentation does."""
    mail.send(flask_mail.Message("Your order", [person], BODY))


def in_a_thread(person: str) -> None:
    """Send as the tutorials do."""
    application = current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001  as the tutorials do

    def send() -> None:
        with application.app_context():
            in_the_request(person)

    Thread(target=send).start()


def send_later(person: str) -> None:
    """Put it into the outbox; the embedded worker sends it."""
    outbox.send_later(flask_outbox.Message("Your order", [person], BODY))


WAYS: dict[str, Callable[[str], None]] = {
    "none": none,
    "flask-mail": in_the_request,
    "thread": in_a_thread,
    "outbox": send_later,
}


@app.post("/order")
def order() -> str:
    """Take an order."""
    WAYS[WAY](f"person{request.args['n']}@example.org")
    return "thank you\n"
