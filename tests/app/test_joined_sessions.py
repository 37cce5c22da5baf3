"""send_later(session=...): any SQLAlchemy session on the outbox's database."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask
from sqlalchemy import Integer, String, create_engine, inspect, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column, scoped_session, sessionmaker

from flask_outbox import (
    ConfigurationError,
    KeyConflict,
    Mail,
    MessageError,
    OutboxUnavailable,
    State,
    message_queued,
)
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.kinds import place
from shop import ask, note, open_shop, url_of
from worker_stage import wait_for


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "shop_order"

    id = mapped_column(Integer, primary_key=True)
    name = mapped_column(String(100))


@pytest.fixture
def engine(database):
    """The app's own engine, on a database with its tables and the outbox."""
    if not database.startswith("sqlite"):
        Outbox(database).upgrade()
    engine = create_engine(url_of(database))
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def mail(database, engine, tmp_path):
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config.update(
        MAIL_DEFAULT_SENDER="shop@example.com", MAIL_WORKER="process", MAIL_OUTBOX_URL=database
    )
    mail = Mail(app)
    yield mail
    app.extensions["outbox"].close()


@pytest.fixture
def queued():
    heard = []

    def hear(_app, *, id, **_):  # noqa: A002  the signal's word
        heard.append(id)

    with message_queued.connected_to(hear):
        yield heard


def orders(database):
    return [name for (name,) in ask(database, "SELECT name FROM shop_order ORDER BY id")]


def kept(mail, row):
    status = mail.status(row)
    return status is not None and status.state is State.QUEUED


def test_in_a_plain_session_both_are_kept_or_neither(database, engine, mail, queued):
    with Session(engine) as session:
        session.add(Order(name="tea"))
        session.flush()  # holds the lock before the outbox was ever opened
        first = mail.send_later(note(), session=session)
        session.commit()
        session.add(Order(name="undone"))
        second = mail.send_later(note(), session=session)
        session.rollback()
    with Session(engine) as session, session.begin():
        third = mail.send_later(note(), session=session)
        with session.begin_nested() as savepoint:
            fourth = mail.send_later(note(), session=session)
            savepoint.rollback()
    assert orders(database) == ["tea"]
    assert [kept(mail, each) for each in (first, second, third, fourth)] == [1, 0, 1, 0]
    assert queued == [first, third]


def test_tables_that_were_made_by_what_was_rolled_back_are_made_again(engine, mail):
    for ends in ("rollback", "rollback", "commit"):
        with Session(engine) as session:
            session.add(Order(name="tea"))
            session.flush()
            mail.send_later(note(), session=session)
            row = mail.send_later(note(), session=session)
            getattr(session, ends)()
    assert kept(mail, row)


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_a_session_whose_line_is_lost_while_we_write_is_rolled_back_as_any_other(
    request, database, engine, mail
):
    kind = "postgresql" if database.startswith("postgresql") else "mariadb"
    mail.send_later(note())  # from now on it is known that our tables are there
    with Session(engine) as session:
        session.add(Order(name="tea"))
        session.flush()
        request.getfixturevalue(kind).kick(database)
        with pytest.raises(OutboxUnavailable):
            mail.send_later(note(), session=session)
        session.rollback()
        row = mail.send_later(note(), session=session)
        session.commit()
    assert mail.status(row).state is State.QUEUED
    assert ask(database, "SELECT count(*) FROM shop_order") == [(0,)]


def test_a_scoped_session_is_one_too(engine, mail):
    session = scoped_session(sessionmaker(engine))
    row = mail.send_later(note(), session=session)
    session.commit()
    assert kept(mail, row)
    assert mail.cancel(row, session=session)
    session.rollback()
    assert kept(mail, row)
    assert mail.cancel(row, session=session)
    session.commit()
    assert not kept(mail, row)
    session.remove()


