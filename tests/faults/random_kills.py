"""Kill workers at random while they send, and judge: nothing lost, no copy without excuse.

::

    python tests/faults/random_kills.py --seed 7 --kills 500 --messages 20000
    python tests/faults/random_kills.py --seed 7 --database mariadb --workers 3

Two thirds of the kills are the server's own: it kills whoever speaks at a point of the dialogue
that chance chose, from MAIL to just after its answer. The rest come from outside, whatever the
worker is doing. The seed fixes the choices; how processes interleave is the machine's.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the tests' modules are

import databases
from faults_worker import LEASE, PATIENCE, an_outbox, note_pid, pid_of, started
from hostile import Act, Hostile, Session
from kill_verdict import Kill, Row, Verdict, judge
from worker_stage import Eyes, a_submission, put

POINTS = ("MAIL", "RCPT", "DATA", "body", "dot", "answered")
FROM_OUTSIDE = 1 / 3  # of the kills
TELL_EVERY = 10.0
DEAD_WITHIN = 5.0  # seconds from the signal to the end of the process
LATE = 1.0  # seconds beyond two leases, in which somebody who takes over may have to start first
IN_FLIGHT = (
    "SELECT message_id FROM outbox_message"
    " WHERE state = 'sending' AND started_at IS NOT NULL AND worker LIKE ?"
)
WORKERS = "SELECT DISTINCT worker FROM outbox_message WHERE state = 'sending'"
OWNED = "SELECT message_id, worker FROM outbox_message WHERE state = 'sending'"
ROWS = (
    "SELECT message_id, state,"
    " (SELECT count(*) FROM outbox_event e WHERE e.message = m.id AND e.kind = 'unclear'),"
    " coalesce(ended_at - first_due, 0)"
    " FROM outbox_message m"
)


@dataclass
class Killer:
    """Chooses whom to kill when, and writes down what was in flight."""

    eyes: Eyes
    chance: random.Random
    wanted: int
    every: int  # points of the dialogue between two kills, on average
    speaker: Callable[[Session], int] = pid_of
    taken_over: float = 2 * LEASE + LATE  # seconds after a kill
    stuck: set[str] = field(default_factory=set)
    killed_at: float = 0.0
    kills: list[Kill] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.left = self._next()
        self.outside = False

    def _next(self) -> int:
        self.outside = self.chance.random() < FROM_OUTSIDE
        return self.chance.randint(1, 2 * self.every)

    def at(self, point: str, session: Session) -> None:
        """Pass a point of the dialogue; when its time has come, kill."""
        with self.lock:
            self.left -= 1
            if self.left <= 0 and len(self.kills) < self.wanted:
                victims = self._victims() if self.outside else [self.speaker(session)]
                if victims:
                    self._kill("outside" if self.outside else point, self.chance.choice(victims))

    def _victims(self) -> list[int]:
        return sorted(filter(lives, {pid_in(name) for (name,) in self.eyes.rows(WORKERS)}))

    def _kill(self, point: str, pid: int) -> None:
        if not pid or not lives(pid):  # 0 would be all of us
            return
        dying = self.die_with(pid)
        os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + DEAD_WITHIN
        while any(map(lives, dying)) and time.monotonic() < end:
            time.sleep(0.001)
        rows = [row for each in dying for row in self.eyes.rows(IN_FLIGHT, f"%:{each}:%")]
        self.kills.append(Kill(point, frozenset(str(name) for (name,) in rows)))
        self.killed_at = time.monotonic()
        self.left = self._next()

    def look(self) -> None:
        """Note what the dead still have, where there has been time enough to take it over."""
        with self.lock:
            if self.kills and time.monotonic() - self.killed_at > self.taken_over:
                owned = self.eyes.rows(OWNED)
                self.stuck.update(name for name, whose in owned if not lives(pid_in(whose)))

    def die_with(self, pid: int) -> list[int]:
        """List the processes that end when this one does, itself included."""
        return [pid]


def pid_in(worker: str) -> int:
    """Read who it is in a worker's name."""
    return int(worker.split(":")[-2])


