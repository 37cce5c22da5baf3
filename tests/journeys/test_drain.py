"""``flask outbox drain`` as a program, and what signals mean to it."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hostile import Hostile, polite
from worker_stage import BOUND, Eyes, wait_for

APP = """
import os
from flask import Flask
from flask_outbox import Mail, Message

app = Flask(__name__, instance_path=os.environ["INSTANCE"])
app.config.update(
    MAIL_PORT=int(os.environ["SMTP_PORT"]),
    MAIL_DEFAULT_SENDER="shop@example.com",
    MAIL_CONNECTIONS=1,
)
app.config.from_prefixed_env("SHOP")
mail = Mail(app)

@app.cli.command("put")
def put():
    for n in range(int(os.environ["COUNT"])):
        mail.send_later(Message("Hello", recipients=[f"n{n}@example.org"], body="Hello"))
"""
FLASK = (sys.executable, "-m", "flask", "--app", "shop.py")
WAITING = "state = 'sending' AND started_at IS NULL"


@pytest.fixture
def eyes(tmp_path) -> Eyes:
    return Eyes(tmp_path / "instance" / "outbox.sqlite3")


@pytest.fixture
def slow():
    """A server that answers the content only once it is let go."""
    go = threading.Event()

    def hold(session) -> None:
        go.wait(BOUND)
        polite(session)

    with Hostile({"dot": hold}) as server:
        server.go = go
        yield server
        go.set()


@contextmanager
def draining(
    folder: Path, port: int, count: int = 60, options: tuple[str, ...] = (), **settings: object
) -> Iterator[subprocess.Popen[str]]:
    """Put so much into the outbox, and drain it."""
    (folder / "shop.py").write_text(textwrap.dedent(APP))
    (folder / "instance").mkdir()
    environment = {
        **os.environ,
        **{f"SHOP_MAIL_{name.upper()}": str(value) for name, value in settings.items()},
        "INSTANCE": str(folder / "instance"),
        "SMTP_PORT": str(port),
        "COUNT": str(count),
    }
    subprocess.run((*FLASK, "put"), cwd=folder, env=environment, check=True)
    program = subprocess.Popen(
        (*FLASK, "outbox", "drain", *options),
        cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with program:
        try:
            yield program
        finally:
            program.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_what_is_under_way_finish_and_gives_back_the_rest(
    tmp_path, eyes, slow, number
):
    with draining(tmp_path, slow.port) as program:
        wait_for(lambda: "DATA" in slow.verbs())
        wait_for(lambda: eyes.count(WAITING))
        program.send_signal(number)
        wait_for(lambda: not eyes.count(WAITING))
        assert program.poll() is None
        slow.go.set()
        said, complaints = program.communicate(timeout=BOUND)
    begun = len(slow.message_ids)
    assert (program.returncode, said) == (0, f"Tried {begun} message{'s' * (begun > 1)}.\n")
    assert "Traceback" not in complaints
    assert 1 <= begun <= 4
    assert eyes.count("state = 'accepted'") == begun
    assert eyes.count("state = 'queued' AND attempts = 0") == 60 - begun


def test_after_its_seconds_it_finishes_what_is_under_way_and_says_that_something_is_left(
    tmp_path, eyes, slow
):
    with draining(tmp_path, slow.port, options=("--seconds", "1")) as program:
        wait_for(lambda: "DATA" in slow.verbs())
        wait_for(lambda: eyes.count("state = 'queued'") >= 56 and not eyes.count(WAITING))
        assert program.poll() is None
        slow.go.set()
        _, complaints = program.communicate(timeout=BOUND)
    begun = len(slow.message_ids)
    assert program.returncode == 1
    assert "Something that is due could not be sent yet." in complaints
    assert 1 <= begun <= 4
    assert eyes.count("state = 'accepted'") == begun


def test_a_second_signal_abandons_and_the_lease_brings_the_mail_back(tmp_path, eyes, slow):
    with draining(tmp_path, slow.port, grace=60) as program:
        wait_for(lambda: "DATA" in slow.verbs())
        wait_for(lambda: eyes.count(WAITING))
        program.terminate()
        wait_for(lambda: not eyes.count(WAITING))
        program.terminate()
        assert program.wait(BOUND) == 0
    assert (
        eyes.rows("SELECT pid FROM outbox_worker WHERE lost_at IS NULL") == []
    )  # it left by itself
    assert 1 <= eyes.count("state = 'sending' AND started_at IS NOT NULL") <= 4


def test_the_grace_bounds_a_send_that_hangs(tmp_path, eyes, slow):
    with draining(tmp_path, slow.port, grace=0.5) as program:
        wait_for(lambda: "DATA" in slow.verbs())
        before = time.monotonic()
        program.terminate()
        assert program.wait(BOUND) == 0
        assert time.monotonic() - before >= 0.4
    assert eyes.rows("SELECT pid FROM outbox_worker WHERE lost_at IS NULL") == []


def test_told_to_stop_while_the_database_is_locked_it_ends_too(tmp_path, eyes, slow):
    with draining(tmp_path, slow.port, grace=0.2) as program:
        wait_for(lambda: "DATA" in slow.verbs())
        with eyes.lock():
            program.terminate()
            assert program.wait(25.0) == 0


def test_a_signal_that_is_ignored_stays_so(tmp_path, eyes, slow):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with draining(tmp_path, slow.port, count=12) as program:
            wait_for(lambda: "DATA" in slow.verbs())
            program.send_signal(signal.SIGHUP)
            slow.go.set()
            assert program.communicate(timeout=BOUND)[0] == "Tried 12 messages.\n"
    finally:
        signal.signal(signal.SIGHUP, before)
    assert eyes.count("state = 'accepted'") == 12
