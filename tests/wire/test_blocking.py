"""What may block for as long as it likes, a look-up or a token source, holds nobody up for ever."""

import contextvars
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from time import monotonic

import pytest

from flask_outbox.mail.errors import WireError
from flask_outbox.mail.exchange import Open, Token
from flask_outbox.wire import driver as driver_module
from flask_outbox.wire.blocking import within
from forked import in_child
from hostile import Hostile
from wire_drivers import Blocking, Tried

LIMIT = 0.2  # seconds: small, so that it is seen to fire
BOUND = 30.0  # seconds until what is held up gives in, so that a test that fails also ends
REAL = socket.getaddrinfo


@contextmanager
def held_up():
    """Give something that waits until the test is over; that nobody left it alone is an error."""
    over = threading.Event()
    left = []

    def wait():
        left.append(over.wait(BOUND))
        return "t0ken"

    yield wait
    assert not left, "it was waited for"
    over.set()


def told_by(driver, question, seconds=BOUND):
    """Ask one question, and give the error that it ends in."""
    errors = []

    def conversation():
        try:
            yield question
        except WireError as error:
            errors.append(str(error))

    driver.carry(conversation(), seconds)
    return errors


@pytest.mark.parametrize(
    ("phase", "message"), [(LIMIT, BOUND), (BOUND, LIMIT)], ids=["the phase's", "the message's"]
)
def test_a_look_up_that_takes_for_ever_is_given_up_in_time(driver, monkeypatch, phase, message):
    with held_up() as wait:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: wait())
        told = told_by(driver, Open("slow.example", 25, phase), message)
    assert told == ["slow.example:25: the host name could not be looked up (it took too long)"]


def test_a_token_source_that_takes_for_ever_is_given_up_with_its_message(driver):
    with held_up() as wait:
        assert told_by(driver, Token(wait), LIMIT) == ["the token source took too long"]


def test_a_token_source_has_a_limit_of_its_own(driver, monkeypatch):
    monkeypatch.setattr(driver_module, "ASKING", LIMIT)
    with held_up() as wait:
        assert told_by(driver, Token(wait)) == ["the token source took too long"]


def test_a_token_source_knows_who_asks():
    """As it would without a thread: an app's context is one of these."""
    who = contextvars.ContextVar("who", default="nobody")
    answers = []

    def conversation():
        answers.append((yield Token(who.get)))

    who.set("the app")
    driver = Blocking()
    driver.carry(conversation())
    driver.close()
    assert answers == ["the app"]


def seen(monkeypatch):
    """Note in which threads names are looked up."""
    threads = []

    def note(*args, **kwargs):
        threads.append(threading.current_thread())
        return REAL(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", note)
    return threads


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address_needs_no_thread(monkeypatch, host):
    threads = seen(monkeypatch)
    driver = Blocking()
    assert told_by(driver, Open(host, 1, BOUND))
    driver.close()
    assert threads == [threading.current_thread()]


def test_a_name_is_looked_up_in_a_thread_that_nobody_need_wait_for(monkeypatch):
    threads, tried, driver = seen(monkeypatch), Tried(), Blocking()
    with Hostile() as server:
        driver.carry(tried.talk(server.port, [b"QUIT\r\n"]))
    driver.close()
    assert tried.codes == [220, 221]
    assert threads != [threading.current_thread()]
    assert threads[0].daemon


def test_what_was_answered_leaves_no_thread_behind(monkeypatch):
    answer = Future.set_result

    def dawdle(future, result):
        answer(future, result)
        threading.Event().wait(LIMIT)

    monkeypatch.setattr(Future, "set_result", dawdle)
    assert not within(monotonic() + BOUND, threading.current_thread).is_alive()


def test_where_no_thread_can_be_begun_the_mail_goes_out_all_the_same(monkeypatch):
    """At the end of the interpreter, for one: late is better than never."""
    threads, tried, driver = seen(monkeypatch), Tried(), Blocking()
    with Hostile() as server:

        def refuse(thread):
            if thread.name.startswith("flask-outbox"):
                raise RuntimeError("can't start new thread")
            start(thread)

        start = threading.Thread.start
        monkeypatch.setattr(threading.Thread, "start", refuse)
        driver.carry(tried.talk(server.port, [b"QUIT\r\n"]))
    driver.close()
    assert tried.codes == [220, 221]
    assert threads == [threading.current_thread()]


def test_a_child_of_a_process_that_is_looking_something_up_looks_up_for_itself(monkeypatch):
    tried = Tried()
    with Hostile() as server, held_up() as wait:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: wait())
        driver = Blocking()
        told_by(driver, Open("slow.example", 25, LIMIT))
        monkeypatch.setattr(socket, "getaddrinfo", REAL)

        def child():
            driver.carry(tried.talk(server.port, [b"QUIT\r\n"]))
            assert tried.codes == [220, 221]

        in_child(child)
        driver.close()


PROGRAM = """
{patch}
import socket, threading, time
from flask_outbox.mail.errors import WireError
from flask_outbox.mail.exchange import Open, Token
from flask_outbox.wire import sync

def wait(*args, **kwargs):
    time.sleep(600)

socket.getaddrinfo = wait
told = []

def conversation(question):
    try:
        yield question
    except WireError as error:
        told.append(str(error))

def ask(question):
    for _ in sync.carry(conversation(question), sync.Pool(), seconds=0.2):
        pass

questions = [Open("slow.example", 25, 60.0), Token(wait)]
threads = [threading.Thread(target=ask, args=(each,)) for each in questions]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(*sorted(told), sep="\\n")
"""
PATCHES = {
    "threads": "",
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}


@pytest.mark.parametrize("library", PATCHES)
def test_nor_does_it_hold_greenlets_or_the_end_of_the_program(library):
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM.format(patch=PATCHES[library])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        "slow.example:25: the host name could not be looked up (it took too long)",
        "the token source took too long",
    ]


def test_a_failure_of_the_look_up_is_told_as_it_is(driver, monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    (told,) = told_by(driver, Open("away.example", 25, BOUND))
    assert told.endswith("could not be looked up (Temporary failure in name resolution)")
