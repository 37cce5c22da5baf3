"""PostgreSQL, by psycopg 3: our tables in a schema of our own, so that nobody drops them."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from sqlalchemy import URL, Connection, Engine, event

from flask_outbox.mail.errors import OutboxUnavailable
from flask_outbox.outbox.server import CONNECT, Limits, Server, told

SCHEMA = "flask_outbox"
OLDEST = 120000  # PostgreSQL 12; SKIP LOCKED is older

# SQLSTATE, https://www.postgresql.org/docs/current/errcodes-appendix.html
FIXES = {
    "53100": "its disk is full. Make room; what waits is sent by itself then.",
    "53300": "it has too many connections. Raise max_connections, or run fewer workers.",
    "25006": "it is read-only, as a standby is. Point MAIL_OUTBOX_URL at the primary.",
    "28P01": "it refused the password. Look at MAIL_OUTBOX_URL.",
    "28000": "it refused the user. Look at MAIL_OUTBOX_URL and pg_hba.conf.",
    "42501": "this user may not use its tables. Grant it what the documentation names.",
    "3D000": "it has no such database. Create it, or mend MAIL_OUTBOX_URL.",
    "40001": "another transaction came first. Roll this one back and begin it anew.",
    "55P03": "another session holds a lock for too long. pg_blocking_pids() tells which.",
}
CHANGING = "SELECT pg_advisory_xact_lock(hashtext('flask outbox upgrade'))"  # in this database
SILENT = 15  # seconds after which a host is given up that acknowledges nothing
GAVE_WAY = ("40001", "40P01")  # serialization_failure, deadlock_detected

# For a session, where it is ours alone: a pooler gives its clients process ids of its own making.
# Where the role, the database or the URL has a limit, that one stays (docs/decisions/0225).
LIMIT = """
    SELECT set_config(name, value, false)
    FROM unnest(%s::text[], %s::text[]) AS wanted(name, value)
    WHERE pg_backend_pid() = %s AND current_setting(name) = '0'
"""
LIMIT_HERE = "set_config('{0}', coalesce(nullif(current_setting('{0}'), '0'), '{1}'), true)"


class PostgreSql(Server):
    """One database of a PostgreSQL server."""

    package = "postgresql"
    time_sql = "SELECT extract(epoch FROM clock_timestamp())::float8"
    # With it goes a word to the planner, for this transaction: where it has no statistics it takes
    # a hundred ids for half of the table, and reads all of it instead of an index.
    now_sql = f"{time_sql}, set_config('enable_seqscan', 'off', true)"
    # Whoever takes a step that a crash may undo does not wait for the disk.
    passing_sql = f"{now_sql}, set_config('synchronous_commit', 'off', true)"

    def __init__(
        self, url: URL, limits: Limits, apps: Engine | None = None, schema: str | None = None
    ) -> None:
        if apps is None and url.drivername in {"postgresql", "postgres"}:
            url = url.set(drivername="postgresql+psycopg")
        super().__init__(url, limits, apps, SCHEMA if apps is None else schema)
        self.notifies = url.get_driver_name() == "psycopg"  # which can wait for words
        lock, idle = (str(max(int(each * 1000), 1)) for each in limits)  # milliseconds
        here = {"lock_timeout": lock, "idle_in_transaction_session_timeout": idle}
        self._limits = {**here, "tcp_user_timeout": idle}  # for who asks, and reads no answer
        if apps is None:
            also = "".join(f", {LIMIT_HERE.format(*each)}" for each in here.items())
            self.now_sql, self.passing_sql = self.now_sql + also, self.passing_sql + also

    def engine(self) -> Engine:
        """Let no session wait or be waited for without end; an app's own is left alone."""
        engine = super().engine()
        if self._apps is None and self.url.get_driver_name() == "psycopg":
            event.listen(engine.pool, "connect", self._limited)
        return engine

    def _limited(self, session: Any, _record: object) -> None:
        """Say so in one round trip."""
        session.autocommit = True
        names, values = list(self._limits), list(self._limits.values())
        session.execute(LIMIT, (names, values, session.info.backend_pid))
        session.autocommit = False

    def connect_args(self) -> dict[str, Any]:
        """Notice a server that is gone; prepare nothing, since poolers forget what was prepared."""
        if self.url.get_driver_name() != "psycopg":
            return {}
        return {
            "connect_timeout": CONNECT,
            "application_name": "flask-outbox",
            "keepalives_idle": SILENT // 3,
            "keepalives_interval": SILENT // 3,
            "keepalives_count": 3,
            "tcp_user_timeout": SILENT * 1000,
            "prepare_threshold": None,
            **self.url.query,
        }

    def check(self, connection: Connection) -> Iterator[str]:
        """See whether it is new enough; say why what it acknowledges may not be on the disk."""
        if int(told(connection, "SHOW server_version_num")) < OLDEST:
            raise OutboxUnavailable(
                f"The outbox {self} is PostgreSQL {told(connection, 'SHOW server_version')}; it"
                f" has to be at least {OLDEST // 10000}."
            )
        for name in ("synchronous_commit", "fsync"):
            if told(connection, f"SHOW {name}") == "off":
                yield (
                    f"{name} is off in {self}: mail that was acknowledged may be lost when the"
                    " power fails. Switch it on."
                )

    def changing(self, connection: Connection, /) -> AbstractContextManager[None]:
        """Let one session at a time, until its transaction ends."""
        connection.exec_driver_sql(CHANGING).close()
        return nullcontext()

    def gave_way(self, cause: BaseException | None) -> bool:
        """Tell whether the transaction was undone for the sake of another one."""
        return getattr(cause, "sqlstate", None) in GAVE_WAY

    def fix(self, cause: BaseException | None) -> str | None:
        """Say what a person can do about it, where that is known."""
        return FIXES.get(getattr(cause, "sqlstate", None) or "")
