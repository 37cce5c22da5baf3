"""What the outbox costs, beside Celery with Redis, in one run.

Within the app's own transaction: an order alone, committed, and an order with its mail, committed;
the difference is what send_later adds (composing, sealing and checking included). Celery's is
``.delay`` of the same arguments, to a Redis that keeps nothing on disk. The app's SQLite file is in
WAL mode, as the documentation advises; what it costs in the default mode is shown besides.

Two floors stand beside it, in the same transactions: an order whose mail is composed and sealed and
not kept, and one whose sealed mail is kept by one bare INSERT of the driver's into a table without
an index, which no worker could claim from.

The worker's side: claim, start and record, a hundred at a time, bodies read, in one process and in
two, against the jobs that Celery's prefork pool of two gets through when each does nothing at all.

    python bench/outbox.py [--rounds 8] [--calls 100] [--jobs 6000]

PostgreSQL is one of our own with its default settings, so that a commit is on the disk.
"""

import argparse
import contextlib
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the servers of our own

from compose import SENDER, SUBJECT, bodies
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from send_later import durations, make_celery, redis

import databases
from flask_outbox import Mail, Message
from flask_outbox.mail.exchange import Report
from flask_outbox.mail.mime import seal
from flask_outbox.mail.outcome import Accepted
from flask_outbox.mail.submission import Receipt, Submission
from flask_outbox.outbox.claim import claim, start
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.enqueue import enqueue
from flask_outbox.outbox.record import record

BATCH = 100
OLD_JOURNAL = "SQLite, journal DELETE"  # its default; for comparison
# What a request does: the first alone is compared with, the last is what is judged.
DOES = ("an order", "its mail, sealed and not kept", "the same, and one bare row", "its mail")
ADDS = {"SQLite": (0.30, 0.15), "PostgreSQL": (0.50, 0.30)}  # of .delay: target, stretch
CELERY = ("Celery, nothing to do", 2)  # one for each core here
# By database and number of processes: times Celery's. In a file one process writes at a time, so it
# is judged by one; on a server by as many as Celery has.
OURS: dict[tuple[str, int], tuple[float, ...]] = {
    ("SQLite", 1): (15.0, 40.0),
    ("SQLite", 2): (),
    ("PostgreSQL", 1): (),
    ("PostgreSQL", 2): (8.0, 15.0),
}


# --- within the app's own transaction ---


def make_shop(uri: str, journal: str = "WAL") -> tuple[Flask, dict[str, Callable[[int], object]]]:
    """Give an app, and what a request of it may do; each is a transaction."""
    app = Flask("shop", instance_path=tempfile.gettempdir())
    app.config.update(
        SQLALCHEMY_DATABASE_URI=uri,
        MAIL_SERVER="127.0.0.1",
        MAIL_DEFAULT_SENDER=SENDER,
        MAIL_WORKER="process",  # so that no worker runs in here
        MAIL_TRANSPORT="null://",
    )
    db: Any = SQLAlchemy(app)
    with app.app_context():
        if db.engine.dialect.name == "sqlite":
            with db.engine.connect() as connection:
                connection.exec_driver_sql(f"PRAGMA journal_mode = {journal}")
    mail = Mail(app, db=db)

    class Order(db.Model):
        id = db.Column(db.Integer, primary_key=True)
        what = db.Column(db.String(80))

    def order(number: int) -> None:
        db.session.add(Order(what=f"book {number}"))
        db.session.commit()

    def confirmation(number: int) -> Message:
        return Message(
            subject=SUBJECT,
            recipients=[f"person{number}@example.org"],
            body=bodies.text,
            html=bodies.html,
        )

    def order_and_mail(number: int) -> None:
        db.session.add(Order(what=f"book {number}"))
        mail.send_later(confirmation(number))
        db.session.commit()

    def sealed(number: int) -> Submission:
        message = confirmation(number)
        message.sender = SENDER
        return seal(message, now=time.time())

    def order_and_sealing(number: int) -> None:
        db.session.add(Order(what=f"book {number}"))
        sealed(number)
        db.session.commit()

    def order_and_row(number: int) -> None:
        db.session.add(Order(what=f"book {number}"))
        mine = sealed(number)
        cursor = db.session.connection().connection.dbapi_connection.cursor()
        cursor.execute(bare, (mine.sender, mine.recipients[0], mine.content))
        cursor.close()
        db.session.commit()

    class Bare(db.Model):
        id = db.Column(db.Integer, primary_key=True)
        sender = db.Column(db.Text)
        recipient = db.Column(db.Text)
        content = db.Column(db.LargeBinary)

    with app.app_context():
        db.create_all()
        mark = "?" if db.engine.dialect.name == "sqlite" else "%s"
    bare = f"INSERT INTO bare (sender, recipient, content) VALUES ({mark}, {mark}, {mark})"  # noqa: S608  marks
    does = (order, order_and_sealing, order_and_row, order_and_mail)
    return app, dict(zip(DOES, does, strict=True))


