"""The workers' signs of life, and what each runs with; nothing is decided by them, people look.

A worker that ends says goodbye, and its row is gone. One that is silent for two leases without
that has stopped beating: whichever worker marks it first tells it. A drain is seldom there when
somebody looks, so it leaves its row for a day, marked as ended, until the next like it begins.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields

from sqlalchemy import Connection, bindparam, delete, insert, or_, select, update

from flask_outbox.mail.errors import Contended, InDoubt, OutboxUnavailable
from flask_outbox.mail.say import Say
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.keyless import bring_back
from flask_outbox.outbox.routes import probe_now
from flask_outbox.outbox.tables import REVISION, worker
from flask_outbox.version import __version__

log = Say("flask_outbox.outbox")

SILENT = 2  # leases without a sign of life, then it is lost
FORGOTTEN = 86400.0  # seconds after the last sign of life

_w = worker.c
_BEAT = update(worker).where(_w.name == bindparam("b_name")).values(lost_at=None)
_BEATEN = (
    select(_w.beat_at)
    .where(_w.name == bindparam("b_name"))
    .with_for_update()  # the server may still be about a commit whose answer nobody hears
)
_SILENT = select(_w.name).where(_w.beat_at < bindparam("before"))
_FORGET = delete(worker).where(_w.name.in_(bindparam("names", expanding=True)))
_GONE = delete(worker).where(_w.name == bindparam("b_name"))
_ENDED = (
    update(worker)
    .where(_w.name == bindparam("b_name"))
    .values(beat_at=bindparam("now"), lost_at=bindparam("now"))
)
_IS_SILENT = (
    _w.lost_at.is_(None),
    # Further ahead than that: the clock was set back since.
    or_(_w.beat_at < bindparam("before"), _w.beat_at > bindparam("ahead")),
)
_SILENT_ONES = select(_w.name).where(*_IS_SILENT, _w.name != bindparam("me")).order_by(_w.name)
_LOST = (
    update(worker)
    .where(_w.name == bindparam("b_name"), *_IS_SILENT)
    .values(lost_at=bindparam("now"))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Badge:
    """What a worker or an app runs with; None where that is not known.

    ``settings`` and ``secret`` are keyed hashes, made by whoever knows the settings and the
    SECRET_KEY: two are equal or not, and say nothing else.
    """

    version: str = __version__
    schema: str | None = REVISION
    settings: str | None = None
    secret: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker as it was last heard of; times by the database's clock."""

    name: str
    host: str
    pid: int
    version: str
    schema: str | None = None
    settings: str | None = None
    secret: str | None = None
    started_at: float
    beat_at: float
    lost_at: float | None = None  # when it was found to beat no more; or beat_at: it has ended

    @property
    def has_ended(self) -> bool:
        """Whether it was a drain that ended by itself: nobody misses it."""
        return self.lost_at == self.beat_at

    @property
    def badge(self) -> Badge:
        """What it ran with."""
        return Badge(**{each.name: getattr(self, each.name) for each in fields(Badge)})

    def differs(self, badge: Badge) -> tuple[str, ...]:
        """Name what it runs with another of; what either does not know is not compared.

        Settings are hashed with the SECRET_KEY, so those of another key cannot be compared.
        """
        names = [each.name for each in fields(badge)]
        pairs = {name: (getattr(self, name), getattr(badge, name)) for name in names}
        others = tuple(
            name for name, pair in pairs.items() if None not in pair and len({*pair}) > 1
        )
        return tuple(name for name in others if name != "settings" or "secret" not in others)


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker stopped beating, and did not say goodbye."""

    worker: Worker
    silent: float  # seconds

    def __str__(self) -> str:
        return (
            f"Worker {self.worker.name} stopped beating: it was last heard of"
            f" {self.silent:.0f} s ago."
        )


UNKNOWN = Badge()


def heartbeat(  # noqa: PLR0913  who says so, and of whom
    outbox: Outbox,
    name: str,
    *,
    host: str,
    pid: int,
    badge: Badge = UNKNOWN,
    misses: bool = True,
) -> list[WorkerLost]:
    """Say that this worker lives; give those that it is the first to find silent.

    ``misses``: whether who is silent is missed, as nobody is whose database was away.
    With its first beat it forgets those that have been silent for a day, and drains like itself
    that have ended. It says so where others have another SECRET_KEY, unless one of those drains
    did. If nobody runs with the same settings, perhaps it was the settings: what is held back for
    its key is due at once, and if there are others, paused routes are probed at once.
    """
    lost: list[WorkerLost] = []
    strangers: list[str] = []
    is_new, now = False, 0.0
    try:
        with outbox.begin() as connection:
            now = outbox.now(connection)
            lost = _lost(connection, name, now, SILENT * outbox.lease) if misses else []
            beat = connection.execute(_BEAT, {"b_name": name, "beat_at": now})
            if beat.rowcount == 0:
                others = workers(connection)
                known = {"name": name, "host": host, "pid": pid, **asdict(badge)}
                connection.execute(insert(worker), {**known, "started_at": now, "beat_at": now})
                strangers, is_new = _look_round(connection, others, host, badge, now)
    except InDoubt:  # what it found would be found, and told, by nobody any more
        if not _has_beaten(outbox, name, now):
            raise
    for each in lost:
        log.error("%s", each)
    if strangers:
        log.error(
            "Worker %s has another SECRET_KEY than %s: give every host that sends the same.",
            name,
            ", ".join(strangers),
        )
    if is_new:
        with suppress(OutboxUnavailable, Contended):  # they leave by themselves, though later
            bring_back(outbox)
    return lost


def _look_round(
    connection: Connection, others: Sequence[Worker], host: str, badge: Badge, now: float
) -> tuple[list[str], bool]:
    """Tell who has another SECRET_KEY, and whether nobody runs with the same settings."""
    # Looked for first: a DELETE that searches would wait for every row that others beat.
    silent = connection.execute(_SILENT, {"before": now - FORGOTTEN}).scalars().all()
    before = _like(others, host, badge)
    if over := sorted({*silent, *before}):
        connection.execute(_FORGET, {"names": over})
    is_new = badge.settings not in {None, *(each.settings for each in others)}
    if is_new and others:
        probe_now(connection, now)
    return [] if before else _strangers(others, badge), is_new


def _has_beaten(outbox: Outbox, name: str, at: float) -> bool:
    """Tell whether a beat whose commit was in doubt was written."""
    with outbox.begin() as connection:
        return connection.execute(_BEATEN, {"b_name": name}).scalar() == at


def _lost(connection: Connection, me: str, now: float, silence: float) -> list[WorkerLost]:
    """Mark who is silent; a row that somebody else marked, or that beat again, is left alone."""
    terms = {"before": now - silence, "ahead": now + silence}
    names = connection.execute(_SILENT_ONES, {**terms, "me": me}).scalars().all()
    ours = {
        name
        for name in names
        if connection.execute(_LOST, {**terms, "b_name": name, "now": now}).rowcount == 1
    }
    if not ours:
        return []
    return [
        WorkerLost(each, abs(now - each.beat_at))
        for each in workers(connection)
        if each.name in ours
    ]


def _like(others: Iterable[Worker], host: str, badge: Badge) -> list[str]:
    """Name the drains that have ended and ran with the same on the same host."""
    return [
        each.name for each in others if each.has_ended and (each.host, each.badge) == (host, badge)
    ]


def _strangers(others: Iterable[Worker], badge: Badge) -> list[str]:
    return [
        each.name
        for each in others
        if (each.lost_at is None or each.has_ended) and "secret" in each.differs(badge)
    ]


def goodbye(outbox: Outbox, name: str) -> None:
    """Say that this worker ends."""
    with outbox.begin() as connection:
        connection.execute(_GONE, {"b_name": name})


def end(outbox: Outbox, name: str) -> None:
    """Say that this drain ends, and leave for a day what it ran with."""
    with outbox.begin() as connection:
        connection.execute(_ENDED, {"b_name": name, "now": outbox.now(connection)})


def workers(connection: Connection) -> list[Worker]:
    """List those that were heard of lately, whether they live, were lost or have ended."""
    names = [each.name for each in fields(Worker)]
    columns = [worker.c[name] for name in names]
    rows = connection.execute(select(*columns).order_by(worker.c.name)).mappings()
    return [Worker(**row) for row in rows]
