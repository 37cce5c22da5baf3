"""How fast a prebuilt queue leaves over SMTP, beside the ways that others take.

``python bench/smtp.py``: on the loopback against Postfix's smtp-sink, one core for the client and
one for the sink; and at a round trip of 20 ms against a sink of our own that delays its replies,
over one connection. Every round runs all of them, one after the other; the medians count. Exit
status 1: a ratio that we promise was missed.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import smtplib
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from flask import Flask
from flask_mail import Mail
from flask_mail import Message as FlaskMailMessage

from flask_outbox.mail.message import Message
from flask_outbox.mail.mime import seal
from flask_outbox.mail.submission import Submission
from flask_outbox.transports.smtp import Smtp
from flask_outbox.wire import aio

ROUNDS = 3
ROUND_TRIP = 0.020
SINK_CORE, CLIENT_CORE = 0, 1
SENDER, RECIPIENT = "shop@shop.example", "ada@reader.example"
TEXT = "Danke für deine Bestellung, wir packen sie gleich ein.\r\n" * 18  # 1 KB
HTML = "<p>Danke für deine <b>Bestellung</b>, wir packen sie gleich ein.</p>\r\n" * 56  # 4 KB


def flask_mail_message() -> FlaskMailMessage:
    """Compose it as an app does."""
    return FlaskMailMessage(
        "Bestellung bestätigt", [RECIPIENT], body=TEXT, html=HTML, sender=SENDER
    )


def prebuilt() -> bytes:
    """Build it once, for those who send what is built."""
    message = Message("Bestellung bestätigt", [RECIPIENT], TEXT, HTML, sender=SENDER)
    return seal(message, now=1_800_000_000.0).content


# --- the clients: each sends so many messages to a port, in a process of its own ---


def ours(port: int, count: int, *, connections: int, window: int = 4) -> None:
    """Send through our asyncio driver."""
    content = prebuilt()
    each = Submission(
        sender=SENDER,
        recipients=(RECIPIENT,),
        content=content,
        message_id="<1@shop.example>",
        date=0.0,
    )
    transport = Smtp("127.0.0.1", port, window=window)
    pool = aio.Pool()

    async def one() -> int:
        batch = [each] * (count // connections)
        carried = aio.carry(transport.send(batch), pool, seconds=60.0)
        return sum([len(report.receipt.accepted) async for report in carried])

    async def all_of_them() -> int:
        return sum(await asyncio.gather(*(one() for _ in range(connections))))

    accepted = asyncio.run(all_of_them())
    pool.close()
    assert accepted == count, f"{accepted} of {count}"


def through_flask_mail(port: int, count: int) -> None:
    """Send through Flask-Mail over one connection."""
    app = Flask(__name__)
    app.config |= {"MAIL_SERVER": "127.0.0.1", "MAIL_PORT": port}
    mail = Mail(app)
    with app.app_context(), mail.connect() as connection:
        for _ in range(count):
            connection.send(flask_mail_message())


def through_smtplib(port: int, count: int) -> None:
    """Send what is built through smtplib over one connection."""
    content = prebuilt()
    with smtplib.SMTP("127.0.0.1", port) as connection:
        for _ in range(count):
            connection.sendmail(SENDER, [RECIPIENT], content)


CLIENTS: dict[str, Callable[[int, int], None]] = {
    "ours, 10 connections": lambda port, count: ours(port, count, connections=10),
    "ours, 1 connection": lambda port, count: ours(port, count, connections=1),
    "ours, BDAT, window of 4": lambda port, count: ours(port, count, connections=1, window=4),
    "Flask-Mail, connection reused": through_flask_mail,
    "smtplib, prebuilt, reused": through_smtplib,
}
SMTP_SOURCE = "smtp-source -s 10 -d"  # -d: connections are kept, as ours are


def smtp_source(port: int, count: int) -> list[str]:
    """Say how Postfix's own generator sends as much."""
    size = str(len(prebuilt()))
    command = ["smtp-source", "-s", "10", "-d", "-m", str(count), "-l", size]
    return [*command, "-f", SENDER, "-t", RECIPIENT, f"127.0.0.1:{port}"]


# --- the sink that is far away ---


class FarSink(asyncio.Protocol):
    """Accepts everything; each of its replies arrives one round trip later."""

    def __init__(self, extensions: list[str]) -> None:
        lines = ["250-far.example", *(f"250-{word}" for word in extensions), "250 8BITMIME"]
        self._hello = "\r\n".join(lines).encode() + b"\r\n"
        self._buffer = b""
        self._content = False
        self._chunk = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = transport
        self._say(b"220 far.example\r\n")

    def _say(self, replies: bytes) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(ROUND_TRIP, self._transport.write, replies)

    def data_received(self, data: bytes) -> None:
        """Answer whatever is whole."""
        self._buffer += data
        replies = b"".join(iter(self._next, b""))
        if replies:
            self._say(replies)

    def _next(self) -> bytes:
        """Take one command, content or chunk off the buffer; nothing: it is not whole yet."""
        if self._chunk:
            if len(self._buffer) < self._chunk:
                return b""
            self._buffer, self._chunk = self._buffer[self._chunk :], 0
            return b"250 2.0.0 accepted\r\n"
        end = b"\r\n.\r\n" if self._content else b"\r\n"
        line, found, rest = self._buffer.partition(end)
        if not found:
            return b""
        self._buffer = rest
        if self._content:
            self._content = False
            return b"250 2.0.0 accepted\r\n"
        return self._answer(line)

    def _answer(self, line: bytes) -> bytes:
        verb = line[:4].upper()
        if verb == b"EHLO":
            return self._hello
        if verb == b"DATA":
            self._content = True
            return b"354 go on\r\n"
        if verb == b"BDAT":
            self._chunk = int(line.split()[1])
            return self._next()
        if verb in {b"MAIL", b"RCPT"}:
            return b"250 2.1.0 ok\r\n"
        return b"221 2.0.0 bye\r\n" if verb == b"QUIT" else b"250 2.0.0 ok\r\n"


