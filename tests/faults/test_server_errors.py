"""What database servers answer a worker: errors, deadlocks, locks held too long."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import psycopg
import pytest
from pymysql.constants import COMMAND
from sqlalchemy import Connection, update

import databases
from databases import Server
from faults_worker import an_outbox
from flask_outbox.mail.errors import OutboxUnavailable
from flask_outbox.outbox import mysql
from flask_outbox.outbox.claim import claim
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.enqueue import put as put_down
from flask_outbox.outbox.tables import message
from flask_outbox.worker.plan import Plan
from worker_stage import Eyes, Told, a_submission, at_work, put, wait_for

ONE = "<one@example.com>"


@dataclass(frozen=True)
class Sql:
    """How one kind of server is told to fail."""

    errors: tuple[str, ...]
    fail: str  # each record, the first {times}, with {error}
    tries: str
    mend: str


POSTGRESQL = Sql(
    # deadlock, serialization, lock_timeout, statement_timeout, no memory, no disk
    ("40P01", "40001", "55P03", "57014", "53200", "53100"),
    """
    CREATE SEQUENCE public.tries --
    CREATE FUNCTION public.fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.state = 'accepted' AND nextval('public.tries') <= {times} THEN
            RAISE EXCEPTION 'on purpose' USING ERRCODE = '{error}';
        END IF;
        RETURN NEW;
    END $$ --
    CREATE TRIGGER fails BEFORE UPDATE ON outbox_recipient
        FOR EACH ROW EXECUTE FUNCTION public.fails()
    """,
    "SELECT nextval('public.tries')",
    "DROP TRIGGER fails ON outbox_recipient",
)
MARIADB = Sql(
    # lock wait timeout, deadlock, no disk, no room in the table, read only, a standby
    ("1205", "1213", "1021", "1114", "1290", "1836"),
    """
    CREATE SEQUENCE tries --
    CREATE TRIGGER fails BEFORE UPDATE ON outbox_recipient FOR EACH ROW BEGIN
        IF NEW.state = 'accepted' AND NEXTVAL(tries) <= {times} THEN
            SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {error}, MESSAGE_TEXT = 'on purpose';
        END IF;
    END
    """,
    "SELECT NEXTVAL(tries)",
    "DROP TRIGGER fails",
)
KINDS = {"postgresql": POSTGRESQL, "mariadb": MARIADB}


@dataclass
class Stage:
    """A database of one server, and a worker's plan to send what is there."""

    kind: str
    server: Server
    place: str
    outbox: Outbox
    eyes: Eyes
    transport: Told

    @property
    def sql(self) -> Sql:
        return KINDS[self.kind]

    @property
    def plan(self) -> Plan:
        ways = {"default": self.transport}
        return Plan(outbox=self.outbox, transports=ways, connections=2, poll=0.1)

    def set(self, term: str) -> None:
        """Have it so on each connection that is made from now on."""
        self.eyes.change(f"ALTER DATABASE {self.place.rpartition('/')[2]} SET {term}")

    def fail(self, error: str, times: int) -> None:
        """Let so many records fail."""
        for each in self.sql.fail.format(error=error, times=times).split("--"):
            self.eyes.change(each)

    def tries(self) -> int:
        """Count the records that were tried, this look included."""
        return int(self.eyes.rows(self.sql.tries)[0][0])

    @contextmanager
    def other(self, *first: str) -> Iterator[Connection]:
        """Another program's connection, in a transaction."""
        engine = self.eyes._engine.execution_options(isolation_level="READ COMMITTED")
        with engine.connect() as connection:
            for each in first:
                connection.exec_driver_sql(each)
            yield connection


@pytest.fixture(params=KINDS)
def stage(request):
    server = request.getfixturevalue(request.param)
    place = server.new()
    an_outbox(place).upgrade()
    outbox = an_outbox(place, lease=30.0)
    yield Stage(request.param, server, place, outbox, Eyes(place), Told())
    outbox.close()


def names(count):
    return [f"n{i}" for i in range(count)]


# --- errors ---


@pytest.mark.parametrize("nth", range(6))
def test_an_error_of_the_server_costs_no_mail_and_no_copy(nth, stage):
    put(stage.outbox, *map(a_submission, names(5)))
    stage.fail(stage.sql.errors[nth], 3)
    with at_work(stage.plan):
        wait_for(lambda: stage.eyes.count("state = 'accepted'") == 5)
    assert sorted(stage.transport.sent) == [f"<{name}@example.com>" for name in names(5)]
    assert stage.eyes.count("attempts = 1") == 5


