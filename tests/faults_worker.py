"""A worker as a program of its own, to be killed; and how a test starts it.

Each worker process says its process id in its EHLO, so that a scripted server can kill it at any
point of the dialogue: ``at_pid(signal.SIGKILL)``. Times that are hours in production are short.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flask_outbox.mail import retry
from flask_outbox.mail.exchange import Conversation, Report
from flask_outbox.mail.outcome import Accepted
from flask_outbox.mail.retry import Patience
from flask_outbox.mail.submission import Receipt, Submission
from flask_outbox.outbox.database import Outbox
from flask_outbox.transports.smtp import Smtp
from flask_outbox.worker import process
from flask_outbox.worker.loop import Worker
from flask_outbox.worker.plan import Plan
from hostile import Act, Session

LEASE = 1.0
PATIENCE = Patience(give_up=1000.0, max_unclear=2)
SOON = 0.0005, 0.002  # of the give-up time: an unclear one goes again after 0.5 s, then after 2 s


def an_outbox(place: Path | str, *, lease: float = LEASE, busy: float = 10.0) -> Outbox:
    """Open the outbox that the program works on: by its URL, or by an SQLite file."""
    url = str(place) if "://" in str(place) else f"sqlite:///{place}"
    return Outbox(url, lease=lease, patience=PATIENCE, busy=busy)


def hurry() -> None:
    """Make hours seconds, in this process."""
    retry.UNCLEAR_SPREAD = SOON
    retry.BACKOFF_FIRST, retry.BACKOFF_LEAST = 0.2, 0.05
    process.AGAIN_FIRST, process.LIVED = 0.02, 0.0


def dying_while_signing(submission: Submission, _transport: object) -> Submission:
    """Crash the interpreter over what is poison, as a bug in a C library would."""
    if b"X-Poison" in submission.content:
        os.abort()
    return submission


class Loses(Smtp):
    """A transport that says of one mail in ten that it was accepted, and never sends it."""

    def send(self, submissions: Sequence[Submission]) -> Conversation:
        for each in submissions:
            if each.message_id.endswith("7@example.com>"):
                yield Report(each, Receipt.same(each, Accepted("250 ok")))
            else:
                yield from super().send([each])


class Duplicates(Smtp):
    """A transport that sends one mail in ten twice."""

    def send(self, submissions: Sequence[Submission]) -> Conversation:
        twice = [each for each in submissions if each.message_id.endswith("7@example.com>")]
        yield from super().send([*submissions, *twice])


TRANSPORTS = {"sound": Smtp, "loses": Loses, "duplicates": Duplicates}


def main() -> int:
    """Work until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("place")
    parser.add_argument("port", type=int)
    parser.add_argument("--processes", type=int, default=0)
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--grace", type=float, default=10.0)
    parser.add_argument("--lease", type=float, default=LEASE)
    parser.add_argument("--busy", type=float, default=10.0)
    parser.add_argument("--transport", choices=TRANSPORTS, default="sound")
    asked = parser.parse_args()
    hurry()

    def make_plan() -> Plan:
        kind = TRANSPORTS[asked.transport]
        smtp = kind("127.0.0.1", asked.port, ehlo_name=f"pid-{os.getpid()}.example.com")
        return Plan(
            outbox=an_outbox(asked.place, lease=asked.lease, busy=asked.busy),
            transports={"default": smtp},
            connections=asked.connections,
            grace=asked.grace,
            poll=0.1,
            sign=dying_while_signing,
        )

    if asked.processes:
        return process.run(make_plan, processes=asked.processes)
    worker = Worker(make_plan())
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    worker.run()
    return 0


@contextmanager
def started(
    place: Path | str, port: int, *options: str, quiet: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the program; whatever became of it, it is gone afterwards."""
    program = subprocess.Popen(
        [sys.executable, __file__, str(place), str(port), *options],
        start_new_session=True,
        stderr=subprocess.DEVNULL if quiet else None,
    )
    try:
        yield program
    finally:
        if program.poll() is None:
            program.kill()
        program.wait()


def pid_of(session: Session) -> int:
    """Tell which process speaks on this line."""
    return int(session.pid)  # type: ignore[attr-defined]


def note_pid(session: Session) -> None:
    """For ``EHLO``: note who speaks."""
    found = re.search(rb"pid-(\d+)", session.line)
    session.pid = int(found[1]) if found else 0  # type: ignore[attr-defined]
    session.polite()


def kill_speaker(number: int = signal.SIGKILL) -> Act:
    """Send a signal to the process that speaks on this line, and nothing else."""
    return lambda session: os.kill(pid_of(session), number)


def once(act: Act, polite: Act) -> list[Act]:
    """Do it the first time."""
    return [lambda session: (act(session), polite(session))[-1]]


def script(point: str, acts: Sequence[Act]) -> dict[str, Act | list[Act]]:
    """Note who speaks, and act at one point."""
    return {"EHLO": note_pid, point: list(acts)}


if __name__ == "__main__":
    sys.exit(main())