def test_the_sessions_own_statements_are_left_as_they_are(engine, mail):
    with Session(engine) as session:
        before = session.connection().get_execution_options()
        row = mail.send_later(note(), session=session)
        assert mail.cancel(row, session=session)
        options = session.connection().get_execution_options()
        assert {name: value for name, value in options.items() if value} == dict(before)
        session.add(Order(name="tea"))
        session.commit()


def test_on_sqlite_a_released_savepoint_does_not_commit(tmp_path):
    database = f"sqlite:///{tmp_path / 'shop.sqlite3'}"
    engine = create_engine(database)
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config.update(MAIL_DEFAULT_SENDER="shop@example.com", MAIL_WORKER="process")
    app.config["MAIL_OUTBOX_URL"] = database
    mail = Mail(app)
    with Session(engine) as session:
        mail.send_later(note(), session=session)
        session.rollback()
        with session.begin_nested():
            row = mail.send_later(note(), session=session)
        session.rollback()
    assert not kept(mail, row)
    app.extensions["outbox"].close()
    engine.dispose()


# A key that another transaction committed after this one first read


@pytest.fixture
def meanwhile(request, database, mail):
    """A session that has read before a key was committed by another; its id, the session."""
    level, *settings = request.param
    engine = create_engine(url_of(database), isolation_level=level)
    first = mail.send_later(note(body="Anything"), key="order-6")  # the outbox is open
    with Session(engine) as session:
        for each in settings:
            session.execute(text(each))
            session.commit()
        session.execute(text("SELECT * FROM shop_order")).all()  # settles what it sees
        first = mail.send_later(note(), key="order-7")
        yield session, first
    engine.dispose()


@pytest.mark.parametrize(
    ("database", "meanwhile"),
    [
        ("postgresql", ["READ COMMITTED"]),
        ("mariadb", ["READ COMMITTED"]),
        ("mariadb", ["REPEATABLE READ"]),
        ("mariadb", ["SERIALIZABLE"]),
    ],
    indirect=True,
)
def test_a_key_that_came_after_a_transactions_first_read_is_found(database, mail, meanwhile):
    session, first = meanwhile
    assert mail.send_later(note(), key="order-7", session=session) == first
    with pytest.raises(KeyConflict):
        mail.send_later(note(body="Another"), key="order-7", session=session)
    session.add(Order(name="after it"))
    session.commit()
    assert orders(database) == ["after it"]


@pytest.mark.parametrize(
    ("database", "meanwhile"),
    [
        ("postgresql", ["REPEATABLE READ"]),
        ("postgresql", ["SERIALIZABLE"]),
        ("mariadb", ["REPEATABLE READ", "SET innodb_snapshot_isolation = ON"]),
    ],
    indirect=True,
)
def test_or_the_transaction_has_to_be_begun_anew_and_the_error_says_so(database, mail, meanwhile):
    session, first = meanwhile
    session.add(Order(name="undone"))
    with pytest.raises(OutboxUnavailable, match="begin it anew"):
        mail.send_later(note(), key="order-7", session=session)
    session.rollback()
    assert mail.send_later(note(), key="order-7", session=session) == first
    session.add(Order(name="anew"))
    session.commit()
    assert orders(database) == ["anew"]


# A transaction that the database has undone for another's sake


@pytest.fixture
def deadlocked(request, engine, mail):
    """Two sessions that wait for each other's key: the one let go, the other, and its call."""
    sessions = [Session(engine), Session(engine)]
    for name, session in enumerate(sessions):
        session.add(Order(name=f"order {name}"))
        mail.send_later(note(), key=f"order-{name}", session=session)
        if request.param == "nested":
            session.begin_nested()
    with ThreadPoolExecutor(2) as threads:
        calls = [
            threads.submit(mail.send_later, note(), key=f"order-{1 - name}", session=session)
            for name, session in enumerate(sessions)
        ]
        wait_for(lambda: any(each.done() and each.exception() for each in calls))
        lost = next(n for n, each in enumerate(calls) if each.done() and each.exception())
        assert isinstance(calls[lost].exception(), OutboxUnavailable)
        yield sessions[lost], sessions[1 - lost], calls[1 - lost]
        sessions[lost].close()
    sessions[1 - lost].close()


