"""What SQLite wants: a file of our own, one writer at a time, and nothing open across a fork.

Python's driver begins no transaction of its own here (``isolation_level=None``): every write
transaction is BEGIN IMMEDIATE, since one that reads first and then writes fails at once, whatever
the timeout, when somebody else wrote in between. Within one process writers queue on a lock, so
that threads do not fight through SQLite's sleeping busy handler.

A file that SQLite holds open must not cross a fork: the child would believe in locks that only its
parent has. So a fork waits until nobody is in a transaction, and finds no connection open. Where
uWSGI forks without a word, none stays open before.
"""

import os
import sqlite3
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool, StaticPool

from flask_outbox.mail.errors import ConfigurationError, OutboxUnavailable
from flask_outbox.mail.say import Say
from flask_outbox.outbox import sqlite_driver
from flask_outbox.outbox.begin import about_to_write, begin_for_real
from flask_outbox.outbox.forks import uwsgi_forks_next
from flask_outbox.outbox.schema import APPS
from flask_outbox.outbox.sqlite_driver import FULL, NORMAL, READING

log = Say("flask_outbox.outbox")

OLDEST = (3, 35, 0)  # the first with RETURNING and DROP COLUMN, which migrations need
FORK_WAITS = 5.0  # seconds for a transaction under way to end before a fork


