"""Lines at rest: who gets them, how long they are kept, and what a fork means for them."""

import asyncio
import gc
import os
import select
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

import certificates
from flask_outbox.mail.exchange import Keep, Open, Read, Tls, Write
from flask_outbox.wire import aio, pool, sync
from forked import in_child
from hostile import Hostile, hang_up, raw, reset
from wire_drivers import Asyncio, Blocking, Tried

NOOP = b"NOOP\r\n"
BOUND = 10.0


def kept(driver, port, *, session="known", account="", tls=None):
    """Carry a conversation that leaves its line behind."""
    tried = Tried()
    driver.carry(tried.talk(port, [NOOP, Keep(session)], account=account, tls=tls))
    assert tried.error is None
    return tried


def test_a_kept_line_is_handed_out_again_with_what_was_known_of_it(driver):
    with Hostile() as server:
        assert kept(driver, server.port).session is None
        assert len(driver.pool) == 1
        again = kept(driver, server.port)
        assert again.session == "known"
        assert again.local_ip == "127.0.0.1"
        assert again.codes == [250]
        assert server.connections == 1


def test_a_private_line_is_kept_as_well(driver):
    tls = Tls(ca_file=certificates.ca_file())
    with Hostile(tls=certificates.server_context(), implicit=True) as server:
        for _ in range(3):
            kept(driver, server.port, tls=tls)
        assert server.connections == 1


def test_a_line_is_never_handed_to_another_account_or_another_trust(driver):
    trusting = Tls(verify=False)
    with Hostile(tls=certificates.server_context(), implicit=True) as server:
        kept(driver, server.port, account="ada", tls=trusting)
        kept(driver, server.port, account="bob", tls=trusting)
        kept(driver, server.port, account="ada", tls=Tls(ca_file=certificates.ca_file()))
        assert server.connections == 3
        kept(driver, server.port, account="ada", tls=trusting)
        assert server.connections == 3


def test_a_line_in_use_is_not_handed_out_so_another_is_opened(driver):
    with Hostile() as server:
        kept(driver, server.port)

        def outer():
            opened = yield Open("localhost", server.port, 5.0)
            assert opened.session == "known"
            assert len(driver.pool) == 0
            yield Write([NOOP], 5.0)
            yield Read(5.0)

        driver.carry(outer())
        kept(driver, server.port)
        assert server.connections == 2


def test_asking_again_within_a_conversation_brings_a_fresh_line(driver):
    """A kept line that died unseen is followed by a new one, not by another of the kept ones."""
    sessions = []
    with Hostile() as server:
        kept(driver, server.port)

        def asks_twice():
            sessions.append((yield Open("localhost", server.port, 5.0)).session)
            yield Keep("known")
            sessions.append((yield Open("localhost", server.port, 5.0)).session)

        driver.carry(asks_twice())
    assert sessions == ["known", None]


@pytest.mark.parametrize(
    "goodbye", [hang_up, reset, raw(b"421 4.4.2 idle too long\r\n")], ids=["FIN", "RST", "421"]
)
def test_a_line_on_which_the_server_hung_up_is_not_handed_out(driver, goodbye):
    wanted = threading.Event()

    def leave(session):
        session.polite()
        assert wanted.wait(BOUND)
        goodbye(session)

    with Hostile({"NOOP": [leave]}) as server:
        kept(driver, server.port)
        wanted.set()
        (row,) = driver.pool._kept.values()
        assert select.select([row[0].line.sock], [], [], BOUND)[0]  # it has reached our kernel
        assert kept(driver, server.port).session is None
        assert server.connections == 2


def test_an_asyncio_line_that_ends_while_it_rests_is_closed_at_once():
    leave = threading.Event()

    def hang_up_when_told(session):
        session.polite()
        assert leave.wait(BOUND)
        hang_up(session)

    async def main():
        kept_lines = aio.Pool()
        tried = Tried()
        conversation = tried.talk(server.port, [NOOP, Keep("known")])
        async for _ in aio.carry(conversation, kept_lines, seconds=BOUND):
            pass
        (row,) = kept_lines._kept.values()
        line = row[0].line
        leave.set()
        async with asyncio.timeout(BOUND):
            while len(kept_lines):  # noqa: ASYNC110  what is waited for is a turn of this loop
                await asyncio.sleep(0)
        assert line.sock.fileno() == -1

    with Hostile({"NOOP": hang_up_when_told}) as server:
        asyncio.run(main())


