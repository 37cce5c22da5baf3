"""The workers' signs of life; nothing is decided by them, people look at them."""

from dataclasses import dataclass, fields

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.tables import worker
from flask_outbox.version import __version__

FORGOTTEN = 86400.0  # seconds after the last sign of life

_BEAT = update(worker).where(worker.c.name == bindparam("b_name"))
_FORGET = delete(worker).where(worker.c.beat_at < bindparam("before"))
_GONE = delete(worker).where(worker.c.name == bindparam("b_name"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker as it was last heard of; times by the database's clock."""

    name: str
    host: str
    pid: int
    version: str
    started_at: float
    beat_at: float


def heartbeat(outbox: Outbox, name: str, *, host: str, pid: int) -> None:
    """Say that this worker lives; forget those that have been silent for a day."""
    with outbox.begin() as connection:
        now = outbox.now(connection)
        beat = connection.execute(_BEAT, {"b_name": name, "beat_at": now})
        if beat.rowcount == 0:
            connection.execute(
                insert(worker),
                {
                    "name": name,
                    "host": host,
                    "pid": pid,
                    "version": __version__,
                    "started_at": now,
                    "beat_at": now,
                },
            )
            connection.execute(_FORGET, {"before": now - FORGOTTEN})


def goodbye(outbox: Outbox, name: str) -> None:
    """Say that this worker ends."""
    with outbox.begin() as connection:
        connection.execute(_GONE, {"b_name": name})


def workers(connection: Connection) -> list[Worker]:
    """List those that were heard of lately, whether they live or not."""
    names = [each.name for each in fields(Worker)]
    columns = [worker.c[name] for name in names]
    rows = connection.execute(select(*columns).order_by(worker.c.name)).mappings()
    return [Worker(**row) for row in rows]