@pytest.mark.parametrize("deadlocked", ["plain"], indirect=True)
@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_a_transaction_that_was_undone_cannot_be_committed_as_if_it_were_not(
    database, mail, deadlocked
):
    victim, other, waits = deadlocked
    victim.add(Order(name="after it"))
    with pytest.raises(OutboxUnavailable, match="Roll it back"):
        victim.commit()
    victim.rollback()
    waits.result(30)
    other.rollback()
    victim.add(Order(name="anew"))
    row = mail.send_later(note(), key="order-0", session=victim)
    victim.commit()
    assert orders(database) == ["anew"]
    assert kept(mail, row)


@pytest.mark.parametrize("deadlocked", ["nested"], indirect=True)
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_on_postgresql_a_savepoint_keeps_what_came_before_it(database, mail, deadlocked):
    victim, other, waits = deadlocked
    with pytest.raises(OutboxUnavailable, match="Roll it back"):
        victim.get_nested_transaction().commit()
    victim.get_nested_transaction().rollback()
    victim.commit()
    waits.result(30)
    other.rollback()
    assert len(orders(database)) == 1


@pytest.mark.parametrize("deadlocked", ["nested"], indirect=True)
@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_on_mariadb_it_keeps_nothing(database, deadlocked):
    victim, other, waits = deadlocked
    with pytest.raises(DBAPIError, match="SAVEPOINT"):
        victim.get_nested_transaction().rollback()
    victim.add(Order(name="after it"))
    with pytest.raises(OutboxUnavailable, match="Roll it back"):
        victim.commit()
    victim.rollback()
    waits.result(30)
    other.rollback()
    assert orders(database) == []


# On SQLite: a transaction that was under way before we first saw its engine


@pytest.fixture
def beside(tmp_path):
    """An app whose outbox is a file without our tables, and its own engine there."""
    database = f"sqlite:///{tmp_path / 'shop.sqlite3'}"
    engine = create_engine(database)
    Base.metadata.create_all(engine)
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config.update(
        MAIL_DEFAULT_SENDER="shop@example.com", MAIL_WORKER="process", MAIL_OUTBOX_URL=database
    )
    yield Mail(app), engine
    app.extensions["outbox"].close()
    engine.dispose()


def read(session):
    session.execute(text("SELECT 1"))


def write(session):
    session.execute(text("INSERT INTO shop_order (name) VALUES ('tea')"))


def our_tables(engine):
    return [each for each in inspect(engine).get_table_names() if each.startswith("outbox_")]


@pytest.mark.parametrize("ends", ["commit", "rollback", "close"])
@pytest.mark.parametrize("first", [read, write])
def test_our_tables_are_made_in_a_transaction_that_was_under_way(beside, first, ends):
    mail, engine = beside
    with Session(engine) as session:
        first(session)
        row = mail.send_later(note(), session=session)
        getattr(session, ends)()
    assert bool(our_tables(engine)) is (ends == "commit")
    assert kept(mail, row) is (ends == "commit")
    assert kept(mail, mail.send_later(note()))


@pytest.mark.parametrize("ends", ["commit", "rollback"])
@pytest.mark.parametrize("first", [read, write])
def test_our_tables_are_made_in_a_savepoint_of_such_a_transaction(beside, first, ends):
    mail, engine = beside
    with Session(engine) as session:
        first(session)
        savepoint = session.begin_nested()
        row = mail.send_later(note(), session=session)
        getattr(savepoint, ends)()
        session.commit()
    assert bool(our_tables(engine)) is (ends == "commit")
    assert kept(mail, row) is (ends == "commit")
    assert kept(mail, mail.send_later(note()))


