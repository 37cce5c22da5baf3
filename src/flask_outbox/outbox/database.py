"""The outbox: one database, its transactions, its clock, and its randomness."""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path
from typing import Any
from weakref import WeakSet

from sqlalchemy import Connection, Engine, Transaction

from flask_outbox.mail.rates import Rates
from flask_outbox.mail.retry import Patience
from flask_outbox.mail.say import Say
from flask_outbox.outbox.encryption import NO_KEYS, Keyring
from flask_outbox.outbox.forks import OwnLock
from flask_outbox.outbox.kinds import database_of
from flask_outbox.outbox.schema import brought_up_to_date, is_current, must_be_current
from flask_outbox.outbox.server import Limits

log = Say("flask_outbox.outbox")

BUSY = 60.0  # seconds to wait for somebody else's transaction
PATIENCE = Patience()
NO_RATES = Rates()
MOVED = (
    "The file %s was removed or replaced while this process had it open: what stands there now is"
    " used from here on."
)
ASK_AGAIN = 10.0  # seconds after which a server is asked for its time again


class Outbox:
    """Where mail is kept. Making one touches nothing; the first transaction opens it.

    ``where``: a database URL, the path of an SQLite file, whatever characters are in it, or the
    engine of an app that keeps our tables among its own. ``lease``: seconds that a worker owns a
    row without a sign of life. ``clock``: in place of the database's own. ``random``: gives that
    many bytes. ``busy``: seconds to wait for a lock. ``keyring``: encrypts what is sensitive.
    ``rates``: how fast mail may go. ``schema``: where the app's metadata has its tables, if not
    where the database looks first.
    Every transaction may raise OutboxUnavailable; nothing is half done then.
    """

    def __init__(  # noqa: PLR0913  what the outbox may not have of its own: patience, time, chance
        self,
        where: str | Path | Engine,
        *,
        lease: float = 30.0,
        patience: Patience = PATIENCE,
        clock: Callable[[], float] | None = None,
        random: Callable[[int], bytes] = os.urandom,
        busy: float = BUSY,
        keyring: Keyring = NO_KEYS,
        rates: Rates = NO_RATES,
        schema: str | None = None,
    ) -> None:
        self.database = database_of(where, Limits(busy, lease), schema)
        self.lease = lease
        self.patience = patience
        self.random = random
        self.keyring = keyring
        self.rates = rates
        self.serial = count()
        self._clock = clock
        self._engine: Engine | None = None
        self._file: object = None  # the one that is open, which may be another than stands there
        self._checked = False
        self._seen_in: WeakSet[Transaction] = WeakSet()
        self._opening = OwnLock()
        self._pid = os.getpid()
        self._offset = 0.0, -ASK_AGAIN  # from our monotonic clock to the database's, and since when
        _ALL.add(self)

    def __repr__(self) -> str:
        return f"<Outbox {self.database}>"

    @property
    def options(self) -> Mapping[str, Any]:
        """What a statement of ours needs on a connection that is not from here."""
        return self.database.options

    def begin(self, *, lasting: bool = True) -> AbstractContextManager[Connection]:
        """Give a connection in a write transaction, committed at the end, rolled back on error.

        ``lasting``: what it commits must outlive a crash of the database; else its commit need not
        wait for the disk, where the database can be told so.
        Raises InDoubt where the database fell silent at the commit.
        """
        return self.database.writing(self.open(), lasting=lasting)

    def read(self) -> AbstractContextManager[Connection]:
        """Give a connection that sees one state of the database and writes nothing."""
        return self.database.reading(self.open())

    def now(self, connection: Connection) -> float:
        """Tell the database's time, which every lease is compared with."""
        return self._clock() if self._clock else self.database.now(connection)

    def about_now(self, connection: Connection) -> float:
        """Tell the time of a database that is asked for it seldom, where asking is a round trip.

        For when mail is due; never for a lease.
        """
        if self._clock or self.database.file is not None:
            return self.now(connection)
        asked = time.monotonic()
        offset, at = self._offset
        if asked - at > ASK_AGAIN:
            now = self.database.time(connection)
            self._offset = now - time.monotonic(), asked
            return now
        return asked + offset

    def open(self) -> Engine:
        """Make the default database, or bring it up to date; several processes may do so at once.

        Raises OutboxUnavailable where it cannot be, naming the fix.
        """
        self.mind_fork()
        if self._engine is None or self._file != self.database.identity():
            with self._opening.here():
                if self._engine is not None and self._file != self.database.identity():
                    log.warning(MOVED, self.database)
                    self.close()
                if self._engine is None:
                    self._engine = self._opened()
        return self._engine

    def _opened(self) -> Engine:
        database = self.database
        if database.make():
            log.info("The outbox is kept in %s, made now, for this user only.", database)
        self._file = database.identity()
        engine = database.engine()
        try:
            with database.reading(engine) as connection:
                self._check(connection)
                current = is_current(connection, database)
            if not current:
                must_be_current(database)
                self._upgrade(engine)
        except BaseException:
            database.close(engine)
            raise
        return engine

    def look_by(self, connection: Connection) -> None:
        """See by a session's connection, which may hold the only lock, that it can be used.

        Once in a transaction, or again where the savepoint in which it was seen is undone.
        """
        if self._engine is not None:
            return
        around, within = connection.get_transaction(), connection.get_nested_transaction()
        open_ = [each for each in (around, within) if each is not None]
        if not any(each in self._seen_in for each in open_):
            database = self.database
            self._check(connection)
            if not is_current(connection, database):
                must_be_current(database)
                brought_up_to_date(connection, database)
            self._seen_in.update(open_[-1:])

    def _check(self, connection: Connection) -> None:
        if not self._checked:
            for weakness in self.database.check(connection):
                log.warning("%s", weakness)
            self._checked = True  # and warned of once

    def upgrade(self) -> None:
        """Bring the schema up to date: what ``flask outbox upgrade`` does."""
        self.mind_fork()
        database = self.database
        database.make()
        engine = database.engine()
        try:
            self._upgrade(engine)
        finally:
            database.close(engine)

    def _upgrade(self, engine: Engine) -> None:
        database = self.database
        with database.writing(engine) as connection, database.changing(connection):
            brought_up_to_date(connection, database)

    def close(self) -> None:
        """Close every connection; the next transaction opens anew.

        A transaction under way ends as it would have.
        """
        self.mind_fork()
        engine, self._engine = self._engine, None
        self._checked = False
        self.database.close(engine)

    def before_fork(self) -> None:
        """Leave nothing open that a child would inherit."""
        self.mind_fork()
        self.database.before_fork(self._engine)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self.database.after_fork_in_parent()

    def mind_fork(self) -> None:
        """Forget in a child what was the parent's, before anything of it is used.

        By the process id: uWSGI forks without telling Python.
        """
        if self._pid == os.getpid():
            return
        with self._opening.here():
            if self._pid != os.getpid():
                self.database.after_fork_in_child(self._engine)
                self._pid = os.getpid()


_ALL: WeakSet[Outbox] = WeakSet()


def _before_fork() -> None:
    for outbox in list(_ALL):
        outbox.before_fork()


def _after_fork_in_parent() -> None:
    for outbox in list(_ALL):
        outbox.after_fork_in_parent()


def _after_fork_in_child() -> None:
    # At once, and not at the next use: an app's own engine is used by the app, too.
    for outbox in list(_ALL):
        outbox.mind_fork()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