def test_a_line_that_still_owes_a_reply_is_not_kept(driver):
    tried = Tried()
    with Hostile() as server:
        driver.carry(tried.talk(server.port, [Write([NOOP], 5.0), Keep("known")]))
        assert len(driver.pool) == 0


def test_a_line_that_said_too_much_is_not_kept(driver):
    tried = Tried()
    with Hostile({"NOOP": raw(b"250 ok\r\n250 more\r\n")}) as server:
        driver.carry(tried.talk(server.port, [NOOP, Keep("known")]))
        assert len(driver.pool) == 0


def test_closing_the_pool_closes_its_lines_and_leaves_it_usable(driver):
    with Hostile() as server:
        kept(driver, server.port)
        (row,) = driver.pool._kept.values()
        line = row[0].line
        driver.rest()
        assert line.sock.fileno() == -1
        assert len(driver.pool) == 0
        assert kept(driver, server.port).session is None


def test_a_line_of_an_ended_loop_is_not_handed_out_and_can_be_closed():
    lines = aio.Pool()

    async def keep_one():
        tried = Tried()
        async for _ in aio.carry(tried.talk(server.port, [NOOP, Keep("k")]), lines, seconds=BOUND):
            pass
        return tried.session

    with Hostile() as server:
        assert asyncio.run(keep_one()) is None
        assert asyncio.run(keep_one()) is None
        assert len(lines) == 2
        rows = [row[0].line for row in lines._kept.values()]
        lines.close()
        assert [line.sock.fileno() for line in rows] == [-1, -1]


# --- the shelf by itself, with a clock ---


class Thing:
    def __init__(self, *, alive=True):
        self.alive, self.closed, self.abandoned = alive, False, False

    def is_alive(self):
        return self.alive

    def close(self):
        self.closed = True

    def abandon(self):
        self.abandoned = True


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(pool, "monotonic", lambda: now[0])
    return now


def test_the_warmest_line_is_handed_out_first(clock):
    shelf, cold, warm = pool.Pool(), Thing(), Thing()
    shelf.give("k", cold, 1)
    shelf.give("k", warm, 2)
    assert shelf.take("k").line is warm
    assert shelf.take("k").line is cold
    assert shelf.take("k") is None


def test_a_dead_line_is_closed_and_the_next_one_tried(clock):
    shelf, live, dead = pool.Pool(), Thing(), Thing(alive=False)
    shelf.give("k", live, 1)
    shelf.give("k", dead, 2)
    assert shelf.take("k").line is live
    assert dead.closed


def test_what_rested_too_long_is_closed_by_whoever_comes_next(clock):
    shelf, old, young = pool.Pool(idle=30.0), Thing(), Thing()
    shelf.give("k", old, 1)
    clock[0] += 20
    shelf.give("other", young, 2)
    clock[0] += 10.1
    assert shelf.take("k") is None
    assert old.closed
    assert not young.closed
    assert len(shelf) == 1


def test_a_full_pool_gives_up_the_line_that_rested_longest(clock):
    shelf = pool.Pool(most=3)
    things = [Thing() for _ in range(5)]
    for number, thing in enumerate(things):
        clock[0] += 1
        shelf.give(number % 2, thing, None)
    assert [thing.closed for thing in things] == [True, True, False, False, False]
    assert len(shelf) == 3


def test_a_pool_of_none_keeps_nothing(clock):
    shelf, thing = pool.Pool(most=0), Thing()
    shelf.give("k", thing, None)
    assert thing.closed
    assert len(shelf) == 0


def test_many_threads_never_share_a_line():
    """Each takes and gives back; no line is ever in two hands."""
    shelf = pool.Pool()
    in_hand, clash = set(), []

    def work():
        for _ in range(500):
            found = shelf.take("k")
            thing = found.line if found else Thing()
            if thing in in_hand:
                clash.append(thing)
            in_hand.add(thing)
            in_hand.discard(thing)
            shelf.give("k", thing, None)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not clash
    assert len(shelf) <= 8


