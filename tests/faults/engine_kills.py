"""Kill Celery's workers at random while they send, restart the broker, and judge.

::

    python tests/faults/engine_kills.py --seed 7 --kills 500 --messages 20000
    python tests/faults/engine_kills.py --seed 7 --broker rabbitmq --database postgresql

One main process with a prefork pool of three and the beat inside; whoever is killed is replaced: a
child by its main process, that with all its children by this program, as an init system does. The
broker, which keeps nothing on disk, is restarted while mail is enqueued and sent. The seed fixes
the choices; how processes interleave is the machine's.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the tests' modules are

from random_kills import DATABASES, POINTS, ROWS, Killer, Print, act, lives, open_mails

from brokers import BROKERS, broker
from engine_app import create_app
from engine_stage import QUIET, later, on_broker
from faults_worker import PATIENCE, an_outbox
from hostile import Act, Hostile, Session
from kill_verdict import Row, Verdict, judge
from ports import free_port
from worker_stage import Eyes

POOL = 3
MAIN = 1 / 4  # of the kills from outside hit the main process
LEASE = 3.0
SWEEP = 1.0
LATE = 15.0  # seconds beyond two leases: until a new Celery works, on a broker that is new, too
ENOUGH = 0.4  # of the kills must hit a mail in flight: a main process has none
LOOK = 0.1


@dataclass
class Crew:
    """A Celery worker that is started again when it was killed."""

    folder: Path
    config: dict[str, Any]
    over: threading.Event = field(default_factory=threading.Event)
    mains: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def begin(self) -> None:
        """Start one."""
        here = Path(__file__)
        command = [sys.executable, "-m", "celery", "-A", "killed_engine:celery_app", "worker"]
        options = ["--pool", "prefork", "--concurrency", str(POOL), "--beat"]
        schedule = ["--schedule", str(self.folder / f"schedule-{len(self.mains)}")]
        with (self.folder / "celery.log").open("ab") as log:
            main = subprocess.Popen(
                [*command, *QUIET, *options, *schedule],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(here.parent), str(here.parents[1])]),
                    "ENGINE_APP": json.dumps(self.config),
                },
                cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.mains.append(main)

    def mind(self) -> None:
        """Start the next one whenever the latest has died."""
        while not self.over.wait(LOOK):
            if self.mains[-1].poll() is not None:
                self.clear(self.mains[-1])  # its beat lives on
                self.begin()

    def pids(self) -> list[int]:
        """List the processes of the latest; a number of an earlier one may be another's by now."""
        group = self.mains[-1].pid
        return [
            int(each.name)
            for each in Path("/proc").iterdir()
            if each.name.isdigit() and _group(int(each.name)) == group
        ]

    def speaker(self, session: Session) -> int:
        """Find who is at the other end of a line, or 0."""
        with suppress(OSError):
            near, far = session.sock.getpeername()[1], session.sock.getsockname()[1]
            link = f"socket:[{_inode(near, far)}]"
            for pid in self.pids():
                with suppress(OSError):
                    if any(
                        os.readlink(each) == link  # noqa: PTH115  text is compared
                        for each in Path(f"/proc/{pid}/fd").iterdir()
                    ):
                        return pid
        return 0

    def end(self) -> None:
        """Leave none of them."""
        self.over.set()
        main = self.mains[-1]
        main.terminate()
        with suppress(subprocess.TimeoutExpired):
            main.wait(15)
        self.clear(main)
        for each in self.mains:
            each.wait()

    @staticmethod
    def clear(main: subprocess.Popen[bytes]) -> None:
        """End what it started."""
        with suppress(ProcessLookupError):
            os.killpg(main.pid, signal.SIGKILL)


def _group(pid: int) -> int:
    with suppress(ProcessLookupError):
        return os.getpgid(pid)
    return 0


def _inode(near: int, far: int) -> str:
    """Find the socket that has these ports."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, *rest = line.split()
        if (local[-4:], remote[-4:]) == (f"{near:04X}", f"{far:04X}"):
            return rest[6]
    return ""


@dataclass
class Hunter(Killer):
    """Kills pool children, and now and then the main process."""

    crew: Crew | None = None

    def _victims(self) -> list[int]:
        assert self.crew is not None
        if self.chance.random() < MAIN and lives(self.crew.mains[-1].pid):
            return [self.crew.mains[-1].pid]
        return super()._victims()

    def die_with(self, pid: int) -> list[int]:
        """Celery has the kernel end the pool's children when their main process dies."""
        assert self.crew is not None
        if pid != self.crew.mains[-1].pid:
            return [pid]
        theirs = set(self.crew.pids())
        return [pid, *(each for each in super()._victims() if each in theirs)]


