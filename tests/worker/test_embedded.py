"""The worker inside the app: one thread per app and process, across fork, to the end."""

import gc
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from flask_outbox.mail.errors import ConfigurationError
from flask_outbox.outbox.database import Outbox
from flask_outbox.transports.smtp import Smtp
from flask_outbox.worker import embedded as module
from flask_outbox.worker.embedded import Embedded
from flask_outbox.worker.plan import Plan
from hostile import Hostile, later
from worker_stage import BOUND, Told, a_submission, put, wait_for


@pytest.fixture
def embedded(plan):
    embedded = Embedded(lambda: plan)
    yield embedded
    embedded.stop()


@contextmanager
def no_more_threads() -> Iterator[None]:
    """Let every new thread ask for more memory than there is."""
    before = threading.stack_size(1 << 46)
    try:
        yield
    finally:
        threading.stack_size(before)


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "flask-outbox"]


def test_asked_for_by_many_threads_at_once_one_worker_starts(embedded):
    everybody = threading.Barrier(16)

    def ask():
        everybody.wait(BOUND)
        embedded.ensure()

    askers = [threading.Thread(target=ask) for _ in range(16)]
    for each in askers:
        each.start()
    for each in askers:
        each.join()
    assert len(threads()) == 1


def test_it_sends_what_waits_and_is_woken(outbox, plan, eyes):
    embedded = Embedded(lambda: replace(plan, poll=60.0))
    put(outbox, a_submission("before"))
    embedded.ensure()
    try:
        wait_for(lambda: eyes.one("state", "before") == "accepted")
        put(outbox, a_submission("after"))
        embedded.ensure()
        embedded.wake()
        wait_for(lambda: eyes.one("state", "after") == "accepted", 5.0)
    finally:
        embedded.stop()
    assert threads() == []


def test_stopped_it_does_not_start_again(embedded):
    embedded.ensure()
    embedded.stop()
    embedded.ensure()
    embedded.wake()
    assert threads() == []


def test_stopping_what_never_began_is_no_trouble(embedded):
    embedded.stop()


def test_where_no_thread_can_be_started_it_says_once_what_to_do_and_tries_again(
    embedded, outbox, eyes, caplog
):
    put(outbox, a_submission())
    with no_more_threads():
        embedded.ensure()
        embedded.ensure()
        embedded.wake()
    [said] = caplog.records
    assert said.levelname == "ERROR"
    assert "`flask outbox worker`" in said.getMessage()
    assert threads() == []
    embedded.ensure()
    wait_for(lambda: eyes.one("state") == "accepted")


def test_stopping_what_could_not_begin_is_no_trouble(embedded):
    with no_more_threads():
        embedded.ensure()
    embedded.stop()


def test_several_apps_have_a_worker_each(tmp_path):
    plans = []
    for name in ("shop", "blog"):
        outbox = Outbox(f"sqlite:///{tmp_path}/{name}.sqlite3")
        plans.append(Plan(outbox=outbox, transports={"default": Told()}))
        put(outbox, a_submission(name))
    workers = [Embedded(lambda plan=plan: plan) for plan in plans]
    for each in workers:
        each.ensure()
    assert len(threads()) == 2
    for plan, name in zip(plans, ("shop", "blog"), strict=True):
        wait_for(lambda plan=plan: plan.transports["default"].sent)
        assert plan.transports["default"].sent == [f"<{name}@example.com>"]
    for each, plan in zip(workers, plans, strict=True):
        each.stop()
        plan.outbox.close()


def test_a_worker_that_cannot_begin_begins_again(plan, outbox, eyes, monkeypatch, caplog):
    monkeypatch.setattr(module, "AGAIN_FIRST", 0.05)
    tries = []

    def make_plan():
        tries.append(1)
        if len(tries) < 3:
            raise OSError("secret words")
        return plan

    embedded = Embedded(make_plan)
    put(outbox, a_submission())
    embedded.ensure()
    wait_for(lambda: eyes.one("state") == "accepted")
    embedded.stop()
    assert "secret words" not in caplog.text


def test_a_setting_that_cannot_work_is_logged_and_not_tried_again(caplog):
    def make_plan():
        raise ConfigurationError("MAIL_SERVER must be a host")

    embedded = Embedded(make_plan)
    embedded.ensure()
    wait_for(lambda: not threads())
    assert "MAIL_SERVER must be a host" in caplog.text
    embedded.stop()


def test_an_app_that_is_gone_is_not_kept_by_its_embedded_worker(plan):
    gc.collect()  # of other tests
    embedded = Embedded(lambda: plan)
    count = len(module._all)
    del embedded
    gc.collect()
    assert len(module._all) == count - 1


# --- fork ---


