"""The one loop thread of a process: begun on first use, ended on request, anew after a fork."""

import asyncio
import gc
import threading

import pytest

from flask_outbox.mail.errors import WireError
from flask_outbox.mail.exchange import Keep, Open, Read, Report, Token, Write
from flask_outbox.mail.outcome import Deferred
from flask_outbox.mail.submission import Receipt
from flask_outbox.wire import aio
from flask_outbox.wire.background import Background, background
from forked import in_child
from hostile import Hostile
from wire_drivers import Tried
from worker_stage import a_submission

BOUND = 10.0


async def whose():
    return threading.current_thread()


@pytest.fixture
def loop_thread():
    background = Background()
    yield background
    background.stop()


def test_no_thread_is_there_before_the_first_coroutine(loop_thread):
    before = threading.active_count()
    Background()
    assert threading.active_count() == before
    thread = loop_thread.submit(whose()).result(BOUND)
    assert thread.daemon
    assert threading.active_count() == before + 1


def test_all_coroutines_run_in_the_same_thread(loop_thread):
    threads = {loop_thread.submit(whose()).result(BOUND) for _ in range(3)}
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_threads_that_come_first_at_once_still_get_one_thread_together(loop_thread):
    found = []
    callers = [
        threading.Thread(target=lambda: found.append(loop_thread.submit(whose()).result(BOUND)))
        for _ in range(8)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_stop_cancels_what_runs_and_waits_for_the_thread(loop_thread):
    begun, cancelled = threading.Event(), []

    async def endless():
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    future = loop_thread.submit(endless())
    thread = loop_thread.submit(whose()).result(BOUND)
    assert begun.wait(BOUND)
    loop_thread.stop()
    assert cancelled == [True]
    assert future.cancelled()
    assert not thread.is_alive()


def test_stop_without_a_start_and_twice_is_nothing(loop_thread):
    loop_thread.stop()
    loop_thread.submit(whose()).result(BOUND)
    loop_thread.stop()
    loop_thread.stop()


def test_after_a_stop_it_begins_anew(loop_thread):
    first = loop_thread.submit(whose()).result(BOUND)
    loop_thread.stop()
    assert loop_thread.submit(whose()).result(BOUND) is not first


def test_stop_closes_the_lines_of_what_was_cancelled(loop_thread):
    tried = Tried()

    async def send(port):
        async for _ in aio.carry(tried.talk(port, [b"NOOP\r\n"]), aio.Pool(), seconds=BOUND):
            pass

    with Hostile({"NOOP": lambda session: session.server.over.wait()}) as server:
        loop_thread.submit(send(server.port))
        server.wait_until(lambda server: server.heard)
        loop_thread.stop()
    gc.collect()  # a socket that leaked would warn here, and a warning is an error


def test_who_is_cancelled_hears_what_that_means_and_asks_nothing_more_of_the_line(loop_thread):
    each, heard, kept = a_submission(), [], aio.Pool()

    def conversation(port):
        yield Open("127.0.0.1", port, BOUND)
        yield Read(BOUND)
        yield Write([b"NOOP\r\n"], BOUND)
        for question in (Read(BOUND), Open("127.0.0.1", port, BOUND)):
            try:
                yield question
            except WireError as error:
                yield Report(each, Receipt.same(each, Deferred(f"{error.sent} bytes")))
        yield Keep("session")

    async def send(port):
        async for report in aio.carry(conversation(port), kept, seconds=BOUND):
            heard.extend(report.receipt.values())

    with Hostile({"NOOP": lambda session: session.server.over.wait()}) as server:
        future = loop_thread.submit(send(server.port))
        server.wait_until(lambda server: server.heard)
        loop_thread.stop()
        assert server.connections == 1
    assert heard == [Deferred("6 bytes")] * 2
    assert future.cancelled()


def test_stop_does_not_wait_for_a_token_source_that_hangs(loop_thread):
    asked, answer = threading.Event(), threading.Event()

    def hang():
        asked.set()
        assert answer.wait(BOUND)
        return "too late"

    def conversation():
        yield Token(hang)

    async def send():
        async for _ in aio.carry(conversation(), aio.Pool(), seconds=BOUND):
            pass

    loop_thread.submit(send())
    assert asked.wait(BOUND)
    loop_thread.stop()
    assert not answer.is_set()
    answer.set()


def test_a_failure_reaches_who_waits(loop_thread):
    async def fail():
        raise LookupError("here")

    with pytest.raises(LookupError, match="here"):
        loop_thread.submit(fail()).result(BOUND)


def test_a_child_gets_a_loop_of_its_own(loop_thread):
    def child():
        loop_thread.submit(whose()).result(BOUND)
        loop_thread.stop()

    loop_thread.submit(whose()).result(BOUND)
    in_child(child)
    assert loop_thread.submit(whose()).result(BOUND).is_alive()


def test_a_pool_can_be_closed_from_another_thread_than_its_loops(loop_thread):
    lines, tried = aio.Pool(), Tried()

    async def send(port):
        conversation = tried.talk(port, [b"NOOP\r\n", Keep("known")])
        async for _ in aio.carry(conversation, lines, seconds=BOUND):
            pass

    with Hostile() as server:
        loop_thread.submit(send(server.port)).result(BOUND)
        (row,) = lines._kept.values()
        lines.close()
        loop_thread.submit(asyncio.sleep(0)).result(BOUND)
        assert row[0].line.sock.fileno() == -1


def test_there_is_one_for_the_whole_process():
    assert isinstance(background, Background)
