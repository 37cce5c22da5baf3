"""What a server must be allowed, and must promise: the page of the documentation, carried out."""

import logging
import os
import re
import socket
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from flask_outbox.mail.errors import OutboxUnavailable
from flask_outbox.outbox import mysql
from flask_outbox.outbox import postgresql as postgresql_module
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.prune import prune
from flask_outbox.outbox.stats import stats
from outbox_mail import begin, put

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "databases.md"
BLOCKS = re.findall(
    r"^```sql\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)
ALL_OF_POSTGRESQL, ALL_OF_MARIADB, TO_SEND = BLOCKS


@pytest.fixture
def opened():
    made = []

    def open_at(url):
        made.append(Outbox(url))
        return made[-1]

    yield open_at
    for each in made:
        each.close()


def as_user(server, name):
    """An empty database, and its URL for a user of that name."""
    url = make_url(server.new())
    return url.database, url.set(username=name, password="secret").render_as_string(
        hide_password=False
    )


def said(block, database, user):
    """The page's statements, for this database and user."""
    text = block.replace("shop", database)
    text = re.sub(r"(ROLE|TO|USER) outbox\b", rf"\1 {user}", text)
    return [each for each in text.split(";") if each.strip()]


def works(outbox):
    put(outbox, key="one")
    put(outbox, key="one")
    assert len(begin(outbox)) == 1
    stats(outbox)
    prune(outbox, content_after=0.0, rows_after=0.0)


def test_postgresql_as_the_page_has_it(postgresql, opened):
    database, url = as_user(postgresql, "keeper")
    for each in said(ALL_OF_POSTGRESQL, database, "keeper"):
        postgresql.ask(each)
    outbox = opened(url)
    outbox.upgrade()
    works(outbox)


def test_on_postgresql_who_sends_need_not_be_allowed_to_change_tables(postgresql, opened):
    url = postgresql.new()
    database = make_url(url).database
    opened(url).upgrade()
    postgresql.ask("CREATE ROLE sender LOGIN")
    sender = opened(make_url(url).set(username="sender").render_as_string(hide_password=False))
    with pytest.raises(OutboxUnavailable, match="this user may not use its tables"):
        put(sender)
    with psycopg.connect(url, autocommit=True) as keeper:
        for each in said(TO_SEND, database, "sender"):
            keeper.execute(each)
    works(sender)


def test_mariadb_as_the_page_has_it(mariadb, opened):
    database, url = as_user(mariadb, "keeper")
    for each in said(ALL_OF_MARIADB, database, "keeper"):
        mariadb.ask(each)
    outbox = opened(url)
    outbox.upgrade()
    works(outbox)


def test_on_mariadb_who_sends_need_not_be_allowed_to_change_tables(mariadb, opened):
    url = make_url(mariadb.new())
    opened(url.render_as_string()).upgrade()
    mariadb.ask("CREATE USER sender@'%' IDENTIFIED BY 'secret'")
    mariadb.ask(f"GRANT DROP ON {url.database}.* TO sender@'%'")
    sender = opened(
        url.set(username="sender", password="secret").render_as_string(hide_password=False)
    )
    with pytest.raises(OutboxUnavailable, match="this user may not use its tables"):
        put(sender)
    mariadb.ask(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {url.database}.* TO sender@'%'")
    works(sender)


# What is acknowledged is on the disk, or a warning says that it may not be


def warnings(caplog):
    return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]


def test_postgresql_that_does_not_wait_for_its_disk_is_warned_of(postgresql, opened, caplog):
    url = postgresql.new()
    opened(url).upgrade()
    put(opened(url))
    assert warnings(caplog) == []
    postgresql.ask(f"ALTER DATABASE {make_url(url).database} SET synchronous_commit = off")
    put(opened(url))
    (line,) = warnings(caplog)
    assert "synchronous_commit is off" in line
    assert "when the power fails" in line


def test_mariadb_that_does_not_wait_for_its_disk_is_warned_of(mariadb, opened, caplog):
    url = mariadb.new()
    opened(url).upgrade()
    put(opened(url))
    assert warnings(caplog) == []
    mariadb.ask("SET GLOBAL innodb_flush_log_at_trx_commit = 2")
    try:
        put(opened(url))
    finally:
        mariadb.ask("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
    (line,) = warnings(caplog)
    assert "innodb_flush_log_at_trx_commit is not 1" in line
    assert "when the power fails" in line


def test_mariadb_that_takes_no_large_message_is_warned_of(mariadb, opened, caplog):
    url = mariadb.new()
    opened(url).upgrade()
    mariadb.ask("SET GLOBAL max_allowed_packet = 16777216")
    try:
        put(opened(url))
    finally:
        mariadb.ask("SET GLOBAL max_allowed_packet = 67108864")
    (line,) = warnings(caplog)
    assert "max_allowed_packet is 16777216" in line


# Nobody waits without end for a host that has vanished


def test_on_postgresql_the_kernel_gives_up_who_acknowledges_nothing(postgresql, opened):
    url = postgresql.new()
    opened(url).upgrade()
    with opened(url).read() as connection:
        driver = connection.connection.driver_connection
        with socket.socket(fileno=os.dup(driver.fileno())) as line:
            options = ("TCP_USER_TIMEOUT", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
            found = [line.getsockopt(socket.IPPROTO_TCP, getattr(socket, it)) for it in options]
    assert found == [15_000, 5, 5, 3]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_a_server_that_accepts_and_never_answers_is_given_up(opened, monkeypatch, kind):
    monkeypatch.setattr(postgresql_module, "CONNECT", 2)  # seconds; libpq knows no less
    monkeypatch.setattr(mysql, "CONNECT", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"{kind}://outbox@127.0.0.1:{silent.getsockname()[1]}/shop"
        outbox = Outbox(place, busy=1.0)
        with pytest.raises(OutboxUnavailable):
            put(outbox)
        outbox.close()


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_connections_that_were_ended_while_they_rested_cost_nobody_an_error(request, opened, kind):
    server = request.getfixturevalue(kind)
    url = server.new()
    outbox = opened(url)
    outbox.upgrade()
    put(outbox)
    assert server.kick(url)
    put(outbox)


def test_on_postgresql_nothing_is_prepared_which_a_pooler_might_not_know(postgresql, opened):
    url = postgresql.new()
    outbox = opened(url)
    outbox.upgrade()
    with outbox.begin() as connection:
        for _ in range(9):  # the driver prepares what it says five times in a transaction
            outbox.now(connection)
        asked = "SELECT statement FROM pg_prepared_statements"
        assert connection.exec_driver_sql(asked).all() == []
