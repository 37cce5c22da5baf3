"""The kinds of database that mail can be kept in, and which one a URL names."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError

from flask_outbox.mail.errors import ConfigurationError
from flask_outbox.outbox.server import Limits
from flask_outbox.outbox.sqlite import Sqlite

SPEAKS = ("sqlite", "postgresql", "mysql", "mariadb")
_KINDS = {"postgres": "postgresql", "mariadb": "mysql"}
_PORTS = {"postgresql": 5432, "mysql": 3306}
_HERE = ("", "127.0.0.1", "::1")


class Database(Protocol):
    """What one kind of database does in its own way: sqlite.py, postgresql.py, mysql.py."""

    @property
    def url(self) -> URL:
        """Where it is."""
        ...

    @property
    def file(self) -> Path | None:
        """The file that it is, where it is one."""

    @property
    def schema(self) -> str | None:
        """The schema that our tables stand in, where they are not among the app's."""

    @property
    def options(self) -> Mapping[str, Any]:
        """What every statement of ours needs, also on a connection that is not from here."""
        ...

    @property
    def keeper(self) -> str:
        """Who keeps our tables up to date: "" (the first use), or what a person has to run."""
        ...

    @property
    def notifies(self) -> bool:
        """Whether words can be sent through it: notify.py."""
        ...

    def make(self) -> bool:
        """Make it, where it is ours to make; tell whether it is new."""
        ...

    def identity(self) -> object:
        """Tell its file from any other that may stand there; None where there is none of ours."""

    def engine(self) -> Engine:
        """Give SQLAlchemy's way to it."""
        ...

    def check(self, connection: Connection) -> Iterator[str]:
        """See whether it is new enough; say why what it acknowledges may not be on the disk."""
        ...

    def must_fit(self, content: bytes) -> None:
        """Raise TooLargeError for what it takes in no statement."""

    def alone(self, connection: Connection, key: str, /) -> AbstractContextManager[None]:
        """Keep others with the same key= waiting where they must not wait for its row together."""
        ...

    def changing(self, connection: Connection, /) -> AbstractContextManager[None]:
        """Keep others waiting who would change the tables at the same time."""
        ...

    def is_duplicate(self, cause: BaseException | None, /) -> bool:
        """Tell whether a driver's error says that a unique value is there, and nothing else."""
        ...

    def writing(
        self, engine: Engine, *, lasting: bool = True
    ) -> AbstractContextManager[Connection]:
        """Give a connection in a write transaction, committed at the end.

        ``lasting``: what it commits must outlive a crash of the server, or of the machine.
        """
        ...

    def reading(self, engine: Engine) -> AbstractContextManager[Connection]:
        """Give a connection that sees one state of the database and writes nothing."""
        ...

    def explained(self) -> AbstractContextManager[None]:
        """Turn what its driver raises into OutboxUnavailable, where it cannot be used."""
        ...

    def now(self, connection: Connection) -> float:
        """Tell its time, in a transaction of ours."""
        ...

    def time(self, connection: Connection) -> float:
        """Tell its time, in anybody's transaction."""
        ...

    def close(self, engine: Engine | None) -> None:
        """Close every connection that is ours."""

    def before_fork(self, engine: Engine | None) -> None:
        """Leave nothing open that a child would inherit and must not."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self, engine: Engine | None) -> None:
        """Forget what was the parent's."""


def database_of(where: str | Path | Engine, limits: Limits, schema: str | None) -> Database:
    """Give the database at a URL or a path, or that of an engine; raise ConfigurationError."""
    if isinstance(where, Path):
        return Sqlite(URL.create("sqlite", database=str(where)), limits.lock)
    apps = where if isinstance(where, Engine) else None
    try:
        url = where.url if isinstance(where, Engine) else make_url(where)
    except ArgumentError:
        raise ConfigurationError(
            "MAIL_OUTBOX_URL must be a database URL, such as sqlite:////path/to/outbox.sqlite3 or"
            " postgresql://user:password@host/database"
        ) from None
    match url.get_backend_name():
        case "sqlite":
            return Sqlite(url, limits.lock, apps)
        case "postgresql" | "postgres":
            from flask_outbox.outbox.postgresql import PostgreSql  # noqa: PLC0415  only where used

            return PostgreSql(url, limits, apps, schema)
        case "mysql" | "mariadb":
            from flask_outbox.outbox.mysql import MySql  # noqa: PLC0415  only where used

            return MySql(url, limits, apps, schema)
        case other:
            raise ConfigurationError(
                f"MAIL_OUTBOX_URL names {other}; the outbox speaks {', '.join(SPEAKS)}"
            )


def place(url: URL) -> tuple[object, ...]:
    """Tell two databases apart by where they are, however one gets there."""
    kind = _KINDS.get(url.get_backend_name(), url.get_backend_name())
    if kind == "sqlite":
        return kind, str(Path(url.database or ":memory:").resolve())
    socket = _asked(url, "unix_socket")
    host = socket or (_asked(url, "host") or url.host or "").lower()
    port = "" if socket else _asked(url, "port") or str(url.port or _PORTS.get(kind, 0))
    return kind, "localhost" if host in _HERE else host, port, url.database


def _asked(url: URL, name: str) -> str:
    """Read what stands behind the ``?`` of a URL, which drivers take for the same."""
    return ",".join(url.normalized_query.get(name, ()))