@pytest.mark.parametrize("first", [read, write])
def test_a_savepoint_after_our_first_word_does_not_commit_when_it_is_released(beside, first):
    mail, engine = beside
    mail.send_later(note())  # the tables are there
    with Session(engine) as session:
        first(session)
        assert not mail.cancel("0" * 32, session=session)
        with session.begin_nested():
            row = mail.send_later(note(), session=session)
        session.rollback()
    assert not kept(mail, row)


def test_a_session_that_commits_each_statement_is_refused(beside):
    mail, engine = beside
    with Session(engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        read(session)
        with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
            mail.send_later(note(), session=session)


def test_so_is_one_whose_engine_was_made_so(mail, database):
    refused(mail, create_engine(url_of(database), isolation_level="AUTOCOMMIT"))


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_so_is_one_whose_driver_was_told_so(mail, database):
    refused(mail, create_engine(url_of(database), connect_args={"autocommit": True}))


def refused(mail, engine):
    with Session(engine) as session, pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
        mail.send_later(note(), session=session)
    engine.dispose()


HOSTS = [
    ("postgresql://a@one.example/db", "postgresql://a@two.example/db"),
    ("postgresql://a@/db?host=one.example", "postgresql://a@/db?host=two.example"),
    ("postgresql://a@/db?host=h&port=5432", "postgresql://a@/db?host=h&port=5433"),
    ("postgresql://a@/db?host=/run/one", "postgresql://a@/db?host=/run/two"),
    ("postgresql://a@/db", "postgresql://a@/db?host=h"),
    ("mysql://a@/db?unix_socket=/run/one", "mysql://a@/db?unix_socket=/run/two"),
    ("mysql://a@localhost/db", "mysql://a@localhost:3307/db"),
    ("mysql://a@localhost/db", "mysql://a@localhost/DB"),
]
SAME = [
    ("postgresql://a@127.0.0.1/db", "postgresql+psycopg2://b@/db?host=localhost"),
    ("postgresql://a@h:5432/db", "postgresql://a@/db?host=H&port=5432"),
    ("mariadb://a@DB.example:3306/db", "mysql+pymysql://b:c@db.example/db"),
    ("mysql://a@localhost:1/db?unix_socket=/run/one", "mysql://a@/db?unix_socket=/run/one"),
]


@pytest.mark.parametrize(("one", "other"), HOSTS)
def test_two_databases_are_two_however_their_urls_say_it(one, other):
    assert place(make_url(one)) != place(make_url(other))


@pytest.mark.parametrize(("one", "other"), SAME)
def test_one_database_is_one_however_its_urls_say_it(one, other):
    assert place(make_url(one)) == place(make_url(other))


def test_a_session_of_another_database_is_refused_and_named(mail, tmp_path):
    other = create_engine(f"sqlite:///{tmp_path / 'other.sqlite3'}")
    with Session(other) as session, pytest.raises(ConfigurationError, match="another database"):
        mail.send_later(note(), session=session)
    other.dispose()


def test_a_session_within_anothers_transaction_tells_at_its_own_commit(beside, queued):
    """As test suites have it; the file is locked then for everybody else, us included."""
    mail, engine = beside
    with engine.connect() as connection, connection.begin():
        with Session(connection) as session:
            row = mail.send_later(note(), session=session)
            session.commit()
        assert queued == [row]
    assert kept(mail, row)


def test_a_file_is_the_same_by_a_symbolic_link(beside, tmp_path):
    mail, _engine = beside
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    linked = create_engine(f"sqlite:///{tmp_path / 'link' / 'shop.sqlite3'}")
    with Session(linked) as session:
        row = mail.send_later(note(), session=session)
        session.commit()
    assert kept(mail, row)
    linked.dispose()


def test_a_session_of_another_database_is_refused_beside_a_db_too(database, tmp_path):
    other = create_engine(f"sqlite:///{tmp_path / 'other.sqlite3'}")
    with (
        open_shop(database, tmp_path / "instance", MAIL_WORKER="process") as shop,
        Session(other) as session,
        pytest.raises(ConfigurationError, match="another database"),
    ):
        shop.mail.send_later(note(), session=session)
    other.dispose()


def test_beside_a_db_any_session_of_its_database_does(database, tmp_path):
    with (
        open_shop(database, tmp_path / "instance", MAIL_WORKER="process") as shop,
        Session(shop.db.engine) as session,
    ):
        row = shop.mail.send_later(note(), session=session)
        shop.db.session.commit()
        assert shop.mails() == []
        session.commit()
        assert shop.mails() == [row]


def test_what_is_no_session_and_one_bound_to_nothing_are_told(mail):
    with pytest.raises(MessageError, match="session must be an SQLAlchemy session, not str"):
        mail.send_later(note(), session="postgresql://")
    with Session() as session, pytest.raises(MessageError, match="bound to no database"):
        mail.send_later(note(), session=session)


def test_a_server_without_our_tables_names_the_command(postgresql, tmp_path):
    database = postgresql.new()
    engine = create_engine(url_of(database))
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config.update(
        MAIL_DEFAULT_SENDER="shop@example.com", MAIL_WORKER="process", MAIL_OUTBOX_URL=database
    )
    mail = Mail(app)
    with Session(engine) as session, pytest.raises(OutboxUnavailable, match="flask outbox upgrade"):
        mail.send_later(note(), session=session)
    engine.dispose()


# AsyncSession, whose work is done by run_sync


ASYNC = {
    "sqlite+aiosqlite": "sqlite",
    "postgresql+psycopg": "postgresql",
    "postgresql+asyncpg": "postgresql",
    "mysql+asyncmy": "mariadb",
}


@pytest.fixture(params=ASYNC)
def async_url(request, tmp_path):
    """Where a database is, with the driver that an app's AsyncSession has there."""
    kind = ASYNC[request.param]
    if kind == "sqlite":
        return make_url(f"{request.param}:///{tmp_path / 'shop.sqlite3'}")
    return make_url(request.getfixturevalue(kind).new()).set(drivername=request.param)


@pytest.fixture
def async_database(async_url):
    """The same, as MAIL_OUTBOX_URL names it."""
    return str(async_url.set(drivername=async_url.get_backend_name()))


@pytest.fixture
def async_mail(async_database, tmp_path):
    if not async_database.startswith("sqlite"):
        Outbox(async_database).upgrade()
    engine = create_engine(url_of(async_database))
    Base.metadata.create_all(engine)
    engine.dispose()
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config.update(
        MAIL_DEFAULT_SENDER="shop@example.com", MAIL_WORKER="process",
        MAIL_OUTBOX_URL=async_database,
    )  # fmt: skip
    mail = Mail(app)
    yield mail
    app.extensions["outbox"].close()


def test_an_async_session_sends_by_run_sync(async_url, async_database, async_mail, queued):
    def order_and_mail(own, key):
        own.add(Order(name=key))
        several = note(recipients=["ada@example.org", "bob@example.org"])
        return async_mail.send_later(several, key=key, session=own)

    async def work():
        engine = create_async_engine(async_url)
        rows = []
        for ends in ("commit", "rollback", "commit"):
            async with AsyncSession(engine) as session:
                async with session.begin_nested():
                    rows.append(await session.run_sync(order_and_mail, ends))
                await getattr(session, ends)()
        async with AsyncSession(engine) as session:
            with pytest.raises(MessageError, match=r"await session\.run_sync\(lambda"):
                async_mail.send_later(note(), session=session)
        await engine.dispose()
        return rows

    first, undone, again = asyncio.run(work())
    assert orders(async_database) == ["commit", "commit"]
    assert first == again
    assert queued == [first]
    assert kept(async_mail, first)
    assert not kept(async_mail, undone)


def test_an_async_session_takes_back_and_is_told_of_a_key_by_run_sync(
    async_url, async_database, async_mail
):
    def clash(own, first):
        assert async_mail.send_later(note(), key="order-7", session=own) == first
        with pytest.raises(KeyConflict):
            async_mail.send_later(note(body="Another"), key="order-7", session=own)
        own.add(Order(name="after the clash"))

    async def work():
        engine = create_async_engine(async_url)
        first = async_mail.send_later(note(), key="order-7")
        for ends in ("rollback", "commit"):
            async with AsyncSession(engine) as session:
                await session.execute(text("SELECT 1"))
                await session.run_sync(clash, first)
                assert await session.run_sync(lambda own: async_mail.cancel(first, session=own))
                await getattr(session, ends)()
            states.append(async_mail.status(first).state)
        await engine.dispose()

    states = []
    asyncio.run(work())
    assert states == [State.QUEUED, State.CANCELLED]
    assert orders(async_database) == ["after the clash"]


def test_our_tables_are_made_in_an_async_session_that_was_under_way(tmp_path, beside):
    mail, engine = beside

    async def work():
        own = create_async_engine(engine.url.set(drivername="sqlite+aiosqlite"))
        for ends in ("rollback", "commit"):
            async with AsyncSession(own) as session:
                await session.execute(text("SELECT 1"))
                row = await session.run_sync(lambda own: mail.send_later(note(), session=own))
                await getattr(session, ends)()
            left.append(bool(our_tables(engine)))
        await own.dispose()
        return row

    left = []
    assert kept(mail, asyncio.run(work()))
    assert left == [False, True]


# Many in one transaction


@pytest.fixture
def shop(database, tmp_path):
    with open_shop(database, tmp_path / "shop", MAIL_WORKER="process") as shop:
        yield shop


def test_listeners_hear_of_each_message_as_it_was_whatever_became_of_it(shop):
    heard = []

    def hear(_app, message, **_):
        heard.append(message.recipients)

    message = note()
    with message_queued.connected_to(hear):
        for whom in ("a", "b"):
            message.recipients = [f"{whom}@example.org"]
            shop.mail.send_later(message)
        shop.db.session.commit()
    assert heard == [["a@example.org"], ["b@example.org"]]


def test_the_tables_are_looked_at_once_in_a_first_transaction(shop):
    asked = []
    shop.db.event.listen(
        shop.db.engine, "before_cursor_execute", lambda *all_: asked.append(all_[2])
    )
    shop.mail.send_later(note())
    first = len(asked)
    for number in range(5):
        with shop.db.session.begin_nested():
            shop.mail.send_later(note(body=str(number)))
    savepoints = [each for each in asked[first:] if "SAVEPOINT" in each]
    assert len(asked) == first + len(savepoints)
    assert first > 1
    shop.db.session.commit()


def test_they_are_looked_at_again_where_the_savepoint_is_undone(engine, mail):
    with Session(engine) as session:
        savepoint = session.begin_nested()
        undone = mail.send_later(note(), session=session)  # on SQLite it makes the tables
        savepoint.rollback()
        kept = mail.send_later(note(), session=session)
        session.commit()
    assert mail.status(undone) is None
    assert mail.status(kept).state is State.QUEUED


def test_the_end_of_a_flush_goes_through_no_list(shop):
    class Listed(list):
        def __iter__(self):
            raise AssertionError("each flush would go through all that waits")

    shop.mail.send_later(note())
    (name,) = [each for each in shop.db.session.info if each.endswith("waiting")]
    waiting = shop.db.session.info[name]
    shop.db.session.info[name] = Listed(waiting)
    shop.order()
    shop.db.session.flush()
    shop.db.session.info[name] = waiting
    shop.db.session.commit()
    assert len(shop.mails()) == 1
