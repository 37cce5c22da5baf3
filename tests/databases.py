"""PostgreSQL and MariaDB as servers of the tests' own: private ports, temporary folders.

::

    with running(PostgreSql) as server:
        url = server.new()       # an empty database
        server.stop()            # as fast as it can, then
        server.start()           # on the same port, with what was committed
"""

import contextlib
import glob
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from pwd import getpwnam
from time import monotonic, sleep
from typing import Any

import psycopg
import pymysql

from ports import free_port

BOUND = 60.0


class Server:
    """One server; what the kinds differ in is given by those that derive from it."""

    user = ""
    url = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.names = (f"outbox_{number}" for number in count(1))
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            owner = getpwnam(self.user)
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        self._make()

    def run_as(self) -> dict[str, Any]:
        """No database server runs as root."""
        who = {"user": self.user, "group": self.user, "extra_groups": []}
        return {"cwd": self.folder, **(who if os.geteuid() == 0 else {})}

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self.run_as()
            )
        until = monotonic() + BOUND
        while True:
            try:
                self.ask("SELECT 1")
            except Exception as error:
                if monotonic() > until or self._process.poll() is not None:
                    error.add_note((self.folder / "log").read_text(errors="replace")[-3000:])
                    raise
                sleep(0.05)
            else:
                return

    def stop(self, how: int = 0) -> None:
        """End it: by default the way that drops every connection and keeps what is committed."""
        if self._process is not None:
            self._process.send_signal(how or self.fast)
            self._process.wait(BOUND)
            self._process = None

    def revive(self) -> bool:
        """Start it again if it ended by itself, as an init system does; tell whether it had."""
        ended = self._process is not None and self._process.poll() is not None
        if ended:
            self.start()
        return ended

    def new(self) -> str:
        """Make an empty database and give its URL."""
        name = next(self.names)
        self.ask(f"CREATE DATABASE {name}")
        return self.url.format(port=self.port, name=name)

    def kick(self, url: str) -> int:
        """End every connection to a database, as an administrator would; count them."""
        kicked = 0
        for (each,) in self.ask(self.connections.format(name=url.rpartition("/")[2])):
            with contextlib.suppress(pymysql.Error):  # it has gone by itself
                self.ask(self.kicks.format(each))
                kicked += 1
        return kicked

    fast = signal.SIGTERM
    crash = signal.SIGKILL
    connections = ""
    kicks = ""
    waiting = ""

    def _make(self) -> None:
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def ask(self, sql: str) -> Any:
        """Say something as the one who may do everything; give the rows."""
        raise NotImplementedError

    def waits(self) -> int:
        """Count those who wait for a lock at this moment."""
        return len(self.ask(self.waiting))


class PostgreSql(Server):
    user = "postgres"
    url = "postgresql://outbox@127.0.0.1:{port}/{name}"
    fast = signal.SIGINT  # "fast shutdown"
    crash = signal.SIGQUIT  # "immediate shutdown": what is committed is recovered from the log
    connections = "SELECT pid FROM pg_stat_activity WHERE datname = '{name}'"
    kicks = "SELECT pg_terminate_backend({})"
    waiting = "SELECT * FROM pg_stat_activity WHERE wait_event_type = 'Lock'"

    def _bin(self, name: str) -> str:
        return max(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))  # noqa: PTH207  absolute

    def _make(self) -> None:
        options = ["-A", "trust", "-U", "outbox", "-E", "UTF8", "--no-sync", "--no-instructions"]
        subprocess.run(
            [self._bin("initdb"), "-D", self.folder / "data", *options],
            check=True,
            stdout=subprocess.DEVNULL,
            **self.run_as(),
        )

    def _command(self) -> list[str]:
        where = ["-D", str(self.folder / "data"), "-k", str(self.folder)]
        return [self._bin("postgres"), *where, "-h", "127.0.0.1", "-p", str(self.port)]

    def ask(self, sql: str) -> Any:
        to = f"host=127.0.0.1 port={self.port} user=outbox dbname=postgres connect_timeout=5"
        with contextlib.closing(psycopg.connect(to, autocommit=True)) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []


class MariaDb(Server):
    user = "mysql"
    url = "mysql://root@127.0.0.1:{port}/{name}"
    connections = "SELECT id FROM information_schema.processlist WHERE db = '{name}'"
    kicks = "KILL {}"
    waiting = (
        "SELECT id FROM information_schema.processlist WHERE state = 'User lock' UNION ALL"
        " SELECT trx_id FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
    )

    def _make(self) -> None:
        made = subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                f"--datadir={self.folder / 'data'}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                *([f"--user={self.user}"] if os.geteuid() == 0 else []),
            ],
            env={**os.environ, "TMPDIR": str(self.folder)},  # for the same reason as below
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **self.run_as(),
        )
        assert made.returncode == 0, made.stdout.decode(errors="replace")

    def _command(self) -> list[str]:
        return [
            shutil.which("mariadbd") or "/usr/sbin/mariadbd",
            "--no-defaults",
            f"--datadir={self.folder / 'data'}",
            f"--socket={self.folder / 'socket'}",
            f"--pid-file={self.folder / 'pid'}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            f"--tmpdir={self.folder}",  # one that starts clears it, whoever's tables are there
            "--skip-name-resolve",
            "--max-allowed-packet=64M",
        ]

    def ask(self, sql: str) -> Any:
        to: dict[str, Any] = {"host": "127.0.0.1", "port": self.port, "user": "root"}
        with contextlib.closing(pymysql.connect(**to, autocommit=True)) as connection:
            cursor = connection.cursor()
            cursor.execute(sql)
            return cursor.fetchall()

    def waits(self) -> int:
        sleep(0.11)  # what is asked for within 0.1 s is told from memory, again and again
        return super().waits()


@contextlib.contextmanager
def running(kind: type[Server]) -> Iterator[Server]:
    """Make one, start it, and leave nothing of it."""
    folder = Path(tempfile.mkdtemp(prefix="outbox-database-"))
    server = kind(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop(server.crash)  # to put it in order takes MariaDB ten seconds
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def pooler(server: Server) -> Iterator[int]:
    """Run PgBouncer before a server, each transaction on another connection; give its port."""
    folder, port = Path(tempfile.mkdtemp(prefix="outbox-pooler-")), free_port()
    settings = folder / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port} user=outbox\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\nunix_socket_dir =\n"
        "pool_mode = transaction\nserver_round_robin = 1\nmin_pool_size = 3\n"
        "server_login_retry = 1\n"  # second until it tries again, of a server that is away
        "ignore_startup_parameters = extra_float_digits\n"
    )
    if os.geteuid() == 0:
        owner = getpwnam(server.user)
        for path in (folder, settings):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    process = subprocess.Popen(
        ["/usr/sbin/pgbouncer", settings], stderr=subprocess.DEVNULL, **server.run_as()
    )
    try:
        until = monotonic() + BOUND
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert process.poll() is None
            assert monotonic() < until
            sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(BOUND)
        shutil.rmtree(folder, ignore_errors=True)
