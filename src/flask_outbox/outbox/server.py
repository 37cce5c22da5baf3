"""What the outbox wants of a database server, PostgreSQL's or MySQL's.

Transactions are READ COMMITTED: a claim skips rows that are locked, and must see what others have
committed since. Before each use a connection of the pool is asked whether it still lives, so that
a restart of the server costs nobody an error.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import URL, Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from flask_outbox.mail.errors import ConfigurationError, Contended, InDoubt, OutboxUnavailable
from flask_outbox.mail.say import Say
from flask_outbox.outbox.schema import APPS, UPGRADE

log = Say("flask_outbox.outbox")

CONNECT = 10  # seconds for a connection to be made
ISOLATION = "READ COMMITTED"
POOL: Mapping[str, Any] = {"pool_size": 5, "max_overflow": 15, "pool_pre_ping": True}
PASSING: Mapping[str, Any] = {"outbox_passes": True}  # a transaction that a crash may undo
CANNOT = ("OperationalError", "InterfaceError", "InternalError")  # PEP 249: not the program's fault


class Limits(NamedTuple):
    """How many seconds a transaction of ours may wait for a lock, and stand still with its own."""

    lock: float
    idle: float


class Server:
    """One database on a server; what the kinds differ in is given by those that derive from it."""

    file: Path | None = None
    time_sql = ""
    now_sql = ""  # the same, in a transaction of ours
    passing_sql = ""  # the same, in one that a crash of the server may undo
    notifies: bool = False
    package = ""  # what pip installs the driver with

    def __init__(self, url: URL, limits: Limits, apps: Engine | None, schema: str | None) -> None:
        self.url = url
        self.limits = limits
        self.keeper = UPGRADE if apps is None else APPS
        self.schema = schema
        self._apps = apps

    def __str__(self) -> str:
        where = self.url.host or "localhost"
        port = f":{self.url.port}" if self.url.port else ""
        return f"{self.url.get_backend_name()}://{where}{port}/{self.url.database or ''}"

    @property
    def options(self) -> Mapping[str, Any]:
        """What every statement of ours needs, also on a connection that is not from here."""
        return {"schema_translate_map": {None: self.schema}} if self.schema else {}

    def make(self) -> bool:
        """Leave making a database to those who keep the server."""
        return False

    def identity(self) -> object:
        """Say nothing: a server knows where its files are."""

    def engine(self) -> Engine:
        """Make an engine, or take the app's, with transactions as we need them."""
        options = self.options
        engine = self._apps
        if engine is not None:
            options = {**options, "isolation_level": ISOLATION}  # for ours, and then as it was
        else:
            try:
                engine = create_engine(
                    self.url,
                    isolation_level=ISOLATION,  # once for each connection, not for each transaction
                    pool_timeout=self.limits.lock,
                    connect_args=self.connect_args(),
                    **POOL,
                )
            except (ImportError, NoSuchModuleError) as error:
                raise ConfigurationError(
                    f"MAIL_OUTBOX_URL names {self.url.get_backend_name()}, and its driver is not"
                    f" installed: pip install 'flask-outbox[{self.package}]'"
                ) from error
        ours = engine.execution_options(**options)
        ours.hide_parameters = True  # an error must not quote a mail
        return ours

    def connect_args(self) -> dict[str, Any]:
        """Give what the driver needs so that it does not wait for ever."""
        return {}

    def check(self, connection: Connection) -> Iterator[str]:
        """See whether it is new enough; say why what it acknowledges may not be on the disk."""
        raise NotImplementedError

    def must_fit(self, content: bytes) -> None:
        """Take anything."""

    def alone(self, _connection: Connection, _key: str, /) -> AbstractContextManager[None]:
        """Let all wait at once: whoever comes first wakes the others."""
        return nullcontext()

    def changing(self, connection: Connection, /) -> AbstractContextManager[None]:
        """Let one session at a time: two that find nothing would both make it."""
        raise NotImplementedError

    def is_duplicate(self, _cause: BaseException | None, /) -> bool:
        """Say no: an INSERT that meets a key is no error."""
        return False

    @contextmanager
    def writing(self, engine: Engine, *, lasting: bool = True) -> Generator[Connection]:
        """Give a connection in a transaction, committed at the end."""
        with self.explained(), engine.connect() as connection:
            if not lasting:
                connection.execution_options(**PASSING)
            transaction = connection.begin()
            try:
                yield connection
            except BaseException:
                with suppress(DBAPIError):  # it is gone, and with it what was to be rolled back
                    transaction.rollback()
                raise
            try:
                transaction.commit()
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise InDoubt(
                        f"The outbox {self} was lost at a commit: it may have been done, or not."
                    ) from error
                raise

    @contextmanager
    def reading(self, engine: Engine) -> Generator[Connection]:
        """Give a connection for reading."""
        with self.explained(), engine.connect() as connection:
            yield connection

    def now(self, connection: Connection) -> float:
        """Ask the server for the time, in a transaction of ours, which is told what it needs."""
        passes = PASSING.keys() <= connection.get_execution_options().keys()
        sql = self.passing_sql if passes else self.now_sql
        return float(connection.exec_driver_sql(sql).scalar_one())

    def time(self, connection: Connection) -> float:
        """Ask the server for the time, in anybody's transaction."""
        return float(connection.exec_driver_sql(self.time_sql).scalar_one())

    @contextmanager
    def explained(self) -> Generator[None]:
        """Say what a person can do, where the server cannot do what it should."""
        try:
            yield
        except PoolTimeout as error:
            raise OutboxUnavailable(
                f"The outbox {self} could not be used: all connections of this process were in"
                f" use for {self.limits.lock:g} s."
            ) from error
        except Exception as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            if (reason := self.fix(cause)) is None:
                if not _cannot(cause):
                    raise
                reason = " ".join(str(cause).split("\nDETAIL")[0].split())
            if self.gave_way(cause):
                raise Contended(f"The outbox {self} was busy: {reason}") from error
            raise OutboxUnavailable(f"The outbox {self} could not be used: {reason}") from error

    def fix(self, cause: BaseException | None) -> str | None:
        """Say what a person can do about it, where that is known."""
        raise NotImplementedError

    def gave_way(self, cause: BaseException | None) -> bool:
        """Tell whether the transaction was undone for the sake of another one."""
        raise NotImplementedError

    def close(self, engine: Engine | None) -> None:
        """Close what is ours."""
        if engine is not None and self._apps is None:
            engine.dispose()

    def before_fork(self, engine: Engine | None) -> None:
        """Do nothing: a socket may cross a fork as long as the child leaves it alone."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self, engine: Engine | None) -> None:
        """Leave the parent's connections alone, those of an app that we have not used yet, too."""
        if (its := engine or self._apps) is not None:
            its.dispose(close=False)


def _cannot(error: BaseException | None) -> bool:
    """Tell whether a driver says so of the server, and not of what it was asked."""
    return any(each.__name__ in CANNOT for each in type(error).__mro__)


def told(connection: Connection, ask: str, reads: Callable[[Any], str] = str) -> str:
    """Ask for one word."""
    return reads(connection.exec_driver_sql(ask).scalar_one_or_none())