@dataclass
class Broker:
    """One of our own, on a port that stays."""

    name: str
    port: int = field(default_factory=free_port)
    runs: ExitStack = field(default_factory=ExitStack)

    def start(self) -> str:
        """Begin, with nothing in it."""
        return self.runs.enter_context(broker(self.name, own=True, port=self.port))

    def restart(self) -> None:
        """Lose all that was there."""
        self.runs.close()
        self.start()


def run(  # noqa: PLR0913  what a run is made of
    name: str,
    place: str,
    *,
    seed: int,
    kills: int,
    messages: int,
    restarts: int,
    seconds: float,
    tell: Callable[[str], object] = lambda _: None,
) -> Verdict:
    """Enqueue, send, kill, restart, wait for the end, judge."""
    an_outbox(place).upgrade()
    eyes = Eyes(place)
    chance = random.Random(seed)  # noqa: S311  to be repeated
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        middle = Broker(name)
        stack.callback(middle.runs.close)
        celery = on_broker(
            middle.start(),
            task_acks_late=chance.random() < 0.5,
            broker_connection_retry_on_startup=True,
            broker_connection_max_retries=None,
        )
        every = max(1, int(messages * len(POINTS) / (kills + 1) * 0.8))
        crew = Crew(folder, {})
        killer = Hunter(eyes, chance, kills, every, speaker=crew.speaker, crew=crew)
        killer.taken_over = 2 * LEASE + LATE
        script: dict[str, Act | list[Act]] = {point: act(point, killer) for point in POINTS}
        relay = stack.enter_context(Hostile(script))
        crew.config = {
            "instance": str(folder),
            "mail": {
                "MAIL_WORKER": "celery",
                "MAIL_PORT": relay.port,
                "MAIL_OUTBOX_URL": place,
                "MAIL_LEASE": LEASE,
                "MAIL_GIVE_UP": PATIENCE.give_up,
                "MAIL_CONNECTIONS": 2,
            },
            "celery": celery,
            "register": {"sweep": SWEEP},
        }
        crew.begin()
        stack.callback(crew.end)
        asked = stack.enter_context(enqueued(crew.config, messages))
        threading.Thread(target=crew.mind, daemon=True).start()
        end = time.monotonic() + seconds
        left, again = messages, [messages * n // (restarts + 1) for n in range(1, restarts + 1)]
        while left and time.monotonic() < end:
            if again and len(relay.accepted) >= again[0]:
                del again[0]
                middle.restart()
            left = messages - len(asked) + open_mails(eyes)
            tell(f"{left} to go, {len(killer.kills)} kills, {len(relay.accepted)} accepted")
            killer.look()
            time.sleep(0.25)
        accepted = relay.message_ids
    rows = {str(name): Row(*what) for name, *what in eyes.rows(ROWS)}
    return judge(
        rows,
        accepted,
        killer.kills,
        killer.stuck,
        patience=PATIENCE,
        wanted=kills,
        enough=ENOUGH,
    )


@contextmanager
def enqueued(config: dict[str, Any], messages: int) -> Iterator[list[str]]:
    """Let an app like the workers' enqueue in a thread; give the ids as they come."""
    app = create_app(config)
    over = threading.Event()
    ids: list[str] = []

    def enqueue() -> None:
        for number in range(messages):
            if over.is_set():
                return
            ids.append(later(app, f"n{number}"))

    thread = threading.Thread(target=enqueue)
    thread.start()
    try:
        yield ids
    finally:
        over.set()
        thread.join()
        app.extensions["outbox"].close()


def main() -> int:
    """Run on each broker and database, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--restarts", type=int, default=5, help="of the broker")
    parser.add_argument("--broker", choices=[*BROKERS, "all"], default="all")
    parser.add_argument("--database", choices=[*DATABASES, "all"], default="postgresql")
    parser.add_argument("--seconds", type=float, default=1800.0, help="give up after so long")
    asked = parser.parse_args()
    say = Print()
    say(f"seed {asked.seed}: {asked.kills} kills of Celery's processes, {asked.messages} messages")
    holds = True
    for database in DATABASES if asked.database == "all" else [asked.database]:
        with DATABASES[database]() as new:
            for name in BROKERS if asked.broker == "all" else [asked.broker]:
                before = time.monotonic()
                verdict = run(
                    name,
                    new(),
                    seed=asked.seed,
                    kills=asked.kills,
                    messages=asked.messages,
                    restarts=asked.restarts,
                    seconds=asked.seconds,
                    tell=say.rarely,
                )
                say(f"Celery on {name}, {database}, {time.monotonic() - before:.0f} s")
                for line in verdict.lines():
                    say(f"  {line}")
                holds = holds and verdict.holds
    say(f"the promise {'holds' if holds else 'DOES NOT HOLD'} (seed {asked.seed})")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