def test_threads_that_send_at_once_have_a_line_each_and_then_share_the_kept_ones():
    driver = Blocking()
    together = threading.Barrier(4)

    def send():
        tried = Tried()

        def conversation():
            opened = yield Open("localhost", server.port, 5.0)
            if opened.session is None:
                yield Read(5.0)
            together.wait(BOUND)
            for number in range(20):
                yield Write([b"NOOP %d\r\n" % number], 5.0)
                tried.replies.append((yield Read(5.0)))
            yield Keep("known")

        driver.carry(conversation())
        assert tried.codes == [250] * 20

    with Hostile() as server:
        for _ in range(2):
            threads = [threading.Thread(target=send) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert server.connections == 4
        driver.close()


# --- fork ---


def test_a_child_opens_its_own_line_and_leaves_the_parents_alone(driver):
    with Hostile() as server:
        kept(driver, server.port)

        def child():
            theirs = type(driver)()
            theirs.pool = driver.pool
            assert kept(theirs, server.port).session is None
            assert len(driver.pool) == 1

        in_child(child)
        assert kept(driver, server.port).session == "known"
        assert server.connections == 2
        assert server.heard == [b"NOOP"] * 3


def test_a_child_says_no_word_on_a_private_line_of_its_parent(driver):
    tls = Tls(ca_file=certificates.ca_file())
    with Hostile(tls=certificates.server_context(), implicit=True) as server:
        kept(driver, server.port, tls=tls)
        in_child(driver.pool.close)
        assert kept(driver, server.port, tls=tls).session == "known"
        assert server.connections == 1


FORKS_LIKE_UWSGI = """
import ctypes, os, sys
sys.path.insert(0, {tests!r})
from wire_drivers import Blocking, Tried
from flask_outbox.mail.exchange import Keep

def kept(driver):
    tried = Tried()
    driver.carry(tried.talk({port}, [b"NOOP\\r\\n", Keep("known")]))
    assert tried.error is None
    return tried.session

driver = Blocking()
assert kept(driver) is None
pid = ctypes.PyDLL(None).fork()  # no hook of Python's runs
if pid == 0:
    try:
        assert len(driver.pool) == 1
        assert kept(driver) is None
        driver.close()
    except BaseException:
        os._exit(1)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert kept(driver) == "known"
driver.close()
"""


def test_a_child_that_python_knows_nothing_of_opens_its_own_line_too():
    with Hostile() as server:
        program = FORKS_LIKE_UWSGI.format(tests=str(Path(__file__).parents[1]), port=server.port)
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
        assert server.connections == 2
        assert server.heard == [b"NOOP"] * 3


def test_a_line_that_the_parent_closes_is_not_kept_up_by_a_child_that_lives_on(driver):
    ended = threading.Event()

    def tell(session):
        session.polite()
        session.sock.settimeout(BOUND)
        assert session.sock.recv(1) == b""
        ended.set()

    with Hostile({"NOOP": tell}) as server:
        kept(driver, server.port)
        hold, release = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            os.close(release)
            os.read(hold, 1)  # lives until the parent lets go
            os._exit(0)
        try:
            driver.rest()
            assert ended.wait(BOUND)
        finally:
            os.close(release)
            os.close(hold)
            os.waitpid(pid, 0)


def test_a_child_that_drops_a_line_in_use_does_not_deafen_the_parents_loop():
    """The loop's epoll is one and the same in parent and child."""
    driver = Asyncio()

    async def fork_in_the_middle():
        lines = aio.Pool()

        def conversation():
            yield Open("localhost", server.port, 5.0)
            yield Read(5.0)
            in_child(lambda: _close_every_line(lines))
            for _ in range(3):
                yield Write([NOOP], 5.0)
                replies.append((yield Read(5.0)).code)

        async for _ in aio.carry(conversation(), lines, seconds=BOUND):
            pass

    replies = []
    with Hostile() as server:
        driver.runner.run(fork_in_the_middle())
    driver.close()
    assert replies == [250] * 3


def _close_every_line(_):
    found = [thing for thing in gc.get_objects() if isinstance(thing, aio.Line)]
    assert found
    for line in found:
        line.close()
        assert line.sock.fileno() == -1


def test_the_pools_of_both_drivers_are_the_same_shelf():
    assert sync.Pool is aio.Pool is pool.Pool
