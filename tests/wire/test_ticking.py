"""The event loop never waits for a mail: a coroutine ticks beside it."""

import asyncio
from time import monotonic

import pytest

import certificates
from flask_outbox.mail.exchange import Read, StartTls, Tls, Write
from flask_outbox.wire import aio_line
from hostile import Gone, Hostile
from wire_drivers import Asyncio, Tried

CONTENT = (b"x" * 78 + b"\r\n") * 125_000  # 10 MB
PAUSE = 1.0  # seconds for which the server reads nothing
SLOWEST = 0.8  # seconds between two ticks, however busy the machine


def read_slowly(session):
    """Stop for a while in the middle; then read on without holding Python's lock for long."""
    session.server.over.wait(PAUSE)
    tail, size = b"", 0
    while not tail.endswith(b"\r\n.\r\n"):
        data = session.sock.recv(65_536)
        assert data
        tail, size = (tail + data)[-5:], size + len(data)
    session.send(b"250 2.0.0 %d bytes\r\n" % size)
    raise Gone


@pytest.mark.parametrize("private", [False, True], ids=["in the open", "in private"])
def test_ten_megabytes_to_a_slow_server_never_hold_the_loop_up(private):
    driver, tried = Asyncio(), Tried()
    gaps, done = [], asyncio.Event()

    async def tick():
        last = monotonic()
        while not done.is_set():
            await asyncio.sleep(0.001)
            now = monotonic()
            gaps.append(now - last)
            last = now

    async def send(port):
        tls = Tls(ca_file=certificates.ca_file())
        privacy = [b"STARTTLS\r\n", StartTls(tls, "localhost", 9.0)] if private else []
        steps = [*privacy, b"DATA\r\n", Write([CONTENT, b".\r\n"], 30.0), Read(30.0)]
        await driver.carried(tried.talk(port, steps), 60.0)
        done.set()

    async def both(port):
        await asyncio.gather(tick(), send(port))

    context = certificates.server_context()
    with Hostile({"body": read_slowly}, receive_buffer=65_536, tls=context) as server:
        driver.runner.run(both(server.port))
    driver.close()
    assert str(tried.replies[-1]) == f"250 2.0.0 {len(CONTENT) + 3} bytes"
    assert len(gaps) > 100
    assert max(gaps) < SLOWEST


def test_a_server_that_takes_all_at_once_does_not_keep_the_others_waiting(monkeypatch):
    monkeypatch.setattr(aio_line, "_TURN", 1)
    driver, tried, turns = Asyncio(), Tried(), []

    async def count(done):
        while not done.is_set():
            turns.append(len(turns))
            await asyncio.sleep(0)

    async def both(port):
        done = asyncio.Event()

        def steps():
            yield b"DATA\r\n"
            before = len(turns)
            yield Write([b"x" * 400_000 + b"\r\n.\r\n"], 30.0)
            turns_of_the_write.append(len(turns) - before)
            yield Read(30.0)
            done.set()

        await asyncio.gather(count(done), driver.carried(tried.talk(port, steps())))

    turns_of_the_write = []
    with Hostile(receive_buffer=2_000_000) as server:
        driver.runner.run(both(server.port))
    driver.close()
    assert tried.codes[-1] == 250
    assert turns_of_the_write[0] >= 6  # one for each piece
