"""Who is told of new mail: by MAIL_WORKER, or what ``Mail(engine=…)`` was given."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from flask import Flask

from flask_outbox.app.settings import Settings
from flask_outbox.mail.errors import ConfigurationError

if TYPE_CHECKING:
    from flask_outbox.app.made import Made
    from flask_outbox.app.runtime import Runtime
    from flask_outbox.outbox.database import Outbox
    from flask_outbox.worker.engine import Engine

NOT_INSTALLED = (
    'MAIL_WORKER is "celery", and Celery is not installed: run '
    '`pip install "flask-outbox[celery]"`.'
)
NO_CELERY = (
    'MAIL_WORKER is "celery", and app.extensions["celery"] is not set: put your Celery there, as '
    "Flask's documentation does in celery_init_app."
)
NOT_REGISTERED = (
    'MAIL_WORKER is "celery", and the Celery in app.extensions["celery"] has no task that sends '
    "mail: call flask_outbox.worker.celery.register(celery_app) in celery_init_app."
)
TWO_WORDS = "Mail(engine=...) and MAIL_WORKER both say who sends: keep one of them."
NO_ENGINE = "Mail(engine=...) must have a method wake(due_at), which has mail.drain() called."


def check(settings: Settings, engine: object) -> None:
    """Raise ConfigurationError for what cannot be meant."""
    if engine is None:
        return
    if "MAIL_WORKER" in settings.given:
        raise ConfigurationError(TWO_WORDS)
    if not callable(getattr(engine, "wake", None)):
        raise ConfigurationError(NO_ENGINE)


def celery_is_installed() -> None:
    """Raise ConfigurationError where it is not."""
    if find_spec("celery") is None:
        raise ConfigurationError(NOT_INSTALLED)


def make_known(runtime: "Runtime") -> None:
    """Let Celery's tasks find this app."""
    if runtime.engine is not None or runtime.settings.worker == "celery":
        from flask_outbox.worker.celery import served  # noqa: PLC0415  for Celery's users only

        served.add(runtime)


def celery_of(made: "Made") -> Any:
    """Give the Celery whose tasks send an app's mail, if there is one."""
    if made.engine is not None:
        return getattr(made.engine, "celery_app", None)
    return made.app.extensions.get("celery") if made.settings.worker == "celery" else None


def of_celery(app: Flask) -> "Engine":
    """Make the engine of the app's Celery, or raise ConfigurationError with what to do."""
    from flask_outbox.worker.celery import Hints, registered  # noqa: PLC0415  for Celery's users

    celery_app = app.extensions.get("celery")
    if celery_app is None:
        raise ConfigurationError(NO_CELERY)
    if celery_app not in registered:
        raise ConfigurationError(NOT_REGISTERED)
    return Hints(celery_app)


def of_database(outbox: "Outbox") -> "Engine | None":
    """Make the engine that tells workers through the database, where it can."""
    from flask_outbox.outbox.notify import Notifier  # noqa: PLC0415  brings SQLAlchemy

    return Notifier(outbox) if outbox.database.notifies else None


class InContext:
    """An engine that is called in the app's context: its own hooks may want one."""

    def __init__(self, app: Flask, engine: "Engine") -> None:
        self._app = app
        self._engine = engine

    def wake(self, due_at: float) -> None:
        """Pass it on."""
        with self._app.app_context():
            self._engine.wake(due_at)

    def close(self) -> None:
        """Pass it on, where it is wanted."""
        if callable(close := getattr(self._engine, "close", None)):
            with self._app.app_context():
                close()
