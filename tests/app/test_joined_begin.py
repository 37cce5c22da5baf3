"""On SQLite: why an app's own engine gets a real BEGIN, and what of it an app notices."""

import logging
import sqlite3
from contextlib import suppress

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from flask_outbox import OutboxUnavailable
from flask_outbox.outbox.begin import begin_for_real
from flask_outbox.outbox.prune import prune
from shop import note, open_shop


@pytest.fixture
def place(tmp_path):
    return f"sqlite:///{tmp_path / 'shop.sqlite3'}"


@pytest.fixture
def shop(place, tmp_path):
    with open_shop(place, tmp_path / "instance", MAIL_WORKER="process") as shop:
        yield shop


@pytest.fixture
def plain(shop):
    """An engine on the shop's database as SQLAlchemy makes it: the driver begins."""
    engine = create_engine(shop.place)
    yield engine
    engine.dispose()


def said(engine):
    """All that SQLite hears from now on."""
    heard = []

    @event.listens_for(engine, "checkout")
    def trace(connection, *_):
        connection.set_trace_callback(heard.append)

    return heard


def begins(heard):
    return [each for each in heard if each.startswith("BEGIN")]


# The trace of a savepoint: SAVEPOINT, INSERT, RELEASE, ROLLBACK


def an_order_in_a_savepoint_and_a_rollback(engine):
    with Session(engine) as session:
        with session.begin_nested():
            session.execute(text("INSERT INTO shop_order (name) VALUES ('phantom')"))
        session.rollback()


def test_with_the_drivers_transactions_a_savepoints_release_commits(shop, plain):
    an_order_in_a_savepoint_and_a_rollback(plain)
    assert shop.orders() == ["phantom"]


def test_with_a_real_begin_it_does_not(shop, plain):
    assert begin_for_real(plain)
    assert not begin_for_real(plain)
    an_order_in_a_savepoint_and_a_rollback(plain)
    assert shop.orders() == []


# The trace of a request: a savepoint around the mail, and an error after it


def test_a_request_that_is_rolled_back_leaves_a_phantom_mail_with_the_drivers_transactions(
    shop, plain
):
    shop.mail.send_later(note())
    shop.db.session.commit()  # a row to copy, as what the driver is told is what matters
    columns = ", ".join(shop.db.metadata.tables["outbox_message"].columns.keys())
    others = columns.replace("id,", "'phantom',", 1)
    copy = f"INSERT INTO outbox_message ({columns}) SELECT {others} FROM outbox_message"  # noqa: S608  ours
    for prepared, left in ((False, 2), (True, 1)):
        if prepared:
            begin_for_real(plain)
            with plain.begin() as connection:
                connection.execute(text("DELETE FROM outbox_message WHERE id = 'phantom'"))
        with suppress(RuntimeError), Session(plain) as session, session.begin():
            with session.begin_nested():
                session.execute(text(copy))
            raise RuntimeError("the request failed")
        assert len(shop.mails()) == left


def test_a_request_that_is_rolled_back_leaves_no_phantom_mail(shop):
    with suppress(RuntimeError), shop.db.session.begin():
        with shop.db.session.begin_nested():
            shop.mail.send_later(note())
        raise RuntimeError("the request failed")
    assert shop.mails() == []


# What begins how


def test_a_session_whose_first_act_is_to_send_takes_the_write_lock_at_once(shop):
    assert shop.mail.status("0" * 32) is None  # the outbox is open
    heard = said(shop.db.engine)
    shop.mail.send_later(note())
    shop.db.session.commit()
    with shop.db.session.begin():
        shop.mail.send_later(note())
    assert begins(heard) == ["BEGIN IMMEDIATE"] * 2


def test_another_session_begins_as_it_would_have(shop):
    assert shop.mail.status("0" * 32) is None
    heard = said(shop.db.engine)
    shop.order()
    shop.db.session.flush()
    shop.mail.send_later(note())
    shop.db.session.commit()
    shop.db.session.scalars(shop.db.select(shop.Order)).all()
    shop.mail.send_later(note())
    shop.db.session.commit()
    assert begins(heard) == ["BEGIN", "BEGIN"]


def test_autocommit_stays_autocommit(shop):
    heard = said(shop.db.engine)
    with shop.db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM"))  # which SQLite refuses in a transaction
    assert begins(heard) == []


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_an_app_may_have_a_begin_of_its_own_whichever_came_first(place, tmp_path, first):
    def listeners(engine):  # as SQLAlchemy's documentation has it
        @event.listens_for(engine, "connect")
        def do_connect(dbapi_connection, _record):
            dbapi_connection.isolation_level = None

        @event.listens_for(engine, "begin")
        def do_begin(conn):
            conn.exec_driver_sql("BEGIN EXCLUSIVE")

    early = listeners if first == "theirs" else None
    with open_shop(place, tmp_path / "i", listeners=early, MAIL_WORKER="process") as shop:
        if first == "ours":
            listeners(shop.db.engine)
        heard = said(shop.db.engine)
        shop.order("kept")
        with shop.db.session.begin_nested():
            row = shop.mail.send_later(note())
        shop.db.session.commit()
        shop.mail.send_later(note())
        shop.db.session.rollback()
        assert begins(heard)
        assert set(begins(heard)) == {"BEGIN EXCLUSIVE"}
        assert (shop.orders(), shop.mails()) == (["kept"], [row])


# Who else writes