async def serve_far_sink(extensions: list[str]) -> None:
    """Serve, having told the port."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: FarSink(extensions), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


# --- running and measuring ---


@dataclass(frozen=True)
class Took:
    """What one run took."""

    rate: float  # messages a second
    cpu: float  # client's microseconds a message


def run(command: list[str], count: int) -> Took:
    """Run it on the client's core and measure it."""
    start = time.perf_counter()
    child = subprocess.Popen(
        ["taskset", "-c", str(CLIENT_CORE), *command],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert child.stdout is not None
    said = child.stdout.read().split()
    child.stdout.close()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = status
    assert status == 0, command
    # A Python client says how long the sending took, without its own start.
    seconds, cpu = map(float, said) if said else (time.perf_counter() - start, 0.0)
    return Took(count / seconds, 1e6 * (cpu or used.ru_utime + used.ru_stime) / count)


def be_client(name: str, port: int, count: int) -> None:
    """Be one of the clients, in this process, and say what it took."""
    prebuilt()
    start, cpu = time.perf_counter(), time.process_time()
    CLIENTS[name](port, count)
    print(time.perf_counter() - start, time.process_time() - cpu)


def command_for(name: str, port: int, count: int) -> list[str]:
    """Say how to start a client."""
    if name == SMTP_SOURCE:
        return smtp_source(port, count)
    return [sys.executable, __file__, "--client", name, "--port", str(port), "--count", str(count)]


@contextlib.contextmanager
def near_sink() -> Iterator[int]:
    """Run Postfix's sink on its core."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["taskset", "-c", str(SINK_CORE), "smtp-sink", f"127.0.0.1:{port}", "1000"]
    if os.geteuid() == 0:
        command[4:4] = ["-u", "nobody"]
    sink = subprocess.Popen(command, cwd="/tmp")  # noqa: S108  somewhere that anybody may be
    try:
        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.01)
        yield port
    finally:
        sink.terminate()
        sink.wait()


@contextlib.contextmanager
def far_sink(*extensions: str) -> Iterator[int]:
    """Run our own sink on its core."""
    command = ["taskset", "-c", str(SINK_CORE), sys.executable, __file__, "--sink", *extensions]
    sink = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert sink.stdout is not None
        yield int(sink.stdout.readline())
    finally:
        sink.terminate()
        sink.communicate()


def medians(runs: dict[str, tuple[int, int]], rounds: int) -> dict[str, Took]:
    """Run each (name → port, messages) in turn, so many rounds, and take the medians."""
    took: dict[str, list[Took]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, (port, count) in runs.items():
            took[name].append(run(command_for(name, port, count), count))
    return {
        name: Took(
            statistics.median(one.rate for one in each), statistics.median(one.cpu for one in each)
        )
        for name, each in took.items()
    }


def table(title: str, took: dict[str, Took], peer: str) -> None:
    """Print what came out."""
    print(f"\n{title}\n")
    print(f"{'':34}{'messages/s':>12}{'CPU µs each':>13}{'ratio':>8}")
    for name, one in took.items():
        ratio = one.rate / took[peer].rate
        print(f"{name:34}{one.rate:12,.0f}{one.cpu:13,.0f}{ratio:8.2f}")


def promise(text: str, ratio: float, least: float) -> bool:
    """Print whether a promise is kept."""
    kept = ratio >= least
    print(f"{'kept  ' if kept else 'MISSED'} {text}: {ratio:.2f}, promised {least}")
    return kept


def measure(rounds: int) -> bool:
    """Measure everything; True: all promises are kept."""
    mine, one, bdat, flask_mail, prebuilt_smtplib = CLIENTS
    with near_sink() as near:
        loopback = medians(
            {
                mine: (near, 20_000),
                SMTP_SOURCE: (near, 20_000),
                prebuilt_smtplib: (near, 2_000),
                flask_mail: (near, 400),
            },
            rounds,
        )
    with far_sink("PIPELINING") as pipelining, far_sink("PIPELINING", "CHUNKING") as chunking:
        far = medians(
            {
                one: (pipelining, 100),
                bdat: (chunking, 400),
                prebuilt_smtplib: (pipelining, 20),
                flask_mail: (pipelining, 15),
            },
            rounds,
        )
    size = len(prebuilt())
    table(f"Loopback, {size:,} bytes each, against smtp-sink", loopback, SMTP_SOURCE)
    table("Round trip of 20 ms, one connection", far, flask_mail)
    print()
    others = far[flask_mail].rate
    kept = [
        promise("loopback, to smtp-source", loopback[mine].rate / loopback[SMTP_SOURCE].rate, 1.0),
        promise("20 ms with PIPELINING, to Flask-Mail", far[one].rate / others, 3.5),
        promise("20 ms with BDAT and a window of 4, to Flask-Mail", far[bdat].rate / others, 12.0),
    ]
    return all(kept)


def main() -> None:
    """Measure, or be one of the parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--client", choices=CLIENTS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--sink", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        be_client(options.client, options.port, options.count)
    elif options.sink is not None:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve_far_sink(options.sink))
    elif not shutil.which("smtp-source"):
        sys.exit("smtp-source and smtp-sink are missing: install Debian's package postfix")
    else:
        sys.exit(0 if measure(options.rounds) else 1)


if __name__ == "__main__":
    main()
