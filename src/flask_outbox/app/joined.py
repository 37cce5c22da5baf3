"""``Mail(app, db=db)``: an app's own database and transaction, as Flask-SQLAlchemy gives them."""

import logging
from typing import Any

from flask import Flask

from flask_outbox.app.settings import Settings
from flask_outbox.mail.errors import ConfigurationError

log = logging.getLogger("flask_outbox")

NOT_FLASK_SQLALCHEMY = (
    "Mail(db=...) must be the SQLAlchemy() object of Flask-SQLAlchemy; for another session pass"
    " session= to send_later, and set MAIL_OUTBOX_URL."
)
TOO_EARLY = "Call db.init_app(app) before mail.init_app(app): the outbox is kept in db's database."
TWO_DATABASES = (
    "Mail(db=...) keeps mail in the app's database, and MAIL_OUTBOX_URL names one, too: an order"
    " and its mail would not be committed as one. Leave one of them out."
)
BIND_OF_NOTHING = "Mail(bind=...) is one of the databases of db: give db=, too."
NO_SUCH_BIND = 'Mail(bind="{bind}") must be a key of SQLALCHEMY_BINDS.'
NO_DEFAULT = (
    "Mail(db=...) keeps mail in SQLALCHEMY_DATABASE_URI, which is not set: set it, or choose one of"
    " SQLALCHEMY_BINDS with Mail(bind=...)."
)
ANOTHER_BIND = (
    'Mail is kept in the bind "%s" by the same session: it is committed by a commit of its own,'
    " and a crash between two commits may keep an order and lose its mail."
)


IN_MEMORY = (
    "The app's database is in memory: mail that waits there would be lost with the process. Set"
    " {key} to a file or a server, or TESTING."
)
URI, BINDS = "SQLALCHEMY_DATABASE_URI", "SQLALCHEMY_BINDS"


class Joined:
    """The app's database, and which of its binds has our tables."""

    def __init__(self, db: Any, bind: str | None) -> None:
        if not (hasattr(db, "metadatas") and hasattr(db, "session")):
            raise ConfigurationError(NOT_FLASK_SQLALCHEMY)
        from flask_outbox.outbox.joined import join  # noqa: PLC0415  brings SQLAlchemy

        self.db = db
        self.bind = bind
        if bind not in db.metadatas:  # as db itself does for a model
            convention = db.metadata.naming_convention
            db.metadatas[bind] = type(db.metadata)(
                naming_convention=convention, info={"bind_key": bind}
            )
        join(db.metadatas[bind])

    @property
    def session(self) -> Any:
        """The session that an app writes by."""
        return self.db.session

    def start(self, app: Flask, settings: Settings, *, suppressed: bool) -> None:
        """See at start-up whether it can work; put a real BEGIN on an SQLite engine."""
        if "MAIL_OUTBOX_URL" in settings.given:
            raise ConfigurationError(TWO_DATABASES)
        if app.extensions.get("sqlalchemy") is not self.db:
            raise ConfigurationError(TOO_EARLY)
        if self.bind is not None:
            log.warning(ANOTHER_BIND, self.bind)
        from flask_outbox.outbox.begin import is_autocommit  # noqa: PLC0415  brings SQLAlchemy
        from flask_outbox.outbox.joined import BY_ITSELF  # noqa: PLC0415  the same

        if is_autocommit(self._engine(app)):
            where = "SQLALCHEMY_ENGINE_OPTIONS" if self.bind is None else self._key()
            raise ConfigurationError(BY_ITSELF.format(what="The app's database", where=where))
        if self.is_in_memory(app) and not suppressed:
            raise ConfigurationError(IN_MEMORY.format(key=self._key()))

    def _key(self) -> str:
        return URI if self.bind is None else f'{BINDS}["{self.bind}"]'

    def engine(self, app: Flask) -> Any:
        """Give the engine of our tables' bind, as it has to be."""
        from flask_outbox.outbox.begin import begin_for_real  # noqa: PLC0415  brings SQLAlchemy
        from flask_outbox.outbox.joined import REAL_BEGIN  # noqa: PLC0415  the same

        found = self._engine(app)
        if found.dialect.name == "sqlite" and begin_for_real(found):
            log.info(REAL_BEGIN, found.url.database)
        return found

    def _engine(self, app: Flask) -> Any:
        with app.app_context():
            found = self.db.engines.get(self.bind)
        if found is None:
            raise ConfigurationError(
                NO_DEFAULT if self.bind is None else NO_SUCH_BIND.format(bind=self.bind)
            )
        return found

    def is_in_memory(self, app: Flask) -> bool:
        """Tell whether the database is gone with this process."""
        engine = self.engine(app)
        return engine.dialect.name == "sqlite" and engine.url.database in {None, "", ":memory:"}

    def table(self) -> Any:
        """Give our table among the app's, by which its session finds the bind."""
        schema = self.metadata.schema
        return self.metadata.tables[f"{schema}.outbox_message" if schema else "outbox_message"]

    @property
    def metadata(self) -> Any:
        """The app's metadata that has our tables."""
        return self.db.metadatas[self.bind]
