"""Kill web processes at random while they take orders, and judge: each order has its mail.

::

    python tests/faults/web_kills.py --seed 7 --kills 300
    python tests/faults/web_kills.py --seed 7 --kills 300 --database postgresql

The web processes are gunicorn's: two, with four threads each, which also send what they wrote down
(the embedded worker). The seed fixes the choices; how processes interleave is the machine's.
"""

import argparse
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the tests' modules are

from killed_shop import shop_of
from random_kills import DATABASES, IN_FLIGHT, ROWS, Print, lives, open_mails

from faults_worker import PATIENCE
from hostile import Hostile
from kill_verdict import Kill, Row, Verdict, judge
from ports import free_port
from shop import close
from worker_stage import Eyes

PROCESSES, THREADS, CLIENTS = 2, 4, 6
BETWEEN = 12  # answers between two kills, on average
WITHIN = 0.02  # seconds after a request began in which its process is killed, at most
AGAIN = 0.5  # share of the broken requests that are sent once more, with the same key
TALE = 30.0  # seconds that a request may take


@dataclass
class Orders:
    """What the clients asked for and were told."""

    asked: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)
    broken: int = 0
    refused: Counter[int] = field(default_factory=Counter)  # by status
    under_way: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def begin(self, name: str) -> None:
        with self.changed:
            self.asked.add(name)
            self.under_way += 1
            self.changed.notify_all()

    def end(self, name: str, status: int) -> None:
        with self.changed:
            self.under_way -= 1
            if status == http.HTTPStatus.OK:
                self.told.add(name)
            elif status:
                self.refused[status] += 1
            else:
                self.broken += 1
            self.changed.notify_all()

    def wait(self, condition: Callable[["Orders"], bool]) -> bool:
        """Wait for it, within reason."""
        with self.changed:
            return self.changed.wait_for(lambda: condition(self), TALE)


@dataclass
class Judged:
    """A verdict over mails, and one over orders."""

    mails: Verdict
    orders: int
    broken: int
    wrong: list[str]

    @property
    def holds(self) -> bool:
        """Whether the promise was kept."""
        return self.mails.holds and not self.wrong

    def lines(self) -> Iterator[str]:
        """Print it."""
        yield f"orders                 {self.orders}, each with its mail" * (not self.wrong)
        yield f"requests broken off    {self.broken}"
        yield from self.mails.lines()
        yield from (f"WRONG {each}" for each in self.wrong[:20])


def client(
    port: int, names: Iterator[str], orders: Orders, over: threading.Event, seed: int
) -> None:
    """Order one thing after the other; what broke is repeated, or not."""
    chance = random.Random(seed)  # noqa: S311  to be repeated
    while not over.is_set():
        name = next(names)
        while not ask(port, name, orders) and chance.random() < AGAIN:
            pass


def ask(port: int, name: str, orders: Orders) -> bool:
    """Order something; tell whether it was confirmed."""
    orders.begin(name)
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=TALE)
    status = 0
    try:
        line.request("POST", f"/order/{name}")
        status = line.getresponse().status
    except (OSError, http.client.HTTPException):
        pass
    finally:
        line.close()
        orders.end(name, status)
    return status == http.HTTPStatus.OK


def killer(
    program: subprocess.Popen[bytes], orders: Orders, eyes: Eyes, chance: random.Random, wanted: int
) -> list[Kill]:
    """Kill so many processes, each while a request is under way."""
    kills: list[Kill] = []
    while len(kills) < wanted:
        enough = len(orders.told) + chance.randint(1, 2 * BETWEEN)
        assert orders.wait(lambda orders, enough=enough: len(orders.told) >= enough), "it hangs"
        assert orders.wait(lambda orders: orders.under_way > 0)
        time.sleep(chance.uniform(0.0, WITHIN))  # where in it, chance says
        pids = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
        if not pids:
            continue
        pid = int(chance.choice(pids))
        os.kill(pid, signal.SIGKILL)
        while lives(pid):
            time.sleep(0.001)
        in_flight = eyes.rows(IN_FLIGHT, f"%:{pid}:%")
        kills.append(Kill("request", frozenset(str(name) for (name,) in in_flight)))
    return kills


