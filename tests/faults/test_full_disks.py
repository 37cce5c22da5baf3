"""A disk that is full, a real one: a file system of a few megabytes in memory.

SQLite's is in test_worker_faults.py. Where a program may not mount, there is no such disk: run
these tests as root.
"""

import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from pwd import getpwnam

import pymysql
import pytest
from sqlalchemy import func, select

from databases import Server
from faults_worker import an_outbox
from flask_outbox.mail.errors import OutboxUnavailable
from flask_outbox.outbox.claim import claim
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.enqueue import enqueue
from flask_outbox.outbox.tables import message
from flask_outbox.worker.plan import Plan
from worker_stage import Eyes, Told, a_submission, at_work, put, wait_for

SIZE, ROOM = "16m", "200m"  # full, and with room again


@contextmanager
def disk(folder: Path, owner: str) -> Iterator[Callable[[], None]]:
    """Make a folder a small disk; give what makes room on it."""

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)

    ids = getpwnam(owner)
    mount(f"size={SIZE},mode=700,uid={ids.pw_uid},gid={ids.pw_gid}")
    try:
        yield lambda: mount(f"remount,size={ROOM}")
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def full_postgresql(server: Server) -> Iterator[tuple[str, Callable[[], None]]]:
    """A tablespace on it: the server's own log is elsewhere."""
    url = server.new()
    name = url.rpartition("/")[2]
    with tempfile.TemporaryDirectory(prefix="outbox-disk-") as folder:
        Path(folder).chmod(0o755)
        with disk(Path(folder), server.user) as make_room:
            server.ask(f"CREATE TABLESPACE small LOCATION '{folder}'")
            server.ask(f"ALTER DATABASE {name} SET TABLESPACE small")
            yield url, make_room
            server.ask(f"DROP DATABASE {name} WITH (FORCE)")
            server.ask("DROP TABLESPACE small")


@contextmanager
def full_mariadb(server: Server) -> Iterator[tuple[str, Callable[[], None]]]:
    """The folder of one database: the server's own log is elsewhere."""
    url = server.new()
    name = url.rpartition("/")[2]
    with disk(server.folder / "data" / name, server.user) as make_room:
        yield url, make_room
        with suppress(pymysql.err.OperationalError):  # the folder stays: it is a disk
            server.ask(f"DROP DATABASE {name}")


FULL = {"postgresql": full_postgresql, "mariadb": full_mariadb}


@dataclass
class Small:
    """An outbox on a small disk."""

    server: Server
    url: str
    make_room: Callable[[], None]
    outbox: Outbox
    eyes: Eyes


@pytest.fixture(params=FULL)
def small(request):
    server = request.getfixturevalue(request.param)
    with FULL[request.param](server) as (url, make_room):
        outbox = an_outbox(url, lease=30.0)
        outbox.upgrade()
        yield Small(server, url, make_room, outbox, Eyes(url))
        outbox.close()
        make_room()
        server.revive()


# MariaDB 10.11 ends itself where a rollback finds no room, as that of much content does.
FILLERS = {"postgresql": (200_000, 5_000), "mysql": (5_000,)}


def fill(outbox):
    """Leave no room."""
    for size in FILLERS[outbox.database.url.get_backend_name()]:
        fillers = (
            a_submission(f"f{size}-{number}", transport="nobody", content=b"x" * size)
            for number in count()
        )
        with pytest.raises(OutboxUnavailable, match="is full"):
            deque((put(outbox, each) for each in fillers), maxlen=0)


def test_on_a_full_disk_a_mail_is_an_error_in_the_callers_transaction_and_later_is_none(small):
    def write(*mails):
        with small.outbox.begin() as connection:
            for each in mails:
                enqueue(connection, small.outbox, each)

    mails = [a_submission(f"n{i}", content=b"x" * 5_000) for i in range(300)]
    fill(small.outbox)
    with pytest.raises(OutboxUnavailable, match="Make room"):
        write(*mails)
    # By a connection that is open: for a new one PostgreSQL may want to write a file of its own.
    assert is_there(small.outbox) == 0
    small.make_room()
    write(*mails)
    assert is_there(small.outbox) == 300
    assert len(claim(small.outbox, transports=["default"], limit=500, worker="w")) == 300


def is_there(outbox):
    ours = select(func.count()).where(message.c.transport == "default")
    with outbox.read() as connection:
        return connection.execute(ours).scalar_one()


MANY = 2000


def test_on_a_full_disk_nothing_goes_out_twice_and_a_worker_recovers_unaided(small):
    eyes, transport = small.eyes, Told()
    names = [f"<n{i}@example.com>" for i in range(MANY)]
    put(small.outbox, *(a_submission(f"n{i}") for i in range(MANY)))
    fill(small.outbox)
    plan = Plan(outbox=small.outbox, transports={"default": transport}, connections=2)
    with at_work(plan) as worker:
        wait_for(lambda: worker._troubles >= 3)
        begun, tries = len(transport.begun), worker._troubles
        wait_for(lambda: worker._troubles > tries)
        assert len(transport.begun) == begun < MANY  # what goes out could not be recorded
        small.make_room()
        small.server.revive()  # should it have ended itself
        wait_for(lambda: eyes.count("transport = 'default' AND state = 'accepted'") == MANY, 60.0)
    assert sorted(transport.sent) == sorted(names)
    assert eyes.count("transport = 'default' AND attempts <> 1") == 0
