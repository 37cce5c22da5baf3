"""A stage for a worker: an outbox in a file, transports that do as they are told, and eyes."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import NullPool, create_engine, make_url, text

from flask_outbox.mail.exchange import Conversation, Report, Token
from flask_outbox.mail.outcome import Accepted, Outcome
from flask_outbox.mail.submission import Receipt, Submission
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.enqueue import enqueue
from flask_outbox.outbox.schedule import Schedule
from flask_outbox.transports.base import Carries
from flask_outbox.worker.loop import Worker
from flask_outbox.worker.plan import Plan

BOUND = 20.0  # seconds after which a wait of a test has failed
ACCEPTED = Accepted("250 ok", "7F3")


def a_submission(name: str = "one", **changes: Any) -> Submission:
    given: dict[str, Any] = {
        "sender": "shop@example.com",
        "recipients": (f"{name}@example.org",),
        "content": f"Message-ID: <{name}@example.com>\r\n\r\nHello {name}\r\n".encode(),
        "message_id": f"<{name}@example.com>",
        "date": 0.0,
    }
    return Submission(**{**given, **changes})


def put(outbox: Outbox, *submissions: Submission, schedule: Schedule | None = None) -> list[str]:
    with outbox.begin() as connection:
        return [enqueue(connection, outbox, each, schedule or Schedule()) for each in submissions]


def wait_for(condition: Callable[[], Any], seconds: float = BOUND) -> Any:
    """Look again and again; what is looked at has no way to tell."""
    tick, end = threading.Event(), time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it never came about"
        tick.wait(0.005)
    return found


class Eyes:
    """Looks at the database as another program would."""

    def __init__(self, place: Path | str) -> None:
        url = make_url(str(place) if "://" in str(place) else f"sqlite:///{place}")
        options: dict[str, Any] = {"timeout": 30.0}
        if url.drivername == "postgresql":
            options = {"options": "-c search_path=flask_outbox,public"}
            url = url.set(drivername="postgresql+psycopg")
        elif url.drivername == "mysql":
            options = {}
            url = url.set(drivername="mysql+pymysql")
        self._engine = create_engine(
            url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=options
        )

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask; each value stands where ``?`` does."""
        for number in range(len(values)):
            query = query.replace("?", f":v{number}", 1)
        given = {f"v{number}": value for number, value in enumerate(values)}
        with self._engine.connect() as connection:
            found = connection.execute(text(query), given)
            return [tuple(row) for row in found] if found.returns_rows else []

    def states(self) -> dict[str, str]:
        """Give message id → state."""
        return dict(self.rows("SELECT message_id, state FROM outbox_message"))

    def count(self, where: str) -> int:
        return int(self.rows(f"SELECT count(*) FROM outbox_message WHERE {where}")[0][0])  # noqa: S608  ours

    def one(self, column: str, name: str = "one") -> Any:
        query = f"SELECT {column} FROM outbox_message WHERE message_id = ?"  # noqa: S608  ours
        return self.rows(query, f"<{name}@example.com>")[0][0]

    def change(self, statement: str) -> None:
        self.rows(statement)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Let nobody write a message, as another program that does not let go."""
        before, after = _LOCKS[self._engine.dialect.name]
        with self._engine.connect() as connection:
            for each in before:
                connection.exec_driver_sql(each)
            yield
            for each in after:
                connection.exec_driver_sql(each)

    def waiting(self) -> int:
        """Count who waits for a lock, where the database tells."""
        return int(self.rows(_WAITING[self._engine.dialect.name])[0][0])


_LOCKS = {
    "sqlite": (["BEGIN IMMEDIATE"], ["ROLLBACK"]),
    "postgresql": (["BEGIN", "LOCK TABLE outbox_message IN EXCLUSIVE MODE"], ["ROLLBACK"]),
    "mysql": (["LOCK TABLES outbox_message READ"], ["UNLOCK TABLES"]),
}
_WAITING = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'",
    "mysql": "SELECT count(*) FROM information_schema.processlist WHERE state LIKE 'Waiting for%'",
}


class Told:
    """A transport that does what the test tells it.

    ``outcomes`` by message id; ``holds``: an event by message id that is waited for, as if the
    far side took its time.
    """

    name = "told"

    def __init__(self, window: int = 4) -> None:
        self.carries = Carries(window=window)
        self.outcomes: dict[str, Outcome | Exception] = {}
        self.holds: dict[str, threading.Event] = {}
        self.windows: list[list[str]] = []
        self.begun: list[str] = []
        self.sent: list[str] = []
        self.at_first_byte: Callable[[Submission], None] = lambda _: None

    def hold(self, name: str) -> threading.Event:
        return self.holds.setdefault(f"<{name}@example.com>", threading.Event())

    def send(self, submissions: Sequence[Submission]) -> Conversation:
        self.windows.append([each.message_id for each in submissions])
        for each in submissions:
            self.begun.append(each.message_id)
            self.at_first_byte(each)
            if hold := self.holds.get(each.message_id):
                yield Token(lambda hold=hold: str(hold.wait(BOUND)))
            outcome = self.outcomes.get(each.message_id, ACCEPTED)
            if isinstance(outcome, Exception):
                raise outcome
            self.sent.append(each.message_id)
            yield Report(each, Receipt.same(each, outcome))


@contextmanager
def at_work(plan: Plan) -> Iterator[Worker]:
    """Run a worker in a thread of its own; let it leave at the end."""
    worker = Worker(plan)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(BOUND)
        worker.abandon()
        assert not thread.is_alive()
