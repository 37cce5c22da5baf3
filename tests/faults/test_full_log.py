"""The disk under the log is full: no mail is failed by it, and none goes twice."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hostile import Hostile
from worker_stage import Eyes, wait_for

TESTS = Path(__file__).parents[1]
MAILS = 20

APP = """
import logging, os, sys
from flask import Flask
from flask_outbox import Mail, Message, message_sent

strict = os.environ["LOG"] == "raises"

class Full(logging.FileHandler):
    def handleError(self, record):
        with open("complaints", "a") as complaints:
            complaints.write(record.name + chr(10))
        if strict:  # as handlers do that want to be heard
            raise
        super().handleError(record)

logger = logging.getLogger("flask_outbox" if strict else None)
logger.addHandler(Full("/dev/full"))
logger.setLevel(logging.DEBUG)

app = Flask("shop", instance_path=os.path.abspath("instance"))
app.config.update(
    MAIL_PORT=os.environ["RELAY"],
    MAIL_DEFAULT_SENDER="shop@example.com",
    MAIL_DEBUG=not strict,
    MAIL_WORKER=os.environ["WORKER"],
)
mail = Mail(app)

def breaks(sender, **named):
    raise RuntimeError("a listener broke, which is a line in the log")

message_sent.connect(breaks)

def later(count):
    with app.app_context():
        for i in range(count):
            mail.send_later(Message("hi", [f"n{i}@example.org"], "text"))
"""

EMBEDDED = f"""
import sys
sys.path.append({str(TESTS)!r})
from pathlib import Path
from shop import later
from worker_stage import Eyes, wait_for

later({MAILS})
eyes = Eyes(Path("instance/outbox.sqlite3"))
wait_for(lambda: eyes.count("state = 'accepted'") == {MAILS})
"""

NOW = """
from shop import Message, app, mail, message_sent, breaks
message_sent.disconnect(breaks)  # of a mail that is sent now, its caller hears what broke
with app.app_context():
    assert mail.send(Message("hi", ["n0@example.org"], "text")).accepted
"""


@pytest.fixture
def relay():
    with Hostile() as relay:
        yield relay


@pytest.fixture(params=["is full", "raises"])
def start(request, tmp_path, relay):
    """Start a program of the shop, where no log line can be written, nor any complaint of it."""
    (tmp_path / "shop.py").write_text(APP)
    with Path("/dev/full").open("w") as full:

        def start(*arguments, worker):
            return subprocess.Popen(
                [sys.executable, *arguments],
                cwd=tmp_path,
                env={
                    **os.environ,
                    "LOG": request.param,
                    "RELAY": str(relay.port),
                    "WORKER": worker,
                },
                stderr=full,
            )

        yield start


def assert_each_went_once(relay, folder):
    wanted = sorted(f"n{i}@example.org" for i in range(MAILS))
    assert sorted(address for mail in relay.accepted for address in mail.recipients) == wanted
    file = folder / "instance" / "outbox.sqlite3"
    assert Eyes(file).count("state = 'accepted' AND attempts = 1") == MAILS
    heard = set((folder / "complaints").read_text().split())
    assert {"flask_outbox", "flask_outbox.worker", "flask_outbox.outbox"} <= heard


def test_an_apps_own_worker_sends_each_mail_once(start, relay, tmp_path):
    with start("-c", EMBEDDED, worker="embedded") as program:
        assert program.wait(60) == 0
    assert_each_went_once(relay, tmp_path)


def test_a_worker_process_sends_each_mail_once(start, relay, tmp_path):
    with start("-c", f"import shop; shop.later({MAILS})", worker="process") as program:
        assert program.wait(60) == 0
    eyes = Eyes(tmp_path / "instance" / "outbox.sqlite3")
    with start("-m", "flask", "--app", "shop.py", "outbox", "worker", worker="process") as program:
        try:
            wait_for(lambda: eyes.count("state = 'accepted'") == MAILS)
        finally:
            program.terminate()
        assert program.wait(60) == 0
    assert_each_went_once(relay, tmp_path)


def test_a_mail_that_is_sent_now_goes_once_and_its_caller_hears_of_it(start, relay):
    with start("-c", NOW, worker="process") as program:
        assert program.wait(60) == 0
    assert len(relay.accepted) == 1
