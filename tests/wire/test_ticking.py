"""The event loop never waits for a mail: a coroutine ticks beside it."""

import asyncio
from time import monotonic

import pytest

import certificates
from flask_outbox.mail.exchange import Read, StartTls, Tls, Write
from hostile import Hostile, after, later
from wire_drivers import Asyncio, Tried

CONTENT = (b"x" * 78 + b"\r\n") * 125_000  # 10 MB
SLOWEST = 0.5  # seconds between two ticks: ten times what was seen on a busy machine


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

    slow = after(100_000, later(0.3, after(3_000_000, later(0.3))))
    context = certificates.server_context()
    with Hostile({"body": slow}, receive_buffer=65_536, tls=context) as server:
        driver.runner.run(both(server.port))
    driver.close()
    assert tried.codes[-1] == 250
    assert server.accepted[0].content == CONTENT
    assert len(gaps) > 100
    assert max(gaps) < SLOWEST
