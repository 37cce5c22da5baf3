"""What each choice of Celery's costs mail: pool, acks_late, result backend, broker, in one run.

Each choice differs from the first row in what its name says, and does the same day's work on an
outbox of its own (SQLite): mail one by one, a queue that waits, a burst, and a SIGKILL. The first
row's figures are shown, and for the others how many times as much; ``flask outbox worker`` stands
beside them.

    python bench/celery_choices.py [--all] [--rounds 1] [--queue 600] [--burst 300] [--single 15]

============  ==================================================================================
mails/s       of a queue that waits, to Postfix's smtp-sink, by the outbox's own times
tasks         started for a burst, each mail with a hint
memory        of the workers after that: RSS, which counts what they share each time, in MB
p50           from the return of send_later to the relay's acceptance, one mail at a time, in ms
waits         seconds from a SIGKILL of the worker, which is started again at once, until a mail
              leaves whose hint went down with it; the sweep is SWEEP s away
under way     the same of the mail that it was sending: its lease (LEASE s) ends, and as it may have
              left it waits once more (AGAIN s)
============  ==================================================================================
"""

import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # brokers, a relay, eyes

from celery_choices_app import create_app
from flask import Flask
from smtp import near_sink

from brokers import broker
from engine_stage import QUIET, clean, on_broker
from flask_outbox import Mail, Message
from hostile import Hostile, Session, reset
from worker_stage import Eyes

BENCH = Path(__file__).parent
SWEEP = 6.0  # seconds; 60 by default
LEASE = 3.0  # seconds; 30 by default
AGAIN = 1.0  # seconds; 5 minutes by default
APART = 0.25  # seconds from one single mail to the next: more than hints are merged for
BOUND = 60.0
BODY = "Your order has been received and is being packed.\n" * 20


@dataclass(frozen=True)
class Choice:
    """One way to run it."""

    pool: str = "prefork"
    late: bool = False
    results: str = "none"
    broker: str = "redis"
    visibility: int | None = None  # Redis' visibility_timeout, seconds
    celery: bool = True  # else ``flask outbox worker``

    def __str__(self) -> str:
        """Say what it has of its own."""
        if not self.celery:
            return "flask outbox worker"
        late = "acks_late" if self.late else "acks early"
        results = {"none": "no results", "redis": "results in Redis", "database": "in a database"}
        seen = [f"visibility {self.visibility} s"] if self.visibility else []
        return ", ".join([self.pool, late, results[self.results], self.broker, *seen])


FIRST = Choice()
SOME = [
    FIRST,
    *(replace(FIRST, pool=each) for each in ("threads", "solo", "gevent")),
    replace(FIRST, late=True),
    replace(FIRST, late=True, visibility=2),
    *(replace(FIRST, results=each) for each in ("redis", "database")),
    replace(FIRST, broker="rabbitmq"),
    replace(FIRST, broker="rabbitmq", late=True),
    replace(FIRST, celery=False),
]
ALL = [
    *(
        Choice(pool, late, results, name)
        for name, pool, late, results in product(
            ("redis", "rabbitmq"),
            ("prefork", "threads", "solo", "gevent"),
            (False, True),
            ("none", "redis", "database"),
        )
    ),
    *(each for each in SOME if each.visibility or not each.celery),
]


class Relay(Hostile):
    """Takes mail, and where it is asked to, holds one within its content."""

    def __init__(self) -> None:
        """Listen."""
        self.hold = False
        self.held, self.may_go = threading.Event(), threading.Event()
        super().__init__({"body": self._at_the_body})

    def _at_the_body(self, session: Session) -> None:
        if self.hold:
            self.held.set()
            self.may_go.wait(BOUND)
            reset(session)

    def wait_for(self, name: str) -> float:
        """Wait until it has that person's mail; tell when that was."""
        whom = (f"{name}@example.org",)
        self.wait_until(lambda _: any(each.recipients == whom for each in self.accepted), BOUND)
        return time.perf_counter()


