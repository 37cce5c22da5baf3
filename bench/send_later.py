"""What a request pays: a durable send_later beside Celery's ``.delay`` with Redis, in one run.

Ours composes, seals, and commits to SQLite with synchronous=FULL. Celery's puts the same arguments
as JSON into a Redis that keeps nothing on disk. No worker of either runs meanwhile. The message is
that of compose.py.

    python bench/send_later.py [--rounds 12] [--calls 150]
"""

import argparse
import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from celery import Celery
from compose import SENDER, SUBJECT, bodies
from flask import Flask

from flask_outbox import Mail, Message

TARGET, STRETCH = 0.9, 0.5


@contextlib.contextmanager
def redis(folder: str) -> Iterator[int]:
    """Run a Redis of our own, as Debian's default but for the port: nothing on disk."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen(
        ["redis-server", *options, "--dir", folder], stdout=subprocess.DEVNULL
    ) as server:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        try:
            yield port
        finally:
            server.terminate()


def durations(call: Callable[[int], object], numbers: range) -> list[float]:
    """Time each call, in microseconds."""
    found = []
    for number in numbers:
        began = time.perf_counter()
        call(number)
        found.append((time.perf_counter() - began) * 1e6)
    return found


def make_celery(port: int) -> Callable[[int], object]:
    """Give the tutorials' task: the mail's arguments travel as JSON."""
    celery = Celery("bench", broker=f"redis://127.0.0.1:{port}/0")
    celery.conf.task_ignore_result = True

    @celery.task(name="send_email")
    def send_email(**message: object) -> None:
        """Never run here."""

    return lambda number: send_email.delay(
        subject=SUBJECT,
        recipients=[f"person{number}@example.org"],
        body=bodies.text,
        html=bodies.html,
    )


def make_outbox(folder: str) -> tuple[Flask, Callable[[int], object]]:
    """Give an app whose mail waits for a worker process, so that none runs in here."""
    app = Flask("bench", instance_path=folder)
    app.config.update(
        MAIL_SERVER="127.0.0.1",
        MAIL_DEFAULT_SENDER=SENDER,
        MAIL_WORKER="process",
    )
    mail = Mail(app)
    return app, lambda number: mail.send_later(
        Message(
            subject=SUBJECT,
            recipients=[f"person{number}@example.org"],
            body=bodies.text,
            html=bodies.html,
        )
    )


def main() -> int:
    """Measure in interleaved rounds, print the table, and fail where the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--calls", type=int, default=150)
    arguments = parser.parse_args()
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as folder, redis(folder) as port:
        delay = make_celery(port)
        app, send_later = make_outbox(str(Path(folder) / "instance"))
        with app.app_context():
            durations(delay, range(50))
            durations(send_later, range(50))
            for number in range(arguments.rounds):
                numbers = range(number * arguments.calls, (number + 1) * arguments.calls)
                theirs += durations(delay, numbers)
                ours += durations(send_later, numbers)
    rows = {"Celery .delay, Redis": theirs, "send_later, SQLite FULL": ours}
    base = statistics.median(theirs)
    print(f"{'':26}{'p50 µs':>10}{'p99 µs':>10}{'ratio':>8}")
    for name, found in rows.items():
        p99 = statistics.quantiles(found, n=100)[98]
        p50 = statistics.median(found)
        print(f"{name:26}{p50:>10.0f}{p99:>10.0f}{p50 / base:>8.2f}")
    ratio = statistics.median(ours) / base
    print(f"\np50 ratio {ratio:.2f}, target at most {TARGET}, stretch {STRETCH}")
    return 0 if ratio <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