@contextmanager
def served(given: dict[str, object], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run gunicorn with the shop."""
    here = Path(__file__)
    program = subprocess.Popen(
        [
            *(sys.executable, "-m", "gunicorn", "killed_shop:create_app()", "--preload"),
            *("--bind", f"127.0.0.1:{port}", "--log-level", "critical"),
            *("--workers", str(PROCESSES), "--threads", str(THREADS)),
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(here.parent), str(here.parents[1])]),
            "KILLED_SHOP": json.dumps(given),
        },
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + TALE
        while not answers(port):
            assert program.poll() is None, "gunicorn ended"
            assert time.monotonic() < until, "gunicorn does not answer"
            time.sleep(0.05)
        yield program
    finally:
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()


def answers(port: int) -> bool:
    """Tell whether somebody listens there."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def run(  # noqa: PLR0913  what a run is made of
    place: str,
    *,
    seed: int,
    kills: int,
    seconds: float,
    careless: bool = False,
    tell: Callable[[str], object] = lambda _: None,
) -> Judged:
    """Serve, order, kill, wait for the end, judge; ``careless``: a shop that breaks the promise."""
    chance = random.Random(seed)  # noqa: S311  to be repeated
    orders, over, eyes = Orders(), threading.Event(), Eyes(place)
    names = map("n{}".format, count())
    with ExitStack() as stack:
        instance = stack.enter_context(tempfile.TemporaryDirectory())
        relay = stack.enter_context(Hostile())
        mail = {"MAIL_PORT": relay.port, "MAIL_LEASE": 2, "MAIL_GIVE_UP": PATIENCE.give_up}
        given = {"place": place, "instance": instance, "mail": mail, "careless": careless}
        shop = shop_of(given)
        with shop.app.app_context():
            shop.db.create_all()
        close(shop)
        port = free_port()
        program = stack.enter_context(served(given, port))
        clients = [
            threading.Thread(target=client, args=(port, names, orders, over, seed + number))
            for number in range(CLIENTS)
        ]
        for each in clients:
            each.start()
        try:
            done = killer(program, orders, eyes, chance, kills)
        finally:
            over.set()
            for each in clients:
                each.join()
        end = time.monotonic() + seconds
        while (left := open_mails(eyes)) and time.monotonic() < end:
            tell(f"{left} to go, {len(done)} kills, {len(relay.accepted)} accepted")
            time.sleep(0.25)
        program.terminate()
        with suppress(subprocess.TimeoutExpired):
            program.wait(20)
        accepted = relay.message_ids
    rows = {str(name): Row(*what) for name, *what in eyes.rows(ROWS)}
    return Judged(
        judge(rows, accepted, done, patience=PATIENCE, wanted=kills, enough=0.0),
        len(eyes.rows("SELECT name FROM shop_order")),
        orders.broken,
        list(wrongs(eyes, orders, kills)),
    )


def wrongs(eyes: Eyes, orders: Orders, kills: int) -> Iterator[str]:
    """Compare what was asked for, what was confirmed, what is kept and what has a mail."""
    kept = Counter(str(name) for (name,) in eyes.rows("SELECT name FROM shop_order"))
    mailed = Counter(
        str(address).removesuffix("@example.org")
        for (address,) in eyes.rows("SELECT address FROM outbox_recipient")
    )
    yield from (f"{name} was ordered {count} times" for name, count in kept.items() if count > 1)
    yield from (f"{name} has {count} mails" for name, count in mailed.items() if count > 1)
    yield from (f"{name} has no mail" for name in kept.keys() - mailed)
    yield from (f"{name} has a mail and was not ordered" for name in mailed.keys() - kept)
    yield from (f"{name} was confirmed and is not there" for name in orders.told - kept.keys())
    yield from (f"{name} was never asked for" for name in kept.keys() - orders.asked)
    yield from (f"{count} answers were {status}" for status, count in orders.refused.items())
    if orders.broken < kills / 4:
        yield f"only {orders.broken} requests were broken off by {kills} kills"


def main() -> int:
    """Run on each database, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--database", choices=[*DATABASES, "all"], default="all")
    parser.add_argument("--seconds", type=float, default=300.0, help="to send what is left")
    asked = parser.parse_args()
    say = Print()
    say(f"seed {asked.seed}: {asked.kills} kills of web processes on each database")
    holds = True
    for name in DATABASES if asked.database == "all" else [asked.database]:
        before = time.monotonic()
        with DATABASES[name]() as new:
            judged = run(
                new(), seed=asked.seed, kills=asked.kills, seconds=asked.seconds, tell=say.rarely
            )
        say(f"{name}, {time.monotonic() - before:.0f} s")
        for line in judged.lines():
            say(f"  {line}")
        holds = holds and judged.holds
    say(f"the promise {'holds' if holds else 'DOES NOT HOLD'} (seed {asked.seed})")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
