"""MariaDB and MySQL, by PyMySQL."""

import math
import re
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from hashlib import blake2b
from typing import Any

from sqlalchemy import URL, Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from flask_outbox.mail.errors import OutboxUnavailable, TooLargeError
from flask_outbox.outbox.schema import UPGRADE
from flask_outbox.outbox.server import CONNECT, Limits, Server, told

OLDEST = {"MariaDB": (10, 6), "MySQL": (8, 0, 14)}  # SKIP LOCKED; JSON_TABLE for any user
AROUND = 1024  # octets of a statement besides the content
PACKET = 2 * 25 * 1024 * 1024 + AROUND  # for the largest message: drivers write an octet as two

# https://mariadb.com/kb/en/mariadb-error-codes/, read 2026-11-23
FIXES = {
    1020: "another transaction came first. Roll this one back and begin it anew.",
    1040: "it has too many connections. Raise max_connections, or run fewer workers.",
    1044: "it lets this user not use the database. Look at MAIL_OUTBOX_URL and the grants.",
    1045: "it refused the user or the password. Look at MAIL_OUTBOX_URL.",
    1049: "it has no such database. Create it, or mend MAIL_OUTBOX_URL.",
    1142: "this user may not use its tables. Grant it what the documentation names.",
    1114: "its disk, or the tablespace, is full. Make room; what waits is sent by itself then.",
    1021: "its disk is full. Make room; what waits is sent by itself then.",
    1153: "the message is larger than its max_allowed_packet. Raise that to 64M.",
    1206: "it has no room for more locks. Raise innodb_buffer_pool_size, or run fewer workers.",
    1290: "it is read-only, as a replica is. Point MAIL_OUTBOX_URL at the primary.",
    1836: "it is read-only. Point MAIL_OUTBOX_URL at the primary.",
}
# What a session begins with. MySQL takes the last as a comment: it has no such limit.
SESSION = """
    SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES'), net_write_timeout = {0}
    /*M!100600 , idle_transaction_timeout = {0} */
"""
GAVE_WAY = (1020, 1213)  # ER_CHECKREAD, which MariaDB's snapshots raise; ER_LOCK_DEADLOCK
DUPLICATE = 1062  # ER_DUP_ENTRY
_TAKE = text("SELECT GET_LOCK(:name, :seconds)")
_LET_GO = text("SELECT RELEASE_LOCK(:name)")


class MySql(Server):
    """One database of a MariaDB or MySQL server."""

    package = "mysql"
    time_sql = now_sql = passing_sql = (
        "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) / 1e6"
    )

    def __init__(
        self, url: URL, limits: Limits, apps: Engine | None = None, schema: str | None = None
    ) -> None:
        if apps is None and url.drivername in {"mysql", "mariadb"}:
            url = url.set(drivername="mysql+pymysql")
        super().__init__(url, limits, apps, schema)
        self._packet: int | None = None

    def connect_args(self) -> dict[str, Any]:
        """Notice a server that is gone; let nothing be cut short without an error."""
        if self.url.get_driver_name() != "pymysql":
            return {}
        lock, idle = self.limits
        return {
            "connect_timeout": CONNECT,
            "read_timeout": lock + CONNECT,
            "write_timeout": lock + CONNECT,
            "charset": "utf8mb4",
            "init_command": SESSION.format(math.ceil(idle)),
            **self.url.query,
        }

    def check(self, connection: Connection) -> Iterator[str]:
        """See whether it is new enough; say why what it acknowledges may not be on the disk."""
        version = told(connection, "SELECT VERSION()")
        name = "MariaDB" if "mariadb" in version.lower() else "MySQL"
        if tuple(map(int, re.findall(r"\d+", version)[:3])) < OLDEST[name]:
            need = ".".join(map(str, OLDEST[name]))
            raise OutboxUnavailable(
                f"The outbox {self} is {name} {version}; it has to be at least {need}."
            )
        if told(connection, "SELECT @@innodb_flush_log_at_trx_commit") != "1":
            yield (
                f"innodb_flush_log_at_trx_commit is not 1 in {self}: mail that was acknowledged"
                " may be lost when the power fails. Set it to 1."
            )
        packet = int(told(connection, "SELECT @@max_allowed_packet"))
        self._packet = packet
        if packet < PACKET:
            yield (
                f"max_allowed_packet is {packet} in {self}: larger messages cannot be kept. Set it"
                " to 64M."
            )

    def must_fit(self, content: bytes) -> None:
        """Raise TooLargeError for what is larger than a packet.

        The server would hang up without a word, and end an app's transaction with that.
        """
        octets = 2 * len(content) + AROUND  # PyMySQL writes digits
        if self._packet is not None and octets > self._packet:
            raise TooLargeError(
                f"The message takes {octets} octets in a statement, and max_allowed_packet is"
                f" {self._packet} in {self}. Raise that to 64M, and start the app again."
            )

    def alone(self, connection: Connection, key: str, /) -> AbstractContextManager[None]:
        """Let one session at a time wait within InnoDB for the row of a key.

        Where several do, and whoever had it rolls back, all but one of their transactions are
        undone: each is given the place, and then no one may fill it.
        """
        return self._locked(connection, key, "others have waited with this key=")

    def changing(self, connection: Connection, /) -> AbstractContextManager[None]:
        """Let one session at a time: a transaction cannot, since CREATE and ALTER commit it."""
        return self._locked(connection, UPGRADE, "another session has changed its tables")

    @contextmanager
    def _locked(self, connection: Connection, key: str, why: str) -> Generator[None]:
        name = lock_of(self.url, key)
        seconds = math.ceil(self.limits.lock)  # MySQL knows no parts of one
        if connection.execute(_TAKE, {"name": name, "seconds": seconds}).scalar() != 1:
            raise OutboxUnavailable(f"The outbox {self} was busy: {why} for {seconds} s.")
        try:
            yield
        except BaseException:
            with suppress(SQLAlchemyError):  # the line is lost, and with it the lock
                connection.execute(_LET_GO, {"name": name}).close()
            raise
        connection.execute(_LET_GO, {"name": name}).close()

    def is_duplicate(self, cause: BaseException | None, /) -> bool:
        """Tell whether a row was refused for one that is there."""
        return _number(cause) == DUPLICATE

    def gave_way(self, cause: BaseException | None) -> bool:
        """Tell whether the transaction was undone for the sake of another one."""
        return _number(cause) in GAVE_WAY

    def fix(self, cause: BaseException | None) -> str | None:
        """Say what a person can do about it, where that is known."""
        number = _number(cause)
        return None if number is None else FIXES.get(number)


def lock_of(url: URL, key: str) -> str:
    """Name the lock of a key: names are the whole server's, and have 64 characters at most."""
    return f"flask_outbox {blake2b(f'{url.database} {key}'.encode(), digest_size=20).hexdigest()}"


def _number(cause: BaseException | None) -> int | None:
    number = cause.args[0] if cause is not None and cause.args else None
    return number if isinstance(number, int) else None