@pytest.fixture
def hurried(place, tmp_path):
    """A shop that waits for nobody."""
    options = {"connect_args": {"timeout": 0}}
    with open_shop(
        place, tmp_path / "i", MAIL_WORKER="process", SQLALCHEMY_ENGINE_OPTIONS=options
    ) as shop:
        assert shop.mail.status("0" * 32) is None
        yield shop


def another_writes(shop):
    with sqlite3.connect(shop.place.removeprefix("sqlite:///")) as other:
        other.execute("INSERT INTO shop_order (name) VALUES ('another')")
    other.close()


def test_a_write_lock_that_another_holds_is_told_with_what_to_do(hurried):
    other = sqlite3.connect(hurried.place.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OutboxUnavailable, match="another program held its write lock"):
        hurried.mail.send_later(note())
    other.close()
    hurried.db.session.rollback()
    hurried.mail.send_later(note())
    hurried.db.session.commit()
    assert len(hurried.mails()) == 1


def test_what_was_read_before_another_wrote_cannot_be_written_upon(hurried):
    with hurried.db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("PRAGMA journal_mode = WAL"))
    assert hurried.db.session.scalars(hurried.db.select(hurried.Order)).all() == []
    another_writes(hurried)
    with pytest.raises(OutboxUnavailable, match="begin it anew"):
        hurried.mail.send_later(note())
    hurried.db.session.rollback()
    hurried.mail.send_later(note())
    another = hurried.db.session.scalars(hurried.db.select(hurried.Order)).all()
    hurried.db.session.commit()
    assert [each.name for each in another] == ["another"]
    assert len(hurried.mails()) == 1


def test_an_error_of_the_database_quotes_no_mail(shop):
    with shop.db.engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TRIGGER never BEFORE INSERT ON outbox_message"
                " BEGIN SELECT RAISE(ABORT, 'never'); END"
            )
        )
    with pytest.raises(shop.db.exc.IntegrityError, match="never") as caught:
        shop.mail.send_later(note(), key="canary-key")
    assert "canary" not in str(caught.value)


def test_start_up_says_that_it_put_a_begin_there(place, tmp_path, caplog):
    caplog.set_level(logging.INFO, "flask_outbox")
    with open_shop(place, tmp_path / "instance"):
        lines = [each.getMessage() for each in caplog.records if "real BEGIN" in each.getMessage()]
    assert len(lines) == 1
    assert "shop.sqlite3" in lines[0]


def test_an_engine_that_does_not_wait_for_its_disk_is_warned_of(place, tmp_path, caplog):
    def hurry(engine):
        @event.listens_for(engine, "connect")
        def connect(connection, _record):
            connection.execute("PRAGMA synchronous = NORMAL").close()

    with open_shop(place, tmp_path / "i", listeners=hurry, MAIL_WORKER="process") as shop:
        shop.mail.send_later(note())
        shop.db.session.commit()
    (line,) = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert "PRAGMA synchronous is 1" in line
    assert "when the power fails" in line


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_start_up_says_where_requests_and_workers_wait_for_each_other(
    place, tmp_path, caplog, mode
):
    def settle(engine):
        @event.listens_for(engine, "connect")
        def connect(connection, _record):
            connection.execute(f"PRAGMA journal_mode = {mode}").close()

    caplog.set_level(logging.INFO, "flask_outbox")
    with open_shop(place, tmp_path / "i", listeners=settle, MAIL_WORKER="process") as shop:
        shop.mail.send_later(note())
        shop.db.session.commit()
    told = [each.getMessage() for each in caplog.records if "journal" in each.getMessage()]
    assert ["PRAGMA journal_mode = WAL" in each for each in told] == [True] * (mode == "delete")


def test_what_is_wiped_is_overwritten_in_the_apps_file_too(place, tmp_path, server):
    def hurry(engine):
        @event.listens_for(engine, "connect")
        def connect(connection, _record):
            connection.execute("PRAGMA secure_delete = OFF").close()

    canary = "canary-" * 400
    with open_shop(
        place, tmp_path / "i", listeners=hurry, MAIL_WORKER="process", MAIL_PORT=server.port
    ) as shop:
        file = tmp_path / "shop.sqlite3"
        shop.mail.send_later(note(body=canary))
        shop.db.session.commit()
        assert b"canary-" in file.read_bytes()
        assert shop.mail.drain() == 1
        outbox = shop.app.extensions["outbox"].outbox
        assert prune(outbox, content_after=0.0, rows_after=None).contents == 1
        assert b"canary-" not in file.read_bytes()


def test_from_the_first_commit_on_nobody_looks_for_our_tables_again(shop):
    looks = ("PRAGMA", "sqlite_master")
    shop.mail.send_later(note())
    shop.db.session.commit()
    heard = said(shop.db.engine)
    shop.mail.send_later(note())
    shop.db.session.commit()
    assert heard
    assert not [each for each in heard if any(look in each for look in looks)]


def test_one_connection_for_all_may_be_given_away_within_a_transaction(tmp_path):
    """As with a database in memory; what is under way stays under way."""
    engine = create_engine(f"sqlite:///{tmp_path / 'one.sqlite3'}", poolclass=StaticPool)
    connection = engine.connect()
    connection.execute(text("CREATE TABLE one (number INTEGER)"))
    connection.commit()
    connection.execute(text("INSERT INTO one VALUES (1)"))
    begin_for_real(engine)
    given_away = engine.connect()
    connection.rollback()
    given_away.close()
    assert connection.execute(text("SELECT count(*) FROM one")).scalar_one() == 0
    connection.close()
    engine.dispose()