@pytest.fixture
def forked():
    """Run something in a child made by fork, and give its exit status."""

    def run(work) -> int:
        pid = os.fork()
        if not pid:
            status = 1
            try:
                work()
                status = 0
            except BaseException:  # noqa: BLE001  a child must not return into the suite
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    return run


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_starts_its_own_worker_and_the_parent_keeps_its(
    embedded, outbox, plan, eyes, forked
):
    put(outbox, a_submission("parent"))
    embedded.ensure()
    wait_for(lambda: eyes.one("state", "parent") == "accepted")
    [parents] = [name for (name,) in eyes.rows("SELECT name FROM outbox_worker")]

    def child():
        assert threads() == []
        embedded.ensure()
        names = "SELECT name FROM outbox_worker WHERE pid = ?"
        wait_for(lambda: eyes.rows(names, os.getpid()))
        embedded.stop()
        assert threads() == []

    assert forked(child) == 0
    put(outbox, a_submission("later"))
    embedded.wake()
    wait_for(lambda: eyes.one("state", "later") == "accepted")
    assert [name for (name,) in eyes.rows("SELECT name FROM outbox_worker")] == [parents]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_forked_while_somebody_asked_for_the_worker_can_ask_itself(embedded, forked):
    with embedded._lock:
        assert forked(embedded.ensure) == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_children_that_multiprocessing_makes_send_too(embedded, outbox, eyes):
    embedded.ensure()
    context = multiprocessing.get_context("fork")

    def child():
        put(outbox, a_submission("child"))
        embedded.ensure()
        wait_for(lambda: eyes.one("state", "child") == "accepted")
        embedded.stop()

    process = context.Process(target=child)
    process.start()
    process.join(BOUND)
    assert process.exitcode == 0
    process.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_that_multiprocessing_ends_lets_its_worker_finish(outbox, eyes):
    """As it ends by os._exit, which calls nothing of atexit."""
    context = multiprocessing.get_context("fork")
    with Hostile({"dot": later(1.0)}) as server:
        smtp = Smtp("127.0.0.1", server.port)
        embedded = Embedded(lambda: Plan(outbox=outbox, transports={"default": smtp}, poll=0.05))

        def child():
            put(outbox, a_submission())
            embedded.ensure()
            wait_for(lambda: eyes.count("started_at IS NOT NULL"))

        process = context.Process(target=child)
        process.start()
        process.join(BOUND)
        assert process.exitcode == 0
        process.close()
        assert eyes.one("state") == "accepted"
        assert len(server.message_ids) == 1
    assert eyes.rows("SELECT name FROM outbox_worker") == []


# --- servers ---


@pytest.fixture
def uwsgi(monkeypatch):
    module = ModuleType("uwsgi")
    module.opt = {}
    monkeypatch.setitem(sys.modules, "uwsgi", module)
    return module


def test_under_uwsgi_whose_threads_are_on_without_a_flag_it_starts(embedded, uwsgi):
    uwsgi.has_threads = 1
    embedded.ensure()
    assert len(threads()) == 1


@pytest.mark.parametrize(
    "options", [{b"enable-threads": True}, {"enable-threads": b"true"}, {b"threads": b"2"}]
)
def test_under_an_older_one_with_threads_it_starts(embedded, uwsgi, options):
    uwsgi.opt = options
    embedded.ensure()
    assert len(threads()) == 1


@pytest.mark.parametrize(
    "says",
    [
        {"has_threads": 0, "opt": {b"enable-threads": True}},
        {"opt": {b"processes": b"2"}},
        {"opt": {b"enable-threads": b"false"}},
        {"opt": {"enable-threads": b"0"}},
    ],
)
def test_under_uwsgi_without_threads_it_names_the_flag(embedded, uwsgi, says):
    vars(uwsgi).update(says)
    with pytest.raises(ConfigurationError, match="--enable-threads"):
        embedded.ensure()
    assert threads() == []


PROGRAM = """
import atexit, sys, threading
atexit.register(lambda: outbox.close())  # the first that is registered is the last that is called
sys.path.insert(0, {tests!r})
from hostile import Hostile, later
from flask_outbox.outbox.database import Outbox
from flask_outbox.transports.smtp import Smtp
from flask_outbox.worker.embedded import Embedded
from flask_outbox.worker.plan import Plan
from worker_stage import Eyes, a_submission, put, wait_for

outbox = Outbox("sqlite:///{file}")
smtp = Smtp("127.0.0.1", {port})
embedded = Embedded(lambda: Plan(outbox=outbox, transports={{"default": smtp}}, poll=0.05))
put(outbox, *(a_submission(f"n{{i}}") for i in range(20)))
embedded.ensure()
"""


def program(head: str, file: Path, port: int, tail: str) -> subprocess.CompletedProcess[str]:
    tests = str(Path(__file__).parents[1])
    text = (PROGRAM + textwrap.dedent(tail)).format(tests=tests, file=file, port=port)
    return subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", head + text],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_at_the_interpreters_end_what_is_under_way_is_finished(file, outbox, eyes):
    started = threading.Event()

    def slowly(session):
        started.set()
        session.server.over.wait(0.4)
        session.polite()

    with Hostile({"dot": [slowly]}) as server:
        done = program(
            "",
            file,
            server.port,
            """
            wait_for(lambda: Eyes("{file}").count("started_at IS NOT NULL"))
        """,
        )
        accepted = len(server.message_ids)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert started.is_set()
    assert accepted >= 1
    assert eyes.count("state = 'accepted'") == accepted
    assert eyes.count("state = 'sending'") == 0
    assert eyes.count("state = 'queued'") == 20 - accepted


GREEN = {
    "gevent": "from gevent import monkey; monkey.patch_all()\n",
    "eventlet": "import warnings; warnings.simplefilter('ignore')\n"
    "import eventlet; eventlet.monkey_patch()\n",
}


@pytest.mark.parametrize("library", GREEN)
def test_under_green_threads_it_sends_with_the_blocking_driver_and_no_event_loop(
    file, outbox, eyes, library
):
    with Hostile() as server:
        done = program(
            GREEN[library],
            file,
            server.port,
            """
            eyes = Eyes("{file}")
            wait_for(lambda: eyes.count("state = 'accepted'") == 20)
            from flask_outbox.wire.background import background
            assert background._loop is None
            assert type(embedded._worker._carrier).__name__ == "SyncCarrier"
            import time
            ticks = []
            def tick():
                while not embedded._stopped:
                    ticks.append(1)
                    time.sleep(0.01)
            threading.Thread(target=tick, daemon=True).start()
            time.sleep(0.3)
            assert len(ticks) > 5, "the worker blocks the others"
            embedded.stop()
            print("sent")
        """,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "sent\n", "")
    assert sorted(server.message_ids) == sorted(f"<n{i}@example.com>" for i in range(20))