@dataclass
class Work:
    """One choice at work."""

    choice: Choice
    folder: Path
    config: dict[str, Any]
    desk: Flask

    @contextlib.contextmanager
    def program(self, *command: str, ready: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Run something until it is done with, having waited for its word."""
        log = self.folder / f"{time.monotonic_ns()}.log"
        paths = [str(BENCH), str(BENCH.parent / "tests")]
        with log.open("wb") as out:
            running = subprocess.Popen(
                [sys.executable, "-m", *command],
                env={
                    **os.environ,
                    "BENCH_APP": json.dumps(self.config),
                    "PYTHONPATH": os.pathsep.join(paths),
                },
                cwd=self.folder, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        try:
            until(lambda: ready in log.read_text(errors="replace"))
            yield running
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()

    def worker(self) -> contextlib.AbstractContextManager["subprocess.Popen[bytes]"]:
        """Run two at once where the pool has two."""
        if not self.choice.celery:
            return self.program(
                *("flask", "--app", "celery_choices_app", "outbox", "worker"), ready="begins"
            )
        pool = ("--pool", self.choice.pool, "--concurrency", "2")
        command = ("celery", "-A", "celery_choices_app:celery_app", "worker", *pool, *QUIET)
        return self.program(*command, ready=" ready.")

    def beat(self) -> contextlib.AbstractContextManager[object]:
        """Run the sweep, the first SWEEP seconds from now."""
        if not self.choice.celery:
            return contextlib.nullcontext()
        command = ("celery", "-A", "celery_choices_app:celery_app", "beat", "--loglevel", "INFO")
        schedule = str(self.folder / f"schedule-{time.monotonic_ns()}")
        return self.program(*command, "--schedule", schedule, ready="beat: Starting")

    def put(self, name: str, transport: str = "default") -> None:
        """Send it later."""
        message = Message("Your order", [f"{name}@example.org"], BODY)
        with self.desk.app_context():
            Mail().send_later(message, transport=transport)

    def put_quietly(self, names: list[str], transport: str = "default") -> None:
        """Write it down and tell nobody."""
        mail = {**self.config["mail"], "MAIL_WORKER": "process"}
        app = create_app({**self.config, "mail": mail})
        quiet = replace(self, desk=app)
        for name in names:
            quiet.put(name, transport)
        app.extensions["outbox"].close()

    def hint(self) -> None:
        """Say that something is due."""
        if self.choice.celery:
            self.desk.extensions["outbox"].wakes.wake(time.time())

    @property
    def eyes(self) -> Eyes:
        """Look at its outbox."""
        return Eyes(self.folder / "outbox.sqlite3")

    def tasks(self) -> int:
        """Count those that were received."""
        logs = "".join(each.read_text(errors="replace") for each in self.folder.glob("*.log"))
        return len(re.findall(r"drain\[\S+\] received", logs))


def until(condition: Callable[[], Any]) -> None:
    """Look again and again."""
    end = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.01)


def drained(work: Work, count: int) -> float:
    """Have a queue sent that waits; give the mails a second."""
    work.put_quietly([f"queue{number}" for number in range(count)], "sink")
    with work.worker():
        work.hint()
        until(lambda: work.eyes.count("state = 'accepted'") == count)
    ended = [at for (at,) in work.eyes.rows("SELECT ended_at FROM outbox_message")]
    after_the_first = count - ended.count(min(ended))
    return after_the_first / (max(ended) - min(ended))


def latency(work: Work, relay: Relay, count: int) -> float:
    """Send one by one; give the median in milliseconds."""
    took = []
    for number in range(count + 2):
        time.sleep(APART)
        work.put(f"single{number}")
        began = time.perf_counter()
        took.append((relay.wait_for(f"single{number}") - began) * 1e3)
    return statistics.median(took[2:])  # the first ones connect


def burst(work: Work, count: int) -> int:
    """Send many at once; count the tasks."""
    time.sleep(APART)  # so that the drain of the last single mail has ended
    before = work.tasks()
    for number in range(count):
        work.put(f"burst{number}", "sink")
    until(lambda: work.eyes.count("state = 'accepted'") == work.eyes.count("1 = 1"))
    return work.tasks() - before


def memory(group: int) -> float:
    """Add up what its processes hold, in MB."""
    total = 0
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if os.getpgid(int(process.name)) == group:
                status = (process / "status").read_text()
                total += int(status.partition("VmRSS:")[2].split()[0])
    return total / 1024


def killed(work: Work, relay: Relay, worker: "subprocess.Popen[bytes]") -> tuple[float, float]:
    """Kill it while it sends; give the seconds until each of two mails has left."""
    relay.hold = True
    work.put("under-way")
    assert relay.held.wait(BOUND)
    with work.beat():
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
        began = time.perf_counter()
        relay.hold = False
        relay.may_go.set()
        work.put_quietly(["waiting"])
        with work.worker():
            waited = relay.wait_for("waiting") - began
            return waited, relay.wait_for("under-way") - began


def measure(choice: Choice, sink: int, asked: argparse.Namespace) -> dict[str, float]:
    """Let one choice work through the day."""
    conf: dict[str, Any] = {"task_acks_late": choice.late}
    if choice.visibility:
        conf["broker_transport_options"] = {
            "visibility_timeout": choice.visibility,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        }
    with contextlib.ExitStack() as stack:
        relay = stack.enter_context(Relay())
        stack.callback(relay.may_go.set)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        celery = on_broker(stack.enter_context(broker(choice.broker)), **conf)
        stack.callback(clean, celery)
        results = {"redis": "redis://", "database": f"db+sqlite:///{folder}/results.sqlite3"}
        if choice.results == "redis":
            results["redis"] = stack.enter_context(broker("redis"))
        celery["result_backend"] = results.get(choice.results)
        celery["task_ignore_result"] = choice.results == "none"
        mail = {
            "MAIL_WORKER": "celery" if choice.celery else "process",
            "MAIL_TRANSPORTS": {
                "default": f"smtp://127.0.0.1:{relay.port}",
                "sink": f"smtp://127.0.0.1:{sink}",
            },
            "MAIL_LEASE": LEASE,
            "MAIL_GIVE_UP": AGAIN * 576,
        }
        config = {"instance": str(folder), "mail": mail, "celery": celery, "sweep": SWEEP}
        desk = create_app(config)
        stack.callback(desk.extensions["outbox"].close)
        work = Work(choice, folder, config, desk)
        found = {"mails/s": drained(work, asked.queue)}
        with work.worker() as worker:
            found["p50"] = latency(work, relay, asked.single)
            found["tasks"] = burst(work, asked.burst)
            found["memory"] = memory(worker.pid)
            found["waits"], found["under way"] = killed(work, relay, worker)
        return found


COLUMNS = ("mails/s", "tasks", "memory", "p50", "waits", "under way")


def show(name: str, found: dict[str, float], first: dict[str, float]) -> None:
    """Print a row: what it has, and how many times the first row's that is."""
    cells = "".join(
        f"{found[each]:>10.1f}{found[each] / first[each]:>6.2f}" if first[each] else f"{'':16}"
        for each in COLUMNS
    )
    print(f"{name:56}{cells}", flush=True)


def main() -> None:
    """Measure each choice, round by round, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--all", action="store_true", help="every combination")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--queue", type=int, default=600)
    parser.add_argument("--burst", type=int, default=300)
    parser.add_argument("--single", type=int, default=15)
    asked = parser.parse_args()
    choices = ALL if asked.all else SOME
    with near_sink() as sink:
        rounds = [
            {each: measure(each, sink, asked) for each in choices} for _ in range(asked.rounds)
        ]
    print(f"{'':56}" + "".join(f"{each:>10}{'':6}" for each in COLUMNS))
    medians = {
        choice: {
            column: statistics.median(each[choice][column] for each in rounds) for column in COLUMNS
        }
        for choice in choices
    }
    for choice, found in medians.items():
        show(str(choice), found, medians[FIRST])
    print(f"load at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
