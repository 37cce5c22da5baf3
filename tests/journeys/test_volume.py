"""Much mail at once: through Postfix's smtp-sink, and by all that sends, beside one another."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest

from hostile import Hostile, polite
from ports import free_port
from worker_stage import BOUND, Eyes, wait_for

BIN = Path(sys.executable).parent
SINK = "/usr/sbin/smtp-sink"
PATIENCE = 100.0  # seconds, on a machine that has other things to do

APP = """
import os
from flask import Flask
from flask_outbox import Mail, Message

app = Flask(__name__, instance_path=os.environ["INSTANCE"])
app.config.update(MAIL_PORT=int(os.environ["SMTP_PORT"]), MAIL_DEFAULT_SENDER="shop@example.com")
mail = Mail(app)

@app.cli.command("put")
def put():
    for n in range(int(os.environ["COUNT"])):
        mail.send_later(Message(f"Order {n}", recipients=[f"n{n}@example.org"], body="Hello"))

@app.get("/")
def home():
    return str(os.getpid())
"""
FLASK = (sys.executable, "-m", "flask", "--app", "shop.py")
WORKER = (*FLASK, "outbox", "worker", "--processes", "2")
DRAIN = (*FLASK, "outbox", "drain")
GUNICORN = (
    BIN / "gunicorn", "--bind", "127.0.0.1:0", "--workers", "2", "--no-control-socket", "shop:app",
)  # fmt: skip


class Shop:
    """An app with so much mail in its outbox, and what may be run of it."""

    def __init__(self, folder: Path, smtp_port: int, count: int) -> None:
        self.eyes = Eyes(folder / "instance" / "outbox.sqlite3")
        self._folder = folder
        self._environment = {
            **os.environ,
            "INSTANCE": str(folder / "instance"),
            "SMTP_PORT": str(smtp_port),
            "COUNT": str(count),
        }
        (folder / "shop.py").write_text(textwrap.dedent(APP))
        (folder / "instance").mkdir()
        subprocess.run((*FLASK, "put"), cwd=folder, env=self._environment, check=True)

    @contextmanager
    def running(self, *command: object) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
        """Run it; give it, and the log of it."""
        log = self._folder / f"log-{command[-1]}"
        with log.open("wb") as output:
            program = subprocess.Popen(
                list(map(str, command)),
                cwd=self._folder, env=self._environment, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        try:
            yield program, log
        finally:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()

    def accepted(self) -> int:
        return self.eyes.count("state = 'accepted'")


def ended(program: subprocess.Popen[bytes]) -> int:
    program.terminate()
    return program.wait(BOUND)


@pytest.fixture
def sink():
    """Run smtp-sink; give its port, and the file that it writes each mail to."""
    folder = Path(tempfile.mkdtemp())
    port = free_port()
    command = [SINK, "-D", str(folder / "mails"), f"127.0.0.1:{port}", "100"]
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
        command[1:1] = ["-u", "nobody"]
    program = subprocess.Popen(command, cwd=folder)
    try:
        wait_for(lambda: answers(port))
        yield port, folder / "mails"
    finally:
        program.kill()
        program.wait()
        shutil.rmtree(folder)


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), BOUND) as line:
        return line.recv(4).startswith(b"220")
    return False


@pytest.mark.timeout(PATIENCE + 60)
def test_two_thousand_mails_arrive_at_smtp_sink_once_each(tmp_path, sink):
    port, mails = sink
    shop = Shop(tmp_path, port, count=2000)
    with shop.running(*WORKER) as (worker, _):
        wait_for(lambda: shop.accepted() == 2000, PATIENCE)
        assert ended(worker) == 0
    taken = re.findall(r"^Subject: Order (\d+)$", mails.read_text(), re.MULTILINE)
    assert Counter(map(int, taken)) == Counter(range(2000))
    assert shop.eyes.count("attempts = 1") == 2000


def workers(shop: Shop) -> int:
    return int(shop.eyes.rows("SELECT count(*) FROM outbox_worker WHERE lost_at IS NULL")[0][0])


@pytest.mark.timeout(PATIENCE + 60)
def test_a_server_workers_and_a_drain_empty_one_outbox_together_and_send_each_mail_once(tmp_path):
    go = threading.Event()

    def when_all_are_there(session):
        go.wait(PATIENCE)
        polite(session)

    with Hostile({"dot": when_all_are_there}) as relay:
        shop = Shop(tmp_path, relay.port, count=1000)
        with (
            shop.running(*GUNICORN) as (server, log),
            shop.running(*WORKER) as (worker, _),
            shop.running(*DRAIN) as (drain, _),
        ):
            home = wait_for(lambda: re.search(r"http://127\.0\.0\.1:\d+", log.read_text()))[0]
            wait_for(lambda: served_by(home) and workers(shop) == 2 + 2 + 1)
            wait_for(lambda: senders(shop) == 2 + 2 + 1)
            go.set()
            wait_for(lambda: shop.accepted() == 1000, PATIENCE)
            assert drain.wait(BOUND) == 0
            assert [ended(each) for each in (server, worker)] == [0, 0]
    assert len(relay.message_ids) == len(set(relay.message_ids)) == 1000
    assert workers(shop) == 0


def served_by(home: str) -> str:
    with urlopen(home, timeout=BOUND) as answer:  # noqa: S310  our own server
        return answer.read().decode()


def senders(shop: Shop) -> int:
    """Count the workers that have something under way."""
    query = "SELECT count(DISTINCT worker) FROM outbox_message WHERE started_at IS NOT NULL"
    return int(shop.eyes.rows(query)[0][0])
