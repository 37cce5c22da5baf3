"""What the visitors of a busy app wait: gunicorn, 4 processes of 8, a relay that takes 500 ms.

The same app without mail, with Flask-Mail in the request, with Flask-Mail in a thread, and with
send_later and the embedded workers. Of ours, every request must succeed and every mail must be
accepted exactly once.

    python bench/under_load.py [--requests 10000]
"""

import argparse
import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slow_relay import SlowRelay

HERE = Path(__file__).parent
CLIENTS = 32
DELAY = 0.5
SHARE = {"none": 1.0, "outbox": 1.0, "thread": 0.2, "flask-mail": 0.06}  # of the requests
NAMES = {
    "none": "without mail",
    "flask-mail": "Flask-Mail in the request",
    "thread": "Flask-Mail in a thread",
    "outbox": "send_later",
}


@dataclass
class Load:
    """What came of one run."""

    waits: list[float]  # milliseconds
    failed: int
    seconds: float


@contextlib.contextmanager
def gunicorn(way: str, relay_port: int, folder: str) -> Iterator[int]:
    """Serve the app one way."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "WAY": way, "RELAY_PORT": str(relay_port), "INSTANCE": folder}
    command = [sys.executable, "-m", "gunicorn", "--workers", "4", "--threads", "8"]
    command += ["--worker-connections", "8"]  # else one process takes every kept connection
    command += ["--bind", f"127.0.0.1:{port}", "--log-level", "error", "--keep-alive", "60"]
    with subprocess.Popen([*command, "under_load_app:app"], cwd=HERE, env=environment) as server:
        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        try:
            yield port
        finally:
            server.terminate()
            server.wait(60)


async def one_client(port: int, numbers: Iterator[int], load: Load) -> None:
    """Order again and again over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in numbers:
        began = time.perf_counter()
        try:
            writer.write(
                b"POST /order?n=%d HTTP/1.1\r\nHost: shop\r\nContent-Length: 0\r\n\r\n" % number
            )
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
            load.failed += b" 200 " not in head.split(b"\r\n")[0]
            again = b"connection: close" in head.lower()
        except (OSError, asyncio.IncompleteReadError, ValueError):
            load.failed, again = load.failed + 1, True
        load.waits.append((time.perf_counter() - began) * 1000)
        if again:
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


async def press(port: int, requests: int) -> Load:
    """Let all clients order until so many requests are answered."""
    load = Load([], 0, 0.0)
    numbers = iter(range(requests))
    began = time.perf_counter()
    await asyncio.gather(*(one_client(port, numbers, load) for _ in range(CLIENTS)))
    load.seconds = time.perf_counter() - began
    return load


def wait_for_all(relay: SlowRelay, expected: int, patience: float) -> None:
    """Wait until the relay has them all, and show how far it is."""
    end = time.monotonic() + patience
    while len(relay.accepted) < expected and time.monotonic() < end:
        print(f"\r  {len(relay.accepted)} of {expected} sent", end="", file=sys.stderr, flush=True)
        time.sleep(0.5)
    print("\r" + " " * 40 + "\r", end="", file=sys.stderr)


def run(way: str, requests: int) -> tuple[Load, str]:
    """Press on the app one way; say what came of its mail."""
    with (
        tempfile.TemporaryDirectory() as folder,
        SlowRelay(DELAY) as relay,
        gunicorn(way, relay.port, folder) as port,
    ):
        load = asyncio.run(press(port, requests))
        if way == "none":
            return load, "-"
        wait_for_all(relay, requests, patience=30 + requests * DELAY / 40)
        copies = sum(relay.accepted.values()) - len(relay.accepted)
        missing = requests - len(relay.accepted)
        return load, f"{len(relay.accepted)} accepted, {missing} missing, {copies} twice"


def main() -> int:
    """Run every way, print the table, and fail where ours lost, doubled or failed anything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    requests = parser.parse_args().requests
    print(f"{'':28}{'requests':>9}{'p50 ms':>9}{'p99 ms':>9}{'req/s':>8}{'failed':>8}  mail")
    good = False
    for way, share in SHARE.items():
        count = max(CLIENTS, int(requests * share))
        load, mail = run(way, count)
        p99 = statistics.quantiles(load.waits, n=100)[98]
        print(
            f"{NAMES[way]:28}{count:>9}{statistics.median(load.waits):>9.1f}{p99:>9.1f}"
            f"{count / load.seconds:>8.0f}{load.failed:>8}  {mail}",
            flush=True,
        )
        if way == "outbox":
            good = not load.failed and mail.startswith(f"{count} accepted, 0 missing, 0 twice")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