# --- the worker's side ---


def a_mail(number: int) -> Submission:
    """Give a sealed mail of the typical size."""
    content = f"Message-ID: <{number}@example.com>\r\n\r\n".encode() + b"x" * 78 + b"\r\n"
    return Submission(
        sender="shop@example.com",
        recipients=(f"person{number}@example.org",),
        content=content + (b"x" * 76 + b"\r\n") * 85,
        message_id=f"<{number}@example.com>",
        date=0.0,
    )


def jobs_a_second(url: str, count: int, processes: int) -> float:
    """Claim, start and record so many, in so many processes."""
    outbox = Outbox(url)
    if not url.startswith("sqlite"):
        outbox.upgrade()
    warm = processes * BATCH
    for first in range(0, count + warm, 1000):
        with outbox.begin() as connection:
            for number in range(first, min(first + 1000, count + warm)):
                enqueue(connection, outbox, a_mail(number))
    outbox.close()
    spawn = multiprocessing.get_context("spawn")
    together, done = spawn.Barrier(processes + 1), spawn.Value("i", 0)
    doing = [spawn.Process(target=work, args=(url, together, done)) for _ in range(processes)]
    for each in doing:
        each.start()
    together.wait(60)  # all have done a batch, and are at their speed, as Celery is then
    began = time.perf_counter()
    together.wait(300)  # all are done
    seconds = time.perf_counter() - began
    for each in doing:
        each.join()
    assert done.value == count, (done.value, count)
    return count / seconds


def work(url: str, together: Any, done: Any) -> None:
    """Do one batch, and then all that there is."""
    outbox, mine = Outbox(url), 0
    do_a_batch(outbox)
    together.wait(60)
    while count := do_a_batch(outbox):
        mine += count
    with done:
        done.value += mine
    together.wait(300)
    outbox.close()


def do_a_batch(outbox: Outbox) -> int:
    """Claim, start and record some; tell how many."""
    claimed = claim(outbox, transports=["default"], limit=BATCH, worker=f"bench {os.getpid()}")
    begun = start(outbox, claimed)
    reports = [Report(each, Receipt.same(each, Accepted("250 ok"))) for each in begun]
    return len(record(outbox, reports, lambda: 0.5, []))  # as a worker does


TASKS = """
import os
from celery import Celery

app = Celery("jobs", broker=os.environ["BENCH_BROKER"])
app.conf.task_ignore_result = True
done = os.open(os.environ["BENCH_DONE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@app.task(name="nothing")
def nothing():
    os.write(done, b".")
"""


def celery_jobs_a_second(folder: Path, port: int, count: int) -> float:
    """Let a prefork pool of two do nothing so often."""
    (folder / "jobs.py").write_text(TASKS)
    done = folder / "done"
    done.write_bytes(b"")
    environment = {
        **os.environ,
        "BENCH_BROKER": f"redis://127.0.0.1:{port}/1",
        "BENCH_DONE": str(done),
        "PYTHONPATH": str(folder),
    }
    send = (
        "import jobs, sys\n"
        "with jobs.app.connection_for_write() as connection:\n"
        "    for _ in range(int(sys.argv[1])): jobs.nothing.apply_async(connection=connection)\n"
    )
    command = [sys.executable, "-c", send, str(count)]
    subprocess.run(command, env=environment, check=True)
    pool = ["worker", "--pool", "prefork", "--concurrency", "2", "--loglevel", "ERROR"]
    alone = ["--without-gossip", "--without-mingle"]
    with subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "jobs", *pool, *alone],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as worker:
        try:
            first = count // 10  # from here on it is at its speed
            began = wait(done, first)
            ended = wait(done, count)
        finally:
            worker.terminate()
    return (count - first) / (ended - began)


