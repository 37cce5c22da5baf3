"""What SQLite's driver is told on a connection, and what a person can do about what it says."""

import sqlite3
from collections.abc import Mapping
from time import monotonic, sleep
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError

READING = {"outbox_reads": True}  # execution options of a connection that writes nothing
NORMAL, FULL = 1, 2  # of PRAGMA synchronous; with NORMAL the next FULL commit brings it to the disk

NAP_LEAST, NAP_MOST = 0.0002, 0.002  # seconds between two looks at a lock
# In a connection's info: what it was told.
WAITS = "outbox_waits"
WIPES = "outbox_wipes"
SYNCS = "outbox_syncs"

PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # NORMAL may lose what was acknowledged when the power fails
    "PRAGMA foreign_keys = ON",
    "PRAGMA secure_delete = ON",  # what is wiped is overwritten
    # Every 600th mail or so waits while the log is brought over, not every 140th (1000 pages).
    "PRAGMA wal_autocheckpoint = 4000",
    "PRAGMA journal_size_limit = 16777216",  # the log shrinks again after large attachments
)
NOW = "SELECT (julianday('now') - 2440587.5) * 86400.0"

FIXES: Mapping[str, str] = {
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


def prepare(driver: Any, busy: float) -> None:
    """Say to a new connection what it must be told.

    While another process makes the file, SQLite does not wait before it changes the journal.
    """
    for pragma in PRAGMAS:
        _patiently(driver, pragma, busy)


def begin(connection: Connection, busy: float) -> None:
    """Begin a transaction for real: one that writes has its lock from here on."""
    driver = _driver(connection)
    if "outbox_reads" in connection.get_execution_options():
        _let_wait(connection, int(busy * 1000))
        driver.execute("BEGIN")
    else:
        _let_wait(connection, 0)  # a commit has the lock already; only BEGIN waits
        _patiently(driver, "BEGIN IMMEDIATE", busy)


def let_sync(connection: Connection, level: int) -> None:
    """Set how a commit is brought to the disk, which can only be said between transactions."""
    if connection.info.get(SYNCS, FULL) != level:
        _driver(connection).execute(f"PRAGMA synchronous = {level}").close()
        connection.info[SYNCS] = level


def let_wipe(connection: Connection) -> None:
    """Have what is wiped overwritten, in an app's database, too."""
    if not connection.info.get(WIPES):
        _driver(connection).execute("PRAGMA secure_delete = ON").close()
        connection.info[WIPES] = True


def now(connection: Connection) -> float:
    """Ask the database for the time; of the driver, since every enqueue does."""
    cursor = _driver(connection).cursor()  # an app's may be aiosqlite's, which has no execute()
    try:
        cursor.execute(NOW)
        return float(cursor.fetchone()[0])
    finally:
        cursor.close()


def fix(error: DatabaseError | sqlite3.DatabaseError) -> str | None:
    """Say what a person can do about it; None: that is a bug of ours, or of the app's."""
    cause = error.orig if isinstance(error, DatabaseError) else error
    name = _errorname(cause)
    found = next((said for prefix, said in FIXES.items() if name.startswith(prefix)), None)
    if found is None and isinstance(cause, sqlite3.OperationalError):
        return f"{cause}."
    return found


def _let_wait(connection: Connection, milliseconds: int) -> None:
    """Set SQLite's own waiting, which a connection keeps, where it is another."""
    if connection.info.get(WAITS) != milliseconds:
        _driver(connection).execute(f"PRAGMA busy_timeout = {milliseconds}")
        connection.info[WAITS] = milliseconds


def _patiently(driver: Any, statement: str, busy: float) -> None:
    """Execute it, waiting for a lock with shorter naps than SQLite's own.

    Those grow to 100 ms. Where several processes write all the time that is too long to hit a
    gap, and every thread that writes stands behind it.
    """
    until = monotonic() + busy
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


def _driver(connection: Connection) -> Any:
    return connection.connection.dbapi_connection


def _errorname(error: BaseException | None) -> str:
    name: str = getattr(error, "sqlite_errorname", "")
    return name
