"""The same key= at once, on servers: nobody is undone for it, and no other key waits for it."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import create_engine, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from database_fixtures import KINDS
from flask_outbox.mail.errors import Contended, KeyConflict, OutboxUnavailable
from flask_outbox.outbox import enqueue as enqueuing
from flask_outbox.outbox import mysql, rates
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.enqueue import Schedule, enqueue
from flask_outbox.outbox.enqueue import put as put_alone
from flask_outbox.outbox.mysql import lock_of
from flask_outbox.outbox.tables import message, rate
from outbox_mail import a_submission, look, put
from shop import url_of
from worker_stage import wait_for

MANY = 4
LONGEST = "\N{PILE OF POO}" * 255  # more than an error message holds


@pytest.fixture(params=KINDS[1:])
def kind(request):
    return request.param


@pytest.fixture
def server(request, kind):
    return request.getfixturevalue(kind)


@pytest.fixture
def url(server):
    url = server.new()
    Outbox(url).upgrade()
    return url


@pytest.fixture
def outbox(url):
    outbox = Outbox(url, busy=20.0)
    outbox.open()
    yield outbox
    outbox.close()


@pytest.fixture(params=[None, "READ COMMITTED"])
def begin(request, url, outbox):
    """Begin a transaction as an app does, with what the outbox says of one."""
    level = {"isolation_level": request.param} if request.param else {}
    engine = create_engine(url_of(url), pool_size=MANY + 1, **level)

    @contextmanager
    def begin():
        with outbox.database.explained(), engine.begin() as connection:
            connection.execution_options(**outbox.options)
            yield connection

    yield begin
    engine.dispose()


@pytest.fixture
def others():
    with ThreadPoolExecutor(MANY) as others:
        yield others


def sent(connection, outbox, key=None, **terms):
    return enqueue(connection, outbox, a_submission(), Schedule(key=key, **terms))


def names_of_limits(outbox):
    with outbox.read() as connection:
        return set(connection.execute(select(rate.c.name)).scalars())


@pytest.mark.parametrize("ends", ["rollback", "commit"])
def test_many_who_wait_for_a_key_keep_what_they_wrote(server, outbox, begin, others, ends):
    def an_order(name):
        with begin() as connection:
            connection.execute(insert(rate), [rates._row(rates.Meter(name), 0.0)])
            return sent(connection, outbox, "order-7")

    names = {f"order {number}" for number in range(MANY)}
    with begin() as first:
        held = sent(first, outbox, "order-7")
        waiting = [others.submit(an_order, name) for name in names]
        wait_for(lambda: server.waits() == MANY)
        getattr(first.get_transaction(), ends)()
    (row,) = {each.result(60) for each in waiting}
    assert (row == held) == (ends == "commit")
    assert names_of_limits(outbox) == names


def test_many_who_wait_for_a_key_by_themselves_get_one_mail(server, outbox, begin, others):
    with begin() as first:
        sent(first, outbox, "order-7")
        terms = outbox, a_submission(), Schedule(key="order-7")
        waiting = [others.submit(put_alone, *terms) for _ in range(MANY)]
        wait_for(lambda: server.waits() == MANY)
        first.get_transaction().rollback()
    told = [each.result(60) for each in waiting]
    assert len({row for row, _ in told}) == 1
    assert [is_new for _, is_new in told].count(True) == 1


def test_whoever_repeats_a_key_is_in_the_way_of_no_other(server, outbox, begin, others):
    keys = [f"order-{number}00" for number in range(1, 6)]
    held = {key: put(outbox, key=key, fingerprint="f") for key in keys}

    def elsewhere(key):
        with begin() as connection:
            return sent(connection, outbox, key, fingerprint="f")

    with begin() as connection:
        for key in keys:
            assert sent(connection, outbox, key, fingerprint="f") == held[key]
        with pytest.raises(KeyConflict):
            sent(connection, outbox, keys[2], fingerprint="another")
        new = [f"order-{number}50" for number in range(6)]
        done = [others.submit(elsewhere, key) for key in [*new, None, *keys]]
        wait_for(lambda: all(each.done() for each in done) or server.waits())
        assert len({each.result(0) for each in done}) == len(done)


def test_whoever_repeats_a_key_does_not_hold_up_its_mail(outbox, begin):
    row = put(outbox, key="order-7")
    with begin() as connection:
        assert sent(connection, outbox, "order-7") == row
        with outbox.begin() as worker:
            locks = select(message.c.id).where(message.c.id == row).with_for_update(nowait=True)
            assert worker.execute(locks).scalar_one() == row
            worker.execute(update(message).where(message.c.id == row).values(reason="sent"))
    assert look(outbox, row).reason == "sent"


@pytest.mark.parametrize("kind", ["mariadb"], indirect=True)
@pytest.mark.parametrize("key", ["order-7", LONGEST])
def test_a_key_that_came_between_the_look_and_the_insert_is_found(outbox, begin, monkeypatch, key):
    first, found = [], enqueuing._found

    def late(connection, outbox, *terms):
        seen = found(connection, outbox, *terms)
        if not first:
            first.append(None)
            first[0] = put(elsewhere, key=key)
        return seen

    elsewhere = Outbox(outbox.database.url.render_as_string(hide_password=False))
    monkeypatch.setattr(elsewhere.database, "alone", outbox_alone)
    monkeypatch.setattr(enqueuing, "_found", late)
    with begin() as connection:
        row = sent(connection, outbox, key)
        after = sent(connection, outbox)
    elsewhere.close()
    assert [row] == first
    assert look(outbox, after) is not None


@contextmanager
def outbox_alone(_connection, _key):
    yield


# --- MariaDB's named lock ---


@pytest.fixture
def on_mariadb(mariadb):
    url = mariadb.new()
    Outbox(url).upgrade()
    outbox = Outbox(url, busy=1.0)
    yield outbox
    outbox.close()


def is_free(server, outbox, key):
    ((free,),) = server.ask(f"SELECT IS_FREE_LOCK('{lock_of(outbox.database.url, key)}')")
    return free == 1


def test_nobody_keeps_the_lock_of_a_key_until_the_end(mariadb, on_mariadb, monkeypatch):
    old = put(on_mariadb, key="old", fingerprint="f")
    with on_mariadb.begin() as connection:
        sent(connection, on_mariadb, "new")
        assert is_free(mariadb, on_mariadb, "new")
        with pytest.raises(KeyConflict):
            sent(connection, on_mariadb, "old", fingerprint="another")
        assert is_free(mariadb, on_mariadb, "old")
        monkeypatch.setattr(enqueuing, "uuid7", lambda *_: old)
        with pytest.raises(DBAPIError, match="PRIMARY"):  # no clash of keys
            sent(connection, on_mariadb, "third")
        assert is_free(mariadb, on_mariadb, "third")


def test_whoever_waits_for_the_lock_of_a_key_too_long_writes_nothing(on_mariadb):
    engine = create_engine(url_of(on_mariadb.database.url.render_as_string(hide_password=False)))
    name = {"name": lock_of(on_mariadb.database.url, "order-7")}
    with engine.connect() as holder:
        holder.execute(text("SELECT GET_LOCK(:name, 0)"), name)
        with on_mariadb.begin() as connection:
            with pytest.raises(OutboxUnavailable, match="key="):
                sent(connection, on_mariadb, "order-7")
            other = sent(connection, on_mariadb, "order-8")
        holder.execute(text("SELECT RELEASE_LOCK(:name)"), name)
    engine.dispose()
    with on_mariadb.read() as connection:
        assert connection.execute(select(message.c.id)).scalars().all() == [other]
    assert put(on_mariadb, key="order-7") != other


def test_a_line_that_is_lost_when_the_lock_is_let_go_says_so_and_leaves_nothing(
    on_mariadb, monkeypatch
):
    monkeypatch.setattr(mysql, "_LET_GO", text("KILL CONNECTION_ID()"))
    with pytest.raises(OutboxUnavailable):
        put(on_mariadb, key="order-7")
    monkeypatch.undo()
    row = put(on_mariadb, key="order-7")
    with on_mariadb.read() as connection:
        assert connection.execute(select(message.c.id)).scalars().all() == [row]


def test_the_lock_of_a_key_has_a_name_of_its_own_and_a_short_one(on_mariadb):
    url = on_mariadb.database.url
    names = {
        lock_of(*each)
        for each in [(url, "a"), (url, "A"), (url, LONGEST), (url.set(database="other"), "a")]
    }
    assert len({each.lower() for each in names}) == 4
    assert max(map(len, names)) <= 64
    assert lock_of(url, "a") in names


# --- given way ---


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_mail_of_its_own_that_gave_way_is_written_once_more(outbox, monkeypatch, times):
    begin_, left = outbox.begin, [True] * times

    @contextmanager
    def contended():
        with begin_() as connection:
            yield connection
            if left:
                left.pop()
                raise Contended("a deadlock was found")

    monkeypatch.setattr(outbox, "begin", contended)
    if times == enqueuing.TRIES:
        with pytest.raises(Contended):
            put_alone(outbox, a_submission(), Schedule(key="order-7"))
    else:
        row, is_new = put_alone(outbox, a_submission(), Schedule(key="order-7"))
        assert is_new
        assert look(outbox, row).id == row
    with outbox.read() as connection:
        assert len(connection.execute(select(message.c.id)).all()) == (times < enqueuing.TRIES)
