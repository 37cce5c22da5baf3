"""The outbox: one database, its transactions, its clock, and its randomness."""

import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from weakref import WeakSet

from sqlalchemy import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError

from flask_outbox.mail.errors import ConfigurationError
from flask_outbox.mail.retry import Patience
from flask_outbox.mail.say import Say
from flask_outbox.outbox.schema import brought_up_to_date, is_current, must_be_current
from flask_outbox.outbox.sqlite import READING, Sqlite

log = Say("flask_outbox.outbox")

BUSY = 60.0  # seconds to wait for somebody else's transaction
PATIENCE = Patience()


class Outbox:
    """Where mail is kept. Making one touches nothing; the first transaction opens it.

    ``url``: a database URL, or the path of an SQLite file, whatever characters are in it.
    ``lease``: seconds that a worker owns a row without a sign of life. ``clock``: in place of the
    database's own. ``random``: gives that many bytes. ``busy``: seconds to wait for a lock.
    Every transaction may raise OutboxUnavailable; nothing is half done then.
    """

    def __init__(  # noqa: PLR0913  what the outbox may not have of its own: patience, time, chance
        self,
        url: str | Path,
        *,
        lease: float = 30.0,
        patience: Patience = PATIENCE,
        clock: Callable[[], float] | None = None,
        random: Callable[[int], bytes] = os.urandom,
        busy: float = BUSY,
    ) -> None:
        self.database = _database(url, busy)
        self.lease = lease
        self.patience = patience
        self.random = random
        self.serial = count()
        self._clock = clock
        self._engine: Engine | None = None
        self._writer: Connection | None = None  # kept: who writes has the turn, so one is enough
        self._opening = threading.Lock()
        _ALL.add(self)

    def __repr__(self) -> str:
        return f"<Outbox {self.database}>"

    @contextmanager
    def begin(self) -> Generator[Connection]:
        """Give a connection in a write transaction, committed at the end, rolled back on error."""
        engine = self.open()
        with self.database.turn(writes=True):
            writer = self._writer
            if writer is None or writer.engine is not engine or writer.invalidated:
                self._let_writer_go()
                writer = self._writer = engine.connect()
            with writer.begin():
                yield writer

    @contextmanager
    def read(self) -> Generator[Connection]:
        """Give a connection that sees one state of the database and writes nothing."""
        engine = self.open()
        with (
            self.database.turn(writes=False),
            engine.execution_options(**READING).begin() as connection,
        ):
            yield connection

    def now(self, connection: Connection) -> float:
        """Tell the database's time, which every lease is compared with."""
        return self._clock() if self._clock else self.database.now(connection)

    def open(self) -> Engine:
        """Make the default database, or bring it up to date; several processes may do so at once.

        Raises OutboxUnavailable where it cannot be, naming the fix.
        """
        if self._engine is None:
            with self._opening:
                if self._engine is None:
                    self._engine = self._opened()
        return self._engine

    def _opened(self) -> Engine:
        if self.database.make():
            log.info("The outbox is kept in %s, made now, for this user only.", self.database)
        engine = self.database.engine()
        try:
            with (
                self.database.turn(writes=False),
                engine.execution_options(**READING).begin() as connection,
            ):
                current = is_current(connection, self.database)
            if not current:
                must_be_current(self.database)
                self._upgrade(engine)
        except BaseException:
            engine.dispose()
            raise
        return engine

    def upgrade(self) -> None:
        """Bring the schema up to date: what ``flask outbox upgrade`` does."""
        engine = self.database.engine()
        try:
            self.database.make()
            self._upgrade(engine)
        finally:
            engine.dispose()

    def _upgrade(self, engine: Engine) -> None:
        with self.database.turn(writes=True), engine.begin() as connection:
            brought_up_to_date(connection, self.database)

    def _let_writer_go(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def close(self) -> None:
        """Close every connection; the next transaction opens anew.

        A transaction under way ends as it would have; its connection is closed by the next.
        """
        engine, self._engine = self._engine, None
        with self.database.nobody_writes() as nobody:
            if nobody:
                self._let_writer_go()
        if engine is not None:
            engine.dispose()

    def before_fork(self) -> None:
        """Leave nothing open that a child would inherit."""
        if self.database.file is None:
            return
        if self.database.before_fork():
            self._let_writer_go()
        if self._engine is not None:
            self._engine.dispose()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self.database.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Forget what was the parent's."""
        self.database.after_fork_in_child(self._engine, self._writer)
        self._writer = None
        self._opening = threading.Lock()


def _database(url: str | Path, busy: float) -> Sqlite:
    if isinstance(url, Path):
        return Sqlite(URL.create("sqlite", database=str(url)), busy)
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigurationError(
            "MAIL_OUTBOX_URL must be a database URL such as sqlite:////path/to/outbox.sqlite3"
        ) from None
    if parsed.get_backend_name() != "sqlite":
        raise ConfigurationError(
            f"MAIL_OUTBOX_URL names {parsed.get_backend_name()}, which this version does not speak "
            "yet: use sqlite:////path/to/outbox.sqlite3"
        )
    return Sqlite(parsed, busy)


_ALL: WeakSet[Outbox] = WeakSet()


def _before_fork() -> None:
    for outbox in list(_ALL):
        outbox.before_fork()


def _after_fork_in_parent() -> None:
    for outbox in list(_ALL):
        outbox.after_fork_in_parent()


def _after_fork_in_child() -> None:
    for outbox in list(_ALL):
        outbox.after_fork_in_child()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