def test_while_nothing_can_be_recorded_there_is_no_busy_loop(stage, caplog):
    put(stage.outbox, *map(a_submission, names(5)))
    stage.fail(stage.sql.errors[0], 1_000_000)
    with at_work(stage.plan) as worker:
        wait_for(lambda: worker._troubles >= 3)
        tries = stage.tries()
        for _ in range(200):
            worker.wake()
        wait_for(lambda: worker._troubles >= 5)
        assert stage.tries() <= tries + 5
        put(stage.outbox, a_submission("late"))
        assert len(stage.transport.sent) == 5
        stage.eyes.change(stage.sql.mend)
        wait_for(lambda: stage.eyes.count("state = 'accepted'") == 6)
    assert len(stage.transport.sent) == 6
    assert caplog.text.count("rests for up to") <= 8


# --- locks, real ones ---


LOCK = {
    "postgresql": "SELECT id FROM flask_outbox.outbox_message WHERE id = %s FOR UPDATE",
    "mariadb": "SELECT id FROM outbox_message WHERE id = %s FOR UPDATE",
}
# Of its recipients, which who records waits for: a message that somebody has is recorded later.
LOCK_PEOPLE = {
    kind: lock.replace("SELECT id", "SELECT position")
    .replace("outbox_message", "outbox_recipient")
    .replace("WHERE id", "WHERE message")
    for kind, lock in LOCK.items()
}


def test_a_worker_that_a_deadlock_is_resolved_against_records_once_more(stage, caplog):
    first, second = put(stage.outbox, a_submission("first"), a_submission("second"))
    holds = [stage.transport.hold(name) for name in ("first", "second")]
    if stage.kind == "postgresql":  # who waits this long is the one to give up
        stage.set("deadlock_timeout = '1500ms'")
        mine = ["SET deadlock_timeout = '60s'"]
    else:  # who has changed least is
        mine = ["CREATE TABLE much (n int)", *["INSERT INTO much VALUES (1)"] * 50]
    with at_work(stage.plan), stage.other(*mine) as other:
        wait_for(lambda: len(stage.transport.begun) == 2)
        other.exec_driver_sql(LOCK_PEOPLE[stage.kind], (second,))
        for hold in holds:
            hold.set()
        wait_for(stage.server.waits)  # it has both, and wants their people
        other.exec_driver_sql(LOCK[stage.kind], (first,))
        wait_for(lambda: "deadlock" in caplog.text.lower())
        other.rollback()
        wait_for(lambda: stage.eyes.count("state = 'accepted'") == 2)
    assert sorted(stage.transport.sent) == ["<first@example.com>", "<second@example.com>"]


TIMEOUTS = {
    "postgresql": {"a row": "lock_timeout", "a table": "statement_timeout"},
    "mariadb": {"a row": "innodb_lock_wait_timeout", "a table": "lock_wait_timeout"},
}


@pytest.fixture(params=["a row", "a table"])
def of(request):
    return request.param


@pytest.fixture
def impatient(stage, of):
    """A server that lets nobody wait for long."""
    name = TIMEOUTS[stage.kind][of]
    if stage.kind == "postgresql":
        stage.set(f"{name} = '200ms'")
        yield
    else:
        stage.server.ask(f"SET GLOBAL {name} = 1")
        yield
        stage.server.ask(f"SET GLOBAL {name} = DEFAULT")


@pytest.mark.usefixtures("impatient")
def test_a_lock_that_is_waited_for_too_long_costs_no_mail_and_no_copy(stage, of):
    hold = stage.transport.hold("one")
    [row] = put(stage.outbox, a_submission())
    with at_work(stage.plan) as worker:
        wait_for(lambda: stage.transport.begun)
        with stage.eyes.lock() if of == "a table" else stage.other() as other:
            if other is not None:
                other.exec_driver_sql(LOCK_PEOPLE[stage.kind], (row,))
            hold.set()
            wait_for(lambda: worker._troubles >= 2)
            assert stage.eyes.one("state") == "sending"
        wait_for(lambda: stage.eyes.one("state") == "accepted")
    assert stage.transport.sent == [ONE]


def test_a_lock_that_is_never_let_go_holds_send_later_for_busy_seconds(stage, monkeypatch):
    monkeypatch.setattr(mysql, "CONNECT", 1.0)  # seconds, which MariaDB's driver waits besides
    with stage.eyes.lock(), closing(an_outbox(stage.place, busy=1.0)) as outbox:
        with pytest.raises(OutboxUnavailable) as raised:
            put_down(outbox, a_submission())
        if stage.kind == "postgresql":
            assert "pg_blocking_pids" in str(raised.value)
    assert stage.eyes.count("true") == 0


