"""A fork of which Python is told nothing: what the parent had open or locked is left alone."""

import sys
from contextlib import closing
from pathlib import Path
from threading import Event, Thread
from types import ModuleType

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from flask_outbox.app.failover import Health
from flask_outbox.outbox.claim import has_open
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.forks import OwnLock
from flask_outbox.outbox.joined import put_within
from flask_outbox.outbox.schedule import Schedule
from flask_outbox.outbox.status import list_messages
from flask_outbox.outbox.tables import metadata
from forked import fork_untold, in_child
from outbox_mail import a_submission, put


@pytest.fixture
def outbox(place):
    with closing(Outbox(place)) as made:
        put(made)
        yield made


@pytest.fixture
def inside():
    """Have a thread stand within a context, here and not in a child."""
    leave = Event()
    threads = []

    def stand(context):
        entered = Event()

        def run():
            with context:
                entered.set()
                leave.wait(30)

        threads.append(Thread(target=run))
        threads[-1].start()
        assert entered.wait(30)

    yield stand
    leave.set()
    for each in threads:
        each.join(30)


def test_what_parent_and_child_write_at_the_same_time_is_there(outbox):
    def child():
        for _ in range(5):
            in_child(lambda: put(outbox), fork=fork_untold)
            put(outbox)

    in_child(child, fork=fork_untold)
    put(outbox)
    assert len(list_messages(outbox)) == 12


def test_a_child_does_not_wait_for_a_thread_of_its_parent(outbox, inside):
    inside(outbox.read())
    inside(outbox._opening.here())
    in_child(lambda: has_open(outbox, ["default"]), fork=fork_untold)


def test_nor_does_one_that_closes_or_forks_first(outbox, inside):
    inside(outbox.read())
    in_child(outbox.close, fork=fork_untold)
    in_child(lambda: in_child(outbox.open), bound=4.0, fork=fork_untold)


def test_a_session_of_a_child_has_a_connection_of_its_own(request):
    url = request.getfixturevalue("postgresql").new()
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    metadata.create_all(engine)
    with closing(Outbox(engine)) as outbox:
        with Session(engine) as session:
            put_within(outbox, session, None, a_submission(), Schedule())
            ours = _backend(session)
            session.commit()
        outbox.open()

        def child():
            with Session(engine) as session:
                put_within(outbox, session, None, a_submission(), Schedule())
                assert _backend(session) != ours
                session.commit()

        in_child(child, fork=fork_untold)
        assert len(list_messages(outbox)) == 2
    engine.dispose()


def _backend(session):
    return session.connection().exec_driver_sql("SELECT pg_backend_pid()").scalar_one()


def test_a_lock_that_is_held_at_the_fork_is_free_in_the_child(inside):
    lock = OwnLock()
    inside(lock.here())
    inside(Health()._lock.here())

    def child():
        with lock.here(), lock.here():
            pass

    in_child(child, fork=fork_untold)


@pytest.fixture
def uwsgi(monkeypatch):
    """What an app sees of uWSGI while it is imported, before processes are forked."""
    module = ModuleType("uwsgi")
    for name in ("worker_id", "mule_id", "i_am_the_spooler"):
        setattr(module, name, lambda: 0)
    monkeypatch.setitem(sys.modules, "uwsgi", module)
    return module


def test_before_uwsgi_forks_no_file_stays_open(uwsgi, tmp_path):
    file = tmp_path / "outbox.sqlite3"
    with closing(Outbox(file)) as outbox:
        put(outbox)
        assert has_open(outbox, ["default"])
        assert _opened(file) == []
        uwsgi.worker_id = lambda: 1
        put(outbox)
        assert _opened(file) != []


def _opened(file):
    opened = [str(each.resolve()) for each in Path("/proc/self/fd").iterdir()]
    return [each for each in opened if str(file) in each]
