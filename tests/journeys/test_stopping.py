"""Told to stop while nobody answers: a name that is looked up for ever, a relay that is away."""

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest

from worker_stage import BOUND, Eyes, wait_for

BIN = Path(sys.executable).parent

APP = """
import os, socket, threading
from pathlib import Path
from flask import Flask
from flask_outbox import Mail, Message

look_up = socket.getaddrinfo

def hangs(host, *more, **named):
    if host == "hangs.example":
        Path(os.environ["INSTANCE"], "looking-up").touch()
        threading.Event().wait()
    return look_up(host, *more, **named)

socket.getaddrinfo = hangs
app = Flask(__name__, instance_path=os.environ["INSTANCE"])
app.config.update(
    MAIL_SERVER=os.environ["SMTP_HOST"],
    MAIL_PORT=int(os.environ["SMTP_PORT"]),
    MAIL_DEFAULT_SENDER="shop@example.com",
    MAIL_GRACE=0.5,
)
mail = Mail(app)

@app.cli.command("put")
def put():
    mail.send_later(Message("Hello", recipients=["ada@example.org"], body="Hello"))

@app.get("/")
def home():
    return "ok"
"""
FLASK = (sys.executable, "-m", "flask", "--app", "shop.py")
PROGRAMS = {
    "worker": ((*FLASK, "outbox", "worker"), signal.SIGTERM),
    "worker, from the terminal": ((*FLASK, "outbox", "worker"), signal.SIGINT),
    "gunicorn": (
        (BIN / "gunicorn", "--bind", "127.0.0.1:0", "--no-control-socket", "shop:app"),
        signal.SIGTERM,
    ),
    "flask run": ((*FLASK, "run", "--port", "0"), signal.SIGINT),
}
DRAIN = ((*FLASK, "outbox", "drain"), signal.SIGTERM)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "shop.py").write_text(textwrap.dedent(APP))
    (tmp_path / "instance").mkdir()
    return tmp_path


@pytest.fixture
def nobody():
    """A port that is taken, and at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextmanager
def running(
    folder: Path, command: tuple[object, ...], host: str, port: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Put one mail in the outbox, and run what is to send it."""
    environment = {
        **os.environ,
        "INSTANCE": str(folder / "instance"),
        "SMTP_HOST": host,
        "SMTP_PORT": str(port),
    }
    subprocess.run((*FLASK, "put"), cwd=folder, env=environment, check=True)
    log = folder / "log"
    with log.open("wb") as output:
        program = subprocess.Popen(
            list(map(str, command)),
            cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        if command[-1] != "worker" and command[-1] != "drain":
            home = wait_for(lambda: re.search(r"http://127\.0\.0\.1:\d+", log.read_text()))[0]
            wait_for(lambda: answers(home))
        yield program
    finally:
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()
    assert "Traceback" not in log.read_text()


def answers(home: str) -> bool:
    with suppress(OSError), urlopen(home, timeout=BOUND) as answer:  # noqa: S310  our own server
        return answer.status == 200
    return False


@pytest.mark.parametrize(
    ("command", "number"), [*PROGRAMS.values(), DRAIN], ids=[*PROGRAMS, "drain"]
)
def test_while_a_name_is_looked_up_for_ever_it_ends(folder, nobody, command, number):
    with running(folder, command, "hangs.example", nobody) as program:
        wait_for((folder / "instance" / "looking-up").exists)
        program.send_signal(number)
        assert program.wait(BOUND) == 0, (folder / "log").read_text()
    eyes = Eyes(folder / "instance" / "outbox.sqlite3")
    assert eyes.count("state IN ('queued', 'sending')") == 1


@pytest.mark.parametrize(("command", "number"), PROGRAMS.values(), ids=PROGRAMS)
def test_while_a_relay_that_is_away_is_given_time_it_ends(folder, nobody, command, number):
    eyes = Eyes(folder / "instance" / "outbox.sqlite3")
    with running(folder, command, "127.0.0.1", nobody) as program:
        wait_for(lambda: eyes.rows("SELECT name FROM outbox_route WHERE failures > 0"))
        program.send_signal(number)
        assert program.wait(BOUND) == 0, (folder / "log").read_text()
    assert eyes.count("state = 'queued'") == 1
    assert eyes.rows("SELECT name FROM outbox_worker WHERE lost_at IS NULL") == []
