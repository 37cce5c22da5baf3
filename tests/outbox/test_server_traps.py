"""What databases do to text, times and locks, where nobody looks."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pymysql
import pytest
from sqlalchemy import event, select
from sqlalchemy.exc import DataError

import databases
from database_fixtures import KINDS
from flask_outbox.mail.errors import MessageError, OutboxUnavailable, TooLargeError
from flask_outbox.mail.outcome import Accepted, Deferred, Fault
from flask_outbox.mail.rates import Rates
from flask_outbox.mail.route import Routing
from flask_outbox.outbox import mysql, postgresql
from flask_outbox.outbox.claim import claim, release, start
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.enqueue import enqueue
from flask_outbox.outbox.schedule import Schedule
from flask_outbox.outbox.tables import message
from heard import heard
from outbox_mail import EPOCH, Clock, a_submission, look, one, put, put_many, say, take

OURS = Deferred("503", Fault.OURS)
LIKE = (
    "a",
    "A",
    "a ",
    "a  ",
    " a",
    "ä",
    "á",
    "ss",
    "ß",
    "i",
    "\N{LATIN SMALL LETTER DOTLESS I}",
    "K",
    "\N{KELVIN SIGN}",
)


@pytest.fixture(params=KINDS)
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'outbox.sqlite3'}"
    url = request.getfixturevalue(request.param).new()
    Outbox(url).upgrade()
    return url


@pytest.fixture
def outbox(url):
    outbox = Outbox(url, busy=5.0)
    yield outbox
    outbox.close()


def test_keys_that_only_look_alike_are_different_ones(outbox):
    rows = {key: put(outbox, key=key, fingerprint="f") for key in LIKE}
    assert len(set(rows.values())) == len(LIKE)
    assert {key: put(outbox, key=key, fingerprint="f") for key in LIKE} == rows


def test_times_keep_their_microseconds(outbox):
    at = EPOCH + 10**9 + 0.123456
    assert look(outbox, put(outbox, at=at)).due_at == at
    with outbox.read() as connection:
        times = [outbox.now(connection) for _ in range(5)]
    # SQLite tells milliseconds, and has no other host's clock to be compared with.
    assert any(round(each * 1e6) % 1000 for each in times) or outbox.database.file


@pytest.mark.parametrize("key", ["a\0b", "a\x07b", "a\x7fb", "\ud800"])
def test_text_that_a_database_chokes_on_does_not_get_there(key):
    with pytest.raises(MessageError, match="key="):
        Schedule(key=key)


@pytest.fixture(params=KINDS[1:])
def server(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def on_server(server):
    url = server.new()
    Outbox(url).upgrade()
    outbox = Outbox(url, busy=5.0)
    yield outbox
    outbox.close()


def test_rows_that_somebody_claims_keep_nobody_from_writing(on_server):
    for _ in range(3):
        put(on_server)
    due = select(message.c.id).where(message.c.due_at > 0).with_for_update(skip_locked=True)
    with on_server.begin() as connection, ThreadPoolExecutor(1) as others:
        assert len(connection.execute(due).all()) == 3
        for _ in range(3):
            others.submit(put, on_server).result(20)  # no gap is locked
        assert len(others.submit(take, on_server).result(20)) == 3  # none of ours
    assert len(take(on_server)) == 3


def test_only_a_claim_does_not_wait_for_the_disk(postgresql):
    url = postgresql.new()
    Outbox(url).upgrade()
    outbox = Outbox(url)
    waits = []

    def look_at(connection):
        waits.append(connection.exec_driver_sql("SHOW synchronous_commit").scalar_one())

    put(outbox)
    event.listen(outbox.open(), "commit", look_at)
    claimed = claim(outbox, transports=["default"], limit=1, worker="w")
    assert waits == ["off"]
    release(outbox, claimed)
    say(outbox, one(outbox), Accepted("250 ok"))
    put(outbox)
    # claim, release, claim, start, record, put
    assert waits == ["off", "on", "off", "on", "on", "on"]
    outbox.close()


def test_each_transaction_is_read_committed(on_server):
    asks = {
        "postgresql": "SELECT current_setting('transaction_isolation')",
        "mysql": "SELECT REPLACE(@@SESSION.tx_isolation, '-', ' ')",
    }
    for _ in range(2):  # the second one on the same connection
        with on_server.begin() as connection:
            told = connection.exec_driver_sql(asks[connection.dialect.name]).scalar_one()
            assert told.lower() == "read committed"


def test_what_a_transaction_has_to_be_is_said_once_for_each_connection(mariadb):
    url = mariadb.new()
    Outbox(url).upgrade()
    outbox = Outbox(url)
    counts = "SHOW SESSION STATUS WHERE Variable_name IN ('Com_commit', 'Com_set_option')"
    said = []
    for _ in range(3):
        with outbox.begin() as connection:
            said.append([int(count) for _, count in connection.exec_driver_sql(counts).all()])
    outbox.close()
    (commits, options), after = said[1:]
    assert after == [commits + 1, options]


def test_nothing_is_prepared_that_a_pooler_would_forget(postgresql):
    url = postgresql.new()
    Outbox(url).upgrade()
    with databases.pooler(postgresql) as port:
        outbox = Outbox(url.replace(f":{postgresql.port}/", f":{port}/"))
        with ThreadPoolExecutor(4) as several:  # drivers prepare what they hear for the sixth time
            rows = set(several.map(lambda _: put(outbox), range(60)))
            claims = several.map(lambda _: claims_of_some(outbox), range(20))
            assert {each.id for claimed in claims for each in claimed} == rows
        outbox.close()


def claims_of_some(outbox):
    return claim(outbox, transports=["default"], limit=10, worker="w")


def test_what_does_not_fit_is_an_error_however_lax_the_server_is(mariadb):
    url = mariadb.new()
    mariadb.ask("SET GLOBAL sql_mode = ''")
    outbox = Outbox(url)
    try:
        outbox.upgrade()
        with outbox.begin() as connection:
            connection.exec_driver_sql("CREATE TEMPORARY TABLE narrow (word VARCHAR(3))")
            with pytest.raises(DataError, match="too long"):
                connection.exec_driver_sql("INSERT INTO narrow VALUES ('four')")
        put(outbox)
        assert len(take(outbox)) == 1
    finally:
        outbox.close()
        mariadb.ask("SET GLOBAL sql_mode = DEFAULT")


# --- at start-up ---


def test_a_server_that_is_too_old_is_an_error_that_says_what_it_must_be(server, monkeypatch):
    monkeypatch.setattr(postgresql, "OLDEST", 990000)
    monkeypatch.setattr(mysql, "OLDEST", {"MariaDB": (99, 1), "MySQL": (99, 1)})
    outbox = Outbox(server.new())
    with pytest.raises(OutboxUnavailable, match="it has to be at least 99"):
        outbox.open()


def test_one_that_is_just_new_enough_is_none(server, monkeypatch):
    [(version,)] = server.ask("SELECT VERSION()")
    number = version.split(" ")[1] if "PostgreSQL" in version else version.split("-")[0]
    figures = tuple(map(int, number.split(".")))
    monkeypatch.setattr(postgresql, "OLDEST", figures[0] * 10_000 + figures[1])
    monkeypatch.setattr(mysql, "OLDEST", {"MariaDB": figures, "MySQL": figures})
    outbox = Outbox(server.new())
    outbox.upgrade()
    put(outbox)
    outbox.close()


UNSAFE = {
    "postgresql": ("ALTER DATABASE {} SET synchronous_commit = off", "synchronous_commit is off"),
    "mariadb": ("SET GLOBAL innodb_flush_log_at_trx_commit = 2", "not 1 in"),
}


@pytest.mark.parametrize("kind", UNSAFE)
def test_a_server_that_acknowledges_what_is_not_on_its_disk_is_told_of(kind, request, caplog):
    server = request.getfixturevalue(kind)
    unsafe, told = UNSAFE[kind]
    url = server.new()
    Outbox(url).upgrade()
    server.ask(unsafe.format(url.rpartition("/")[2]))
    outbox = Outbox(url)
    try:
        outbox.open()
    finally:
        outbox.close()
        if kind == "mariadb":
            server.ask("SET GLOBAL innodb_flush_log_at_trx_commit = DEFAULT")
    assert [each.levelno for each in caplog.records if told in each.message] == [logging.WARNING]


def test_a_mail_larger_than_a_packet_is_an_error_that_breaks_no_transaction(mariadb, caplog):
    url = mariadb.new()
    Outbox(url).upgrade()
    mariadb.ask(f"SET GLOBAL max_allowed_packet = {1024 * 1024}")
    outbox = Outbox(url)
    outbox.open()
    most = (1024 * 1024 - mysql.AROUND) // 2
    try:
        with outbox.begin() as connection:
            first = enqueue(connection, outbox, a_submission(content=b"x" * most))
            with pytest.raises(TooLargeError, match="max_allowed_packet"):
                enqueue(connection, outbox, a_submission(content=b"x" * (most + 1)))
            second = enqueue(connection, outbox, a_submission())  # the transaction is as it was
        assert [each.id for each in take(outbox)] == [first, second]
    finally:
        outbox.close()
        mariadb.ask("SET GLOBAL max_allowed_packet = 67108864")
    assert "Set it to 64M" in caplog.text


def a_deadlock(name):
    if name == "mariadb":
        return pymysql.err.OperationalError(1213, "Deadlock found when trying to get lock")
    return psycopg.errors.DeadlockDetected("deadlock detected")


def test_a_claim_and_what_is_recorded_of_a_probe_lock_in_one_order(postgresql):
    url = postgresql.new()
    Outbox(url).upgrade()
    clock, rates = Clock(), Rates(domains={"example.org": 1000.0})
    outbox = Outbox(url, clock=clock, rates=rates)
    put_many(outbox, 3)
    say(outbox, *start(outbox, of_two_routes(outbox)), OURS)
    clock.now += 1
    (probe,) = start(outbox, of_two_routes(outbox))
    claimer = threading.get_ident()
    has_route, at_route, gave_way = threading.Event(), threading.Event(), []

    def meet(statement, _terms):
        if "FOR UPDATE" not in statement:
            return
        if "outbox_route" in statement and threading.get_ident() != claimer:
            at_route.set()
        if "outbox_rate" in statement and threading.get_ident() == claimer:
            has_route.set()
            assert at_route.wait(20)

    def tell():
        assert has_route.wait(20)
        return say(outbox, probe, OURS)

    event.listen(outbox.open(), "rollback", gave_way.append)
    with heard(outbox, meet), ThreadPoolExecutor(1) as others:
        told = others.submit(tell)
        assert [each.route for each in of_two_routes(outbox)] == ["second"]
        assert len(told.result(20)) == 1
    assert not gave_way
    outbox.close()


def of_two_routes(outbox):
    ways = Routing("default", ({"first": 1.0}, {"second": 1.0}))
    return claim(outbox, transports=["default"], limit=1, worker="w", routing=lambda _: ways)


@pytest.mark.parametrize("name", ["mariadb", "postgresql"])
def test_a_claim_that_gave_way_to_another_is_made_once_more(request, name):
    url = request.getfixturevalue(name).new()
    Outbox(url).upgrade()
    outbox = Outbox(url)
    row = put(outbox)
    died = []

    def die(statement, *_):
        if "SKIP LOCKED" in statement and not died:
            died.append(statement)
            raise a_deadlock(name)

    with heard(outbox, die):
        assert [each.id for each in take(outbox)] == [row]
    assert len(died) == 1
    outbox.close()