class Sqlite:
    """One SQLite database: a file, or the memory of this process for tests."""

    schema = None
    notifies: bool = False
    options: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, url: URL, busy: float, apps: Engine | None = None) -> None:
        if sqlite3.sqlite_version_info < OLDEST:
            have, need = (
                ".".join(map(str, each)) for each in (sqlite3.sqlite_version_info, OLDEST)
            )
            raise ConfigurationError(f"The outbox needs SQLite {need}, this Python has {have}.")
        name = url.database or ":memory:"
        if name.startswith("file:"):
            raise ConfigurationError(
                "MAIL_OUTBOX_URL must name a plain file: sqlite:////path/to/outbox.sqlite3"
            )
        self.url = url
        self.busy = busy
        self.keeper = "" if apps is None else APPS
        self._apps = apps
        self._writer: Connection | None = None  # kept: who writes has the turn, so one is enough
        self.file = None if name == ":memory:" else Path(name).absolute()
        self._lock_anew()

    def __str__(self) -> str:
        return str(self.file or "in memory")

    def _lock_anew(self) -> None:
        self._writing = threading.Lock()
        # In memory there is one connection for everybody.
        self._reading = threading.Lock() if self.file else self._writing
        self._held: list[threading.Lock] = []

    # The file

    def make(self) -> bool:
        """Make the file, for this user only, before SQLite would; tell whether it is new.

        SQLite gives the files beside it (-wal, -shm) the mode of this one. A folder is made where
        its own folder exists: an app's instance folder often does not, until something needs it.
        """
        if self.file is None or self._apps is not None:
            return False
        try:
            if self.file.exists():
                return False
            self.file.parent.mkdir(exist_ok=True)
            os.close(os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            if self.file.exists():
                return False  # another process was faster
            raise self._no_folder("is not a folder") from None
        except FileNotFoundError:
            raise self._no_folder("does not exist, nor does the one above it") from None
        except OSError as error:
            raise self._no_folder(f"cannot be written ({error.strerror})") from None
        return True

    def identity(self) -> object:
        """Tell the file that stands there from any other, by what a rename does not change."""
        if self.file is None or self._apps is not None:
            return None
        try:
            found = self.file.stat()
        except OSError:  # it is gone, and whoever has it open writes into nothing
            return None
        return found.st_dev, found.st_ino

    def _no_folder(self, why: str) -> OutboxUnavailable:
        folder = self.file.parent if self.file else ""
        return OutboxUnavailable(
            f"The outbox {self} cannot be made: the folder {folder} {why}. Make it, writable for "
            "the user that runs this, or set MAIL_OUTBOX_URL to a file elsewhere."
        )

    # Connections and transactions

    def engine(self) -> Engine:
        """Make an engine whose transactions are SQLite's own."""
        if self._apps is not None:
            if self.file is None:
                raise ConfigurationError(
                    "The app's database is in memory: mail that waits there would be lost with the"
                    " process. Set SQLALCHEMY_DATABASE_URI to a file or a server, or TESTING."
                )
            begin_for_real(self._apps)
            ours = self._apps.execution_options()
            ours.hide_parameters = True  # an error must not quote a mail
            return ours
        pool: dict[str, Any] = {"poolclass": StaticPool}
        if self.file is not None:
            pool = {"poolclass": QueuePool, "pool_size": 2, "pool_use_lifo": True}
        engine = create_engine(
            self.url,
            hide_parameters=True,  # an error must not quote a mail
            connect_args={
                "isolation_level": None,
                "timeout": self.busy,
                "check_same_thread": False,
            },
            **pool,
        )
        event.listen(engine, "connect", self._connected)
        event.listen(engine, "begin", self._begun)
        return engine

    def check(self, connection: Connection) -> Iterator[str]:
        """Say where what was acknowledged may be lost when the power fails."""
        if self._apps is not None and self.file is not None:
            level = connection.exec_driver_sql("PRAGMA synchronous").scalar_one()
            if level < FULL:
                yield (
                    f"PRAGMA synchronous is {level} in {self}: mail that was acknowledged may be"
                    " lost when the power fails. Set it to FULL."
                )
            journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
            if journal != "wal":
                log.info(
                    "The journal of %s is in mode %s: requests and workers wait for each other, and"
                    " a commit takes longer. `PRAGMA journal_mode = WAL`, once, would change that.",
                    self,
                    journal,
                )

    @contextmanager
    def writing(self, engine: Engine, *, lasting: bool = True) -> Generator[Connection]:
        """Give a connection in a write transaction, committed at the end.

        What an app's own engine syncs, and when, is the app's to say.
        """
        with self._turn(self._writing):
            if self._apps is not None:  # whose pool may be small
                with engine.connect() as connection:
                    sqlite_driver.let_wipe(connection)
                    with about_to_write():
                        transaction = connection.begin()
                    with transaction:
                        yield connection
                return
            writer = self._writer
            if writer is None or writer.engine is not engine or writer.invalidated:
                self._let_writer_go()
                writer = self._writer = engine.connect()
            sqlite_driver.let_sync(writer, FULL if lasting else NORMAL)
            try:
                with writer.begin():
                    yield writer
            finally:
                if uwsgi_forks_next():
                    self._let_writer_go()
                    self._let_nothing_rest(engine)

    @contextmanager
    def reading(self, engine: Engine) -> Generator[Connection]:
        """Give a connection that sees one state of the database and writes nothing."""
        with self._turn(self._reading):
            try:
                with engine.execution_options(**READING).begin() as connection:
                    yield connection
            finally:
                if uwsgi_forks_next():
                    self._let_nothing_rest(engine)

    def _let_writer_go(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _let_nothing_rest(self, engine: Engine) -> None:
        if self.file is not None and self._apps is None:
            engine.dispose()

    def must_fit(self, content: bytes) -> None:
        """Take anything."""

    def alone(self, _connection: Connection, _key: str, /) -> AbstractContextManager[None]:
        """Do nothing: there is one writer."""
        return nullcontext()

    def changing(self, _connection: Connection, /) -> AbstractContextManager[None]:
        """Do nothing: there is one writer."""
        return nullcontext()

    def is_duplicate(self, _cause: BaseException | None, /) -> bool:
        """Say no: an INSERT that meets a key is no error."""
        return False

    def close(self, engine: Engine | None) -> None:
        """Close every connection; one in use is closed by the next transaction."""
        if self._writing.acquire(blocking=False):
            try:
                self._let_writer_go()
            finally:
                self._writing.release()
        if engine is not None and self._apps is None:
            engine.dispose()

    @contextmanager
    def _turn(self, lock: threading.Lock) -> Generator[None]:
        """Let one thread at a time."""
        if not lock.acquire(timeout=self.busy):
            raise OutboxUnavailable(
                f"The outbox {self} could not be used: this process kept a transaction open for "
                f"{self.busy:g} s."
            )
        try:
            with self.explained():
                yield
        finally:
            lock.release()

    @contextmanager
    def explained(self) -> Generator[None]:
        """Say what a person can do, where SQLite cannot do what it should."""
        try:
            yield
        except PoolTimeout as error:
            raise OutboxUnavailable(
                f"The outbox {self} could not be used: all connections of this process are in use."
            ) from error
        except (DatabaseError, sqlite3.DatabaseError) as error:
            if (fix := sqlite_driver.fix(error)) is None:
                raise
            raise OutboxUnavailable(f"The outbox {self} could not be used: {fix}") from error

    @staticmethod
    def now(connection: Connection) -> float:
        """Ask the database for the time."""
        return sqlite_driver.now(connection)

    time = now

    def _connected(self, driver: Any, _record: object) -> None:
        sqlite_driver.prepare(driver, self.busy)

    def _begun(self, connection: Connection) -> None:
        sqlite_driver.begin(connection, self.busy)

    # Forks

    def before_fork(self, engine: Engine | None) -> None:
        """Wait for transactions under way, and close what rests."""
        if self.file is None:
            return
        for lock in (self._writing, self._reading):
            if lock.acquire(timeout=FORK_WAITS):
                self._held.append(lock)
        if self._writing in self._held:
            self._let_writer_go()
        if (its := engine or self._apps) is not None:
            its.dispose()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        held, self._held = self._held, []
        for lock in held:
            lock.release()

    def after_fork_in_child(self, engine: Engine | None) -> None:
        """Start anew. What a thread of the parent still had open is never touched, nor closed."""
        if (its := engine or self._apps) is not None and self.file is not None:
            _LEFT_BY_PARENT.extend([its.pool, self._writer])
            its.dispose(close=False)
        self._writer = None
        self._lock_anew()


_LEFT_BY_PARENT: list[Any] = []
