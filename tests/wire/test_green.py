"""The blocking driver under gevent and eventlet: others run while it waits."""

import subprocess
import sys

import pytest

import certificates
from hostile import Hostile, later

PROGRAM = """
import {library}
{patch}
import socket, threading, time
from flask_outbox.mail.exchange import Keep, Open, Read, StartTls, Tls, Write
from flask_outbox.wire import sync

pool = sync.Pool()
content = (b"x" * 78 + b"\\r\\n") * 20_000
tls = Tls(ca_file={ca_file!r})
done = []

def conversation():
    opened = yield Open("localhost", {port}, 20.0)
    if opened.session is None:
        yield Read(20.0)
        for command in (b"EHLO x\\r\\n", b"STARTTLS\\r\\n"):
            yield Write([command], 20.0)
            yield Read(20.0)
        yield StartTls(tls, "localhost", 20.0)
    for blocks in ([b"NOOP\\r\\n"], [b"DATA\\r\\n"], [content, b".\\r\\n"]):
        yield Write(blocks, 20.0)
        reply = yield Read(20.0)
        assert reply.code in (250, 354), reply
    yield Keep(True)

def send():
    for _ in sync.carry(conversation(), pool, seconds=20.0):
        pass
    done.append(True)

start = time.monotonic()
threads = [threading.Thread(target=send) for _ in range(5)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
took = time.monotonic() - start
send()
assert len(done) == 6, done
print("took", took)
pool.close()
"""
PATCHES = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
    "eventlet": "eventlet.monkey_patch()",
}
PAUSE = 1.0


@pytest.mark.parametrize("library", PATCHES)
def test_five_greenlets_wait_at_the_same_time_and_send_in_private(library):
    context = certificates.server_context()
    with Hostile({"NOOP": later(PAUSE)}, tls=context) as server:
        program = PROGRAM.format(
            library=library,
            patch=PATCHES[library],
            ca_file=certificates.ca_file(),
            port=server.port,
        )
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert len(server.accepted) == 6
        assert server.connections == 5
    took = float(ran.stdout.split()[-1])
    assert PAUSE <= took < 4 * PAUSE