FREE = "SELECT id FROM outbox_message FOR UPDATE SKIP LOCKED"
FLOOD = {
    "postgresql": "SELECT repeat('x', 10000000) FROM generate_series(1, 10)",
    "mariadb": "SELECT repeat('x', 10000000) FROM seq_1_to_10",
}


@pytest.fixture
def shortly(stage):
    """An outbox on the same database, for whose workers a second is long."""
    with closing(an_outbox(stage.place, lease=1.0)) as outbox:
        yield outbox


def stand_still(outbox, eyes, then=lambda _driver: None):
    """Change a message, do something, and go on only when somebody else may have it."""
    with outbox.begin() as connection:
        outbox.now(connection)
        connection.execute(update(message).values(worker="late"))
        then(connection.connection.dbapi_connection)
        assert eyes.rows(FREE) == []
        wait_for(lambda: eyes.rows(FREE))


def test_who_stands_still_in_a_transaction_is_gone_after_a_lease_and_wrote_nothing(stage, shortly):
    put(stage.outbox, a_submission())
    with pytest.raises(OutboxUnavailable):
        stand_still(shortly, stage.eyes)
    assert stage.eyes.one("worker") == ""
    assert len(claim(shortly, transports=["default"], limit=1, worker="one")) == 1


def test_who_reads_no_answer_is_gone_after_a_lease(stage, shortly):
    put(stage.outbox, a_submission())
    asked = FLOOD[stage.kind]
    ask = {
        "postgresql": lambda driver: driver.pgconn.send_query(asked.encode()),
        "mariadb": lambda driver: driver._execute_command(COMMAND.COM_QUERY, asked),
    }
    with pytest.raises(OutboxUnavailable):
        stand_still(shortly, stage.eyes, ask[stage.kind])
    assert stage.eyes.one("worker") == ""


LIMITS = ("lock_timeout", "idle_in_transaction_session_timeout", "tcp_user_timeout")


@pytest.fixture
def pooled(postgresql):
    """An outbox through PgBouncer, beside the eyes that look at it directly."""
    place = postgresql.new()
    an_outbox(place).upgrade()
    with databases.pooler(postgresql) as port:
        behind = place.replace(f":{postgresql.port}/", f":{port}/")
        with closing(an_outbox(behind, lease=30.0, busy=1.0)) as outbox:
            yield outbox, Eyes(place), behind


def test_behind_a_pooler_a_claim_waits_no_longer_for_a_lock(pooled):
    outbox, eyes, _ = pooled
    put(outbox, a_submission())
    with eyes.lock(), pytest.raises(OutboxUnavailable, match="pg_blocking_pids"):
        claim(outbox, transports=["default"], limit=1, worker="one")
    assert len(claim(outbox, transports=["default"], limit=1, worker="one")) == 1


def test_behind_a_pooler_who_stands_still_lets_go_too(pooled):
    outbox, eyes, behind = pooled
    put(outbox, a_submission())
    with closing(an_outbox(behind, lease=1.0)) as shortly, pytest.raises(OutboxUnavailable):
        stand_still(shortly, eyes)


def test_behind_a_pooler_no_limit_is_left_to_other_clients(pooled):
    outbox, _, behind = pooled
    for name in names(9):
        put(outbox, a_submission(name))
        claim(outbox, transports=["default"], limit=1, worker="one")
    # By turns on each session; none of them knows what was prepared in another.
    with psycopg.connect(behind, autocommit=True, prepare_threshold=None) as other:
        found = {other.execute(f"SHOW {name}").fetchone() for name in LIMITS for _ in range(9)}
    assert found == {("0",)}


# --- clocks ---


def test_a_workers_own_clock_has_no_effect(stage, monkeypatch):
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 600.0)
    hold = threading.Event()
    put(stage.outbox, *map(a_submission, names(10)))
    stage.transport.holds = {f"<{name}@example.com>": hold for name in names(10)}
    before = server_time(stage.outbox)
    with at_work(stage.plan):
        wait_for(lambda: stage.transport.begun)
        [(latest,)] = stage.eyes.rows("SELECT max(lease_until) FROM outbox_message")
        hold.set()
        wait_for(lambda: stage.eyes.count("state = 'accepted'") == 10)
    assert before < latest < server_time(stage.outbox) + stage.outbox.lease
    ahead = "SELECT * FROM outbox_event WHERE at > ?"
    assert stage.eyes.rows(ahead, server_time(stage.outbox)) == []
    assert len(stage.transport.sent) == 10


def server_time(outbox):
    with outbox.read() as connection:
        return outbox.now(connection)
