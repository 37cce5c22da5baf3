"""The app of the engines' tests, made alike in the test, in a Celery worker and by ``flask``.

Its configuration comes as JSON, in the environment where there is nobody to hand it over::

    ENGINE_APP={"instance": "/tmp/x", "mail": {"MAIL_PORT": 2525}, "celery": {...}, "register": {}}

What its listeners hear, in whichever process, is appended to the file ``heard``, a JSON line each.
"""

import json
import logging
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celery import Celery, Task
from flask import Flask, current_app, g

import flask_outbox
from flask_outbox import Mail, Message
from flask_outbox.mail import retry
from flask_outbox.worker.celery import register

NAMES = (
    *("message_sent", "message_deferred", "message_failed", "email_dispatched"),
    *("route_paused", "route_resumed"),
)


def create_app(given: Mapping[str, Any] | None = None) -> Flask:
    """Make it as an application factory does."""
    config = given
    if config is None:
        config = json.loads(os.environ["ENGINE_APP"])
        logging.basicConfig(level=logging.INFO)
        retry.BACKOFF_FIRST, retry.BACKOFF_LEAST = 0.3, 0.1  # seconds, where others wait minutes
    app = Flask("shop", instance_path=config["instance"])
    app.config.from_mapping(SECRET_KEY="one key", MAIL_DEFAULT_SENDER="shop@example.com")
    app.config.from_mapping(config["mail"])
    Mail(app)  # first, as the order must not matter
    if "celery" in config:
        app.config.from_mapping(CELERY=config["celery"])
        celery_app = celery_init_app(app)
        if (options := config.get("register")) is not None:
            register(celery_app, **options)
    listen(app, Path(config["instance"]) / "heard")
    return app


def celery_init_app(app: Flask) -> Celery:
    """Flask's documentation, word by word, and two tasks."""

    class FlaskTask(Task):
        def __call__(self, *args: object, **kwargs: object) -> object:
            with app.app_context():
                return self.run(*args, **kwargs)

    celery_app = Celery(app.name, task_cls=FlaskTask)
    celery_app.config_from_object(app.config["CELERY"])
    celery_app.set_default()
    app.extensions["celery"] = celery_app

    @celery_app.task(name="send_email_task", shared=False)
    def send_email_task(name: str) -> None:
        Mail().send(Message("Hello", [f"{name}@example.org"], "Hello"))

    @celery_app.task(name="send_later_task", shared=False)
    def send_later_task(name: str) -> None:
        Mail().send_later(Message("Hello", [f"{name}@example.org"], "Hello"))

    return celery_app


def listen(app: Flask, file: Path) -> None:
    """Write down what is heard, in one write a line, as several processes do so."""

    def hear(name: str):
        def heard(sender: Flask, **facts: Any) -> None:
            line = {
                "signal": name,
                "id": facts.get("id"),
                "state": getattr(facts.get("state"), "value", None),
                "of": sender.name,
                "in": current_app.name,
                "clean": not hasattr(g, "seen"),
                "pid": os.getpid(),
                "thread": threading.current_thread().name,
            }
            if name != "email_dispatched":  # the two of one message share no context
                g.seen = True
            with file.open("a") as log:
                log.write(json.dumps(line) + "\n")

        return heard

    app.extensions["heard"] = [hear(name) for name in NAMES]  # signals hold their listeners weakly
    for name, heard in zip(NAMES, app.extensions["heard"], strict=True):
        signal = getattr(flask_outbox, name)
        signal.connect(heard, app)


def serve() -> None:
    """Live as a web process does, whose requests have started the embedded worker."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    create_app().extensions["outbox"].ready()
    print("ready", flush=True)  # noqa: T201  heard by the test
    signal.sigwait({signal.SIGTERM})


def __getattr__(name: str) -> Any:
    """Make the app when Celery asks for its own."""
    if name != "celery_app":
        raise AttributeError(name)
    return create_app().extensions["celery"]


if __name__ == "__main__":
    serve()