def lives(pid: int) -> bool:
    """Tell whether it can still do something: a zombie cannot."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rsplit(")", 1)[1][1] != "Z"
    except OSError:
        return False


def act(point: str, killer: Killer) -> Act:
    """Pass the point, then go on politely: a server does not know that the client died."""

    def passed(session: Session) -> None:
        killer.at(point, session)
        session.polite()

    return passed


def run(  # noqa: PLR0913  what a run is made of
    place: Path | str,
    *,
    seed: int,
    kills: int,
    messages: int,
    workers: int,
    seconds: float,
    options: Sequence[str] = (),
    late: float = LATE,
    tell: Callable[[str], object] = lambda _: None,
) -> Verdict:
    """Enqueue, send, kill, wait for the end, judge."""
    eyes = Eyes(place)
    chance = random.Random(seed)  # noqa: S311  to be repeated
    outbox = an_outbox(place)
    outbox.upgrade()
    for start in range(0, messages, 1000):
        names = (f"n{i}" for i in range(start, min(start + 1000, messages)))
        put(outbox, *(a_submission(name) for name in names))
    outbox.close()
    points = messages * len(POINTS)
    killer = Killer(eyes, chance, kills, max(1, int(points / (kills + 1) * 0.8)))
    killer.taken_over = 2 * LEASE + late
    script: dict[str, Act | list[Act]] = {point: act(point, killer) for point in POINTS}
    with ExitStack() as stack:
        server = stack.enter_context(Hostile({"EHLO": note_pid, **script}))
        program = stack.enter_context(
            started(
                place,
                server.port,
                "--processes",
                str(workers),
                "--connections",
                "3",
                *options,
                quiet=True,
            )
        )
        end = time.monotonic() + seconds
        while (left := open_mails(eyes)) and time.monotonic() < end:
            assert program.poll() is None, "the workers' parent ended"
            tell(f"{left} to go, {len(killer.kills)} kills, {len(server.accepted)} accepted")
            killer.look()
            time.sleep(0.25)
        program.terminate()
        with suppress(Exception):
            program.wait(20)
        accepted = server.message_ids
    rows = {str(name): Row(*what) for name, *what in eyes.rows(ROWS)}
    return judge(rows, accepted, killer.kills, killer.stuck, patience=PATIENCE, wanted=kills)


def open_mails(eyes: Eyes) -> int:
    return eyes.count("state IN ('queued', 'sending') AND state <> 'accepted'")


class Print:
    """Says it at once; what is said ``rarely`` only now and then."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def rarely(self, line: str) -> None:
        if time.monotonic() - self._said > TELL_EVERY:
            self._said = time.monotonic()
            self(f"  {line}")


def main() -> int:
    """Run on each database, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--workers", type=int, help="always so many, instead of 1, 2, 3 and 4")
    parser.add_argument("--database", choices=[*DATABASES, "all"], default="all")
    parser.add_argument("--seconds", type=float, default=900.0, help="give up after so long")
    asked, say = parser.parse_args(), Print()
    say(f"seed {asked.seed}: {asked.kills} kills, {asked.messages} messages on each database")
    names = list(DATABASES) if asked.database == "all" else [asked.database]
    verdicts = [_judged(name, asked, say) for name in names]
    word = "holds" if all(verdicts) else "DOES NOT HOLD"
    say(f"the promise {word} (seed {asked.seed})")
    return 0 if all(verdicts) else 1


def _judged(name: str, asked: argparse.Namespace, say: Print) -> bool:
    """Run on one database, by one to four workers, and print the verdicts."""
    crews = [asked.workers] if asked.workers else [1, 2, 3, 4]
    holds = True
    with DATABASES[name]() as new:
        for workers in crews:
            before = time.monotonic()
            verdict = run(
                new(),
                seed=asked.seed + workers,
                kills=asked.kills // len(crews),
                messages=asked.messages // len(crews),
                workers=workers,
                seconds=asked.seconds,
                tell=say.rarely,
            )
            say(f"{name}, {workers} workers, {time.monotonic() - before:.0f} s")
            for line in verdict.lines():
                say(f"  {line}")
            holds = holds and verdict.holds
    return holds


@contextmanager
def _files() -> Iterator[Callable[[], str]]:
    with tempfile.TemporaryDirectory() as folder:
        numbers = count()
        yield lambda: f"sqlite:///{folder}/{next(numbers)}.sqlite3"


@contextmanager
def _server(kind: type[databases.Server]) -> Iterator[Callable[[], str]]:
    with databases.running(kind) as server:
        yield server.new


DATABASES: dict[str, Callable[[], AbstractContextManager[Callable[[], str]]]] = {
    "sqlite": _files,
    "postgresql": lambda: _server(databases.PostgreSql),
    "mariadb": lambda: _server(databases.MariaDb),
}


if __name__ == "__main__":
    sys.exit(main())
