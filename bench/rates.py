"""Whether a rate is kept: four worker processes on one database, counted where the mail arrives.

A sink of ours notes when each mail was whole. First a rate of a transport: so many mails a second
on the whole, and how many arrived in the worst second, wherever that began. Then a domain that
answers 450 4.7.1 to a part of its mail, while another is sent to as fast as can be.

    python bench/rates.py [--seconds 60] [--rate 100] [--processes 4]

PostgreSQL is one of our own with its default settings, so that a commit is on the disk.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the servers of our own

import databases
from flask_outbox.mail.rates import Rates
from flask_outbox.mail.submission import Submission
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.enqueue import enqueue
from flask_outbox.outbox.stats import stats
from flask_outbox.transports.smtp import Smtp
from flask_outbox.worker.loop import Worker
from flask_outbox.worker.plan import Plan

FAST, BUSY = "fast.example", "busy.example"
BUSY_TAKES = 5  # a second; the sink answers 450 4.7.1 to what is more


# --- the sink ---


class Sink:
    """An SMTP server in a thread of its own; notes when each mail arrived, by domain."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {FAST: [], BUSY: []}
        self.turned_away = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()
        self._listening.wait(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        listen = asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=256)
        server = self._loop.run_until_complete(listen)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()

    def _is_busy(self) -> bool:
        since = time.monotonic() - 1.0
        return sum(each > since for each in self.times[BUSY][-BUSY_TAKES:]) == BUSY_TAKES

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        domain, taken = FAST, False
        writer.write(b"220 sink.example ESMTP\r\n")
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                verb = line[:4].upper()
                if verb == b"EHLO":
                    writer.write(
                        b"250-sink.example\r\n250-PIPELINING\r\n250 ENHANCEDSTATUSCODES\r\n"
                    )
                elif verb == b"RCPT":
                    domain = BUSY if BUSY.encode() in line else FAST
                    taken = domain == FAST or not self._is_busy()
                    self.turned_away += not taken
                    writer.write(b"250 2.1.5 ok\r\n" if taken else b"450 4.7.1 too fast\r\n")
                elif verb == b"DATA" and not taken:
                    writer.write(b"503 5.5.1 no valid recipient\r\n")
                elif verb == b"DATA":
                    writer.write(b"354 go on\r\n")
                    await reader.readuntil(b"\r\n.\r\n")
                    self.times[domain].append(time.monotonic())
                    writer.write(b"250 2.6.0 taken\r\n")
                elif verb == b"QUIT":
                    writer.write(b"221 2.0.0 bye\r\n")
                    break
                else:
                    writer.write(b"250 2.1.0 ok\r\n")
        writer.close()


def most_in_a_second(times: list[float]) -> int:
    """Count those of the worst second, wherever it begins."""
    first = most = 0
    for number, at in enumerate(times):
        while times[first] <= at - 1.0:
            first += 1
        most = max(most, number - first + 1)
    return most


# --- the workers ---


def work(url: str, port: int, rate: float | None) -> None:
    """Be one worker process until told to stop."""
    outbox = Outbox(url, rates=Rates(transports={} if rate is None else {"*": rate}))
    worker = Worker(Plan(outbox=outbox, transports={"default": Smtp("127.0.0.1", port)}, grace=2.0))
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    worker.run()
    outbox.close()


@contextlib.contextmanager
def workers(count: int, url: str, port: int, rate: float | None) -> Iterator[None]:
    """Run so many processes."""
    command = [sys.executable, __file__, "--work", url, str(port), str(rate or "")]
    running = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for each in running:
            each.terminate()
        for each in running:
            each.wait(30)


def fill(outbox: Outbox, count: int, domain: str) -> None:
    """Put so many in the queue."""
    for first in range(0, count, 500):
        with outbox.begin() as connection:
            for number in range(first, min(first + 500, count)):
                enqueue(connection, outbox, a_mail(number, domain))


def a_mail(number: int, domain: str) -> Submission:
    """Give a sealed mail."""
    return Submission(
        sender="shop@example.com",
        recipients=(f"person{number}@{domain}",),
        content=f"Message-ID: <{number}@example.com>\r\n\r\nhello\r\n".encode(),
        message_id=f"<{number}@example.com>",
        date=0.0,
    )


# --- what is measured ---


def keep_a_rate(name: str, url: str, rate: float, seconds: float, processes: int) -> None:
    """Send for so long by a transport that has a rate."""
    outbox, sink = Outbox(url), Sink()
    outbox.upgrade()
    fill(outbox, int(rate * (seconds + 20)), FAST)
    times = sink.times[FAST]
    with workers(processes, url, sink.port, rate):
        while not times or time.monotonic() < times[0] + seconds:
            time.sleep(0.1)
    outbox.close()
    since = times[0]
    within = [each for each in times if each < since + seconds]
    mean, worst = len(within) / seconds, most_in_a_second(within)
    later = most_in_a_second([each for each in within if each > since + 1.0])  # on open lines
    print(
        f"{name:<12} {processes} workers, {rate:g}/s, {seconds:g} s: {mean:.1f} a second"
        f" ({mean / rate - 1:+.1%}), {worst} in the worst second ({worst / rate:.2f} of the rate),"
        f" {later} in the worst after the first ({later / rate:.2f})",
        flush=True,
    )


def slow_one_domain(name: str, url: str, seconds: float, processes: int, busy: int) -> None:
    """Send to a domain that takes a few a second, and to another."""
    outbox, sink = Outbox(url), Sink()
    outbox.upgrade()
    fill(outbox, busy, BUSY)  # in front of all else
    fill(outbox, int(seconds * 400), FAST)
    times = sink.times[FAST]
    with workers(processes, url, sink.port, None):
        while not times or (time.monotonic() < times[0] + seconds and len(times) < seconds * 400):
            time.sleep(0.1)
    spent = times[-1] - times[0]
    slowed = [f"{each.name}: {each.words}" for each in stats(outbox).slowed]
    outbox.close()
    print(
        f"{name:<12} {busy} mails to a domain that is slow: {len(times) / spent:.0f} a"
        f" second to another; it took {len(sink.times[BUSY])}, turned {sink.turned_away} away;"
        f" slowed: {', '.join(slowed) or 'none'}",
        flush=True,
    )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--only", choices=["SQLite", "PostgreSQL"])
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        url, port, rate = given.work
        return work(url, int(port), float(rate) if rate else None)
    with (
        tempfile.TemporaryDirectory(prefix="outbox-bench-") as folder,
        databases.running(databases.PostgreSql) as server,
    ):
        files = (f"sqlite:///{folder}/{name}.sqlite3" for name in ("rate", "none", "some"))
        for name, new in (("SQLite", lambda: next(files)), ("PostgreSQL", server.new)):
            if given.only in {None, name}:
                keep_a_rate(name, new(), given.rate, given.seconds, given.processes)
                for busy in (0, 1000):
                    slow_one_domain(name, new(), given.seconds / 4, given.processes, busy)
    return None


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "error")
    main()