def wait(done: Path, count: int) -> float:
    """Wait until so many are done; tell when that was."""
    end = time.monotonic() + 300.0
    while done.stat().st_size < count:
        assert time.monotonic() < end, "Celery did not do it"
        time.sleep(0.002)
    return time.perf_counter()


# --- the tables ---


@contextlib.contextmanager
def places(folder: str) -> Iterator[dict[str, Callable[[], str]]]:
    """Give a way to a new database of each kind."""
    with databases.running(databases.PostgreSql) as server:
        files = iter(range(1000))
        yield {
            "SQLite": lambda: f"sqlite:///{folder}/{next(files)}.sqlite3",
            "PostgreSQL": server.new,
        }


def main() -> int:
    """Measure in interleaved rounds, print the tables, and fail where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=6000)
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        redis(folder) as port,
        places(folder) as new,
    ):
        holds = requests(new, port, asked)
        return 0 if workers(new, Path(folder), port, asked) and holds else 1


def requests(new: dict[str, Callable[[], str]], port: int, asked: argparse.Namespace) -> bool:
    """Measure what a request pays."""
    delay = make_celery(port)
    shops = {
        name: make_shop(place().replace("postgresql:", "postgresql+psycopg:"))
        for name, place in new.items()
    }
    shops[OLD_JOURNAL] = make_shop(new["SQLite"](), "DELETE")
    found: dict[str, list[float]] = {"Celery .delay": []}
    for number in range(asked.rounds + 1):  # the first warms up
        numbers = range(number * asked.calls, (number + 1) * asked.calls)
        found.setdefault("Celery .delay", []).extend(durations(delay, numbers))
        for name, (app, does) in shops.items():
            with app.app_context():
                for what, do in does.items():
                    found.setdefault(f"{name}, {what}", []).extend(durations(do, numbers))
        if number == 0:
            found = {}
    p50 = {name: statistics.median(each) for name, each in found.items()}
    head = "".join(f"{each:>9}" for each in ("µs", "adds", "ratio", "wanted", "stretch"))
    print(f"{'p50 of a request':54}{head}")
    base = p50["Celery .delay"]
    print(f"{'Celery .delay, Redis':54}{base:>9.0f}")
    holds = True
    alone, judged = DOES[0], DOES[-1]
    for name, aims in {**ADDS, OLD_JOURNAL: ()}.items():
        before = p50[f"{name}, {alone}"]
        print(f"{f'{name}, {alone}':54}{before:>9.0f}")
        for what in DOES[1:]:
            adds = p50[f"{name}, {what}"] - before
            line = f"{f'{name}, {what}':54}{before + adds:>9.0f}{adds:>9.0f}{adds / base:>9.2f}"
            print(line + "".join(f"{each:>9.2f}" for each in aims if what == judged))
        holds = holds and (not aims or adds / base <= aims[0])
    return holds


def workers(
    new: dict[str, Callable[[], str]], folder: Path, port: int, asked: argparse.Namespace
) -> bool:
    """Measure what a worker gets through."""
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(3):
        found.setdefault(CELERY, []).append(celery_jobs_a_second(folder, port, asked.jobs))
        for name, processes in OURS:
            speed = jobs_a_second(new[name](), asked.jobs, processes)
            found.setdefault((name, processes), []).append(speed)
    speeds = {which: statistics.median(each) for which, each in found.items()}
    theirs, holds = speeds.pop(CELERY), True
    print(f"\n{'jobs':24}{'processes':>10}{'a second':>10}{'times':>8}{'wanted':>9}{'stretch':>9}")
    print(f"{CELERY[0]:24}{CELERY[1]:>10}{theirs:>10.0f}")
    for (name, processes), ours in speeds.items():
        aims = OURS[name, processes]
        holds = holds and (not aims or ours / theirs >= aims[0])
        print(
            f"{name:24}{processes:>10}{ours:>10.0f}{ours / theirs:>8.1f}"
            + "".join(f"{each:>9.1f}" for each in aims)
        )
    return holds


if __name__ == "__main__":
    sys.exit(main())
