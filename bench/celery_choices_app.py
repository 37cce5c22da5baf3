"""The app of celery_choices.py, made alike there, in Celery's workers and by ``flask``.

Its configuration comes as JSON in ``BENCH_APP``: ``instance``, ``mail``, ``celery`` and ``sweep``.
"""

import json
import logging
import os
from typing import Any

from celery import Celery, Task
from flask import Flask

from flask_outbox import Mail
from flask_outbox.worker.celery import register


def create_app(given: dict[str, Any] | None = None) -> Flask:
    """Make it as the page on Celery does."""
    if given is None:
        logging.basicConfig(level=logging.INFO)
    config = given or json.loads(os.environ["BENCH_APP"])
    app = Flask("shop", instance_path=config["instance"])
    app.config.from_mapping(MAIL_DEFAULT_SENDER="shop@example.com", **config["mail"])
    Mail(app)

    class FlaskTask(Task):
        """A task in the app's context."""

        def __call__(self, *args: object, **kwargs: object) -> object:
            """Run it."""
            with app.app_context():
                return self.run(*args, **kwargs)

    celery_app = Celery(app.name, task_cls=FlaskTask)
    celery_app.config_from_object(config["celery"])
    register(celery_app, sweep=config["sweep"])
    app.extensions["celery"] = celery_app
    return app


def __getattr__(name: str) -> Any:
    """Make the app when Celery asks for its own."""
    if name != "celery_app":
        raise AttributeError(name)
    return create_app().extensions["celery"]
