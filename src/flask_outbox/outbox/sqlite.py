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
from time import monotonic, sleep
from types import MappingProxyType
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool, StaticPool

from flask_outbox.mail.errors import ConfigurationError, OutboxUnavailable
from flask_outbox.mail.say import Say
from flask_outbox.outbox.begin import about_to_write, begin_for_real
from flask_outbox.outbox.forks import uwsgi_forks_next
from flask_outbox.outbox.schema import APPS

log = Say("flask_outbox.outbox")

OLDEST = (3, 35, 0)  # the first with RETURNING and DROP COLUMN, which migrations need
NAP_LEAST, NAP_MOST = 0.0002, 0.002  # seconds between two looks at a lock
FORK_WAITS = 5.0  # seconds for a transaction under way to end before a fork
READING = {"outbox_reads": True}
WAITS = "outbox_waits"
WIPES = "outbox_wipes"
SYNCS = "outbox_syncs"

NORMAL, FULL = 1, 2  # of PRAGMA synchronous; with NORMAL the next FULL commit brings it to the disk

PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # NORMAL may lose what was acknowledged when the power fails
    "PRAGMA foreign_keys = ON",
    "PRAGMA secure_delete = ON",  # what is wiped is overwritten
    "PRAGMA journal_size_limit = 16777216",  # the log shrinks again after large attachments
)
NOW = "SELECT (julianday('now') - 2440587.5) * 86400.0"

# What SQLite says, and what a person can do about it.
FIXES = {
    "SQLITE_FULL": "the disk is full. Make room; what waits is sent by itself then.",
    "SQLITE_BUSY_SNAPSHOT": "this transaction had read before another one wrote, and cannot write "
    "any more. Roll it back and begin it anew, with the write first.",
    "SQLITE_BUSY": "another program held its write lock all the time. Look for one that keeps a "
    "transaction open, such as a database shell.",
    "SQLITE_READONLY": "it is read-only. Make the file and its folder writable for this user.",
    "SQLITE_CANTOPEN": "it cannot be opened. Make its folder exist and writable for this user, or "
    "set MAIL_OUTBOX_URL to a file elsewhere.",
    "SQLITE_PERM": "this user may not use it. Make the file and its folder its own.",
    "SQLITE_IOERR": "the disk reports an error. Look at the disk and its file system.",
    "SQLITE_CORRUPT": "its content is damaged. Restore it, or move it away and start with a new "
    "one.",
    "SQLITE_NOTADB": "it is not an SQLite database. Set MAIL_OUTBOX_URL to another file.",
}


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
                    self._let_wipe(connection)
                    with about_to_write():
                        transaction = connection.begin()
                    with transaction:
                        yield connection
                return
            writer = self._writer
            if writer is None or writer.engine is not engine or writer.invalidated:
                self._let_writer_go()
                writer = self._writer = engine.connect()
            self._let_sync(writer, FULL if lasting else NORMAL)
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
            if (said := self._explanation(error)) is None:
                raise
            raise OutboxUnavailable(said) from error

    def now(self, connection: Connection) -> float:
        """Ask the database for the time; of the driver, since every enqueue does."""
        driver: Any = connection.connection.dbapi_connection
        cursor = driver.cursor()  # an app's may be aiosqlite's, which has no execute() of its own
        try:
            cursor.execute(NOW)
            return float(cursor.fetchone()[0])
        finally:
            cursor.close()

    time = now

    def _explanation(self, error: DatabaseError | sqlite3.DatabaseError) -> str | None:
        cause = error.orig if isinstance(error, DatabaseError) else error
        name = _errorname(cause)
        fix = next((fix for prefix, fix in FIXES.items() if name.startswith(prefix)), None)
        if fix is None and isinstance(cause, sqlite3.OperationalError):
            fix = f"{cause}."
        return None if fix is None else f"The outbox {self} could not be used: {fix}"

    def _begun(self, connection: Connection) -> None:
        driver: Any = connection.connection.dbapi_connection
        if "outbox_reads" in connection.get_execution_options():
            self._let_wait(connection, int(self.busy * 1000))
            driver.execute("BEGIN")
        else:
            self._let_wait(connection, 0)  # a commit has the lock already; only BEGIN waits
            self._patiently(driver, "BEGIN IMMEDIATE")

    def _connected(self, driver: Any, _record: object) -> None:
        """Say to a new connection what SQLite must be told.

        While another process makes the file, SQLite does not wait before it changes the journal.
        """
        for pragma in PRAGMAS:
            self._patiently(driver, pragma)

    @staticmethod
    def _let_wait(connection: Connection, milliseconds: int) -> None:
        """Set SQLite's own waiting, which a connection keeps, where it is another."""
        if connection.info.get(WAITS) != milliseconds:
            driver: Any = connection.connection.dbapi_connection
            driver.execute(f"PRAGMA busy_timeout = {milliseconds}")
            connection.info[WAITS] = milliseconds

    @staticmethod
    def _let_sync(connection: Connection, level: int) -> None:
        """Set how a commit is brought to the disk, which can only be said between transactions."""
        if connection.info.get(SYNCS, FULL) != level:
            driver: Any = connection.connection.dbapi_connection
            driver.execute(f"PRAGMA synchronous = {level}").close()
            connection.info[SYNCS] = level

    @staticmethod
    def _let_wipe(connection: Connection) -> None:
        """Have what is wiped overwritten, in an app's database, too."""
        if not connection.info.get(WIPES):
            driver: Any = connection.connection.dbapi_connection
            driver.execute("PRAGMA secure_delete = ON").close()
            connection.info[WIPES] = True

    def _patiently(self, driver: Any, statement: str) -> None:
        """Execute it, waiting for a lock with shorter naps than SQLite's own.

        Those grow to 100 ms. Where several processes write all the time that is too long to hit a
        gap, and every thread that writes stands behind it.
        """
        until = monotonic() + self.busy
        nap = NAP_LEAST
        while True:
            try:
                driver.execute(statement).close()
            except sqlite3.OperationalError as error:
                if not _errorname(error).startswith("SQLITE_BUSY") or monotonic() >= until:
                    raise
                sleep(nap)
                nap = min(nap * 1.2, NAP_MOST)
            else:
                return

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


def _errorname(error: BaseException | None) -> str:
    name: str = getattr(error, "sqlite_errorname", "")
    return name
