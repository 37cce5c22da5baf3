"""The embedded worker under Werkzeug's reloader: its parent runs the app's module, and no worker.

A mail that is sent later while the module is imported, in the parent and in the child, is accepted
once, and a worker of old code stays nowhere.
"""

import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from hostile import Hostile
from worker_stage import BOUND, Eyes, wait_for

APP = """
import logging, os, signal, sys, threading
from pathlib import Path
from flask import Flask
from flask_outbox import Mail, Message

logging.basicConfig(level=logging.INFO, format="%(process)d: %(message)s")
app = Flask(__name__, instance_path=os.environ["INSTANCE"])
app.config.update(
    MAIL_PORT=int(os.environ["SMTP_PORT"]),
    MAIL_DEFAULT_SENDER="shop@example.com",
)
mail = Mail(app)
with app.app_context():
    mail.send_later(Message("Started", recipients=["ops@example.org"], body="Hello"))

def tell(*_):
    names = " ".join(thread.name for thread in threading.enumerate())
    Path(os.environ["INSTANCE"], f"threads-{os.getpid()}").write_text(names)

signal.signal(signal.SIGUSR1, tell)

@app.get("/who")
def who():
    return str(os.getpid())

if __name__ == "__main__":
    app.run(port=0, **eval(os.environ["RUN"]))
"""

FLASK = ("-m", "flask", "--app", "served.py", "run", "--port", "0")
KNOWN = {
    "flask run --debug": (*FLASK, "--debug"),
    "flask run --reload": (*FLASK, "--reload", "--no-debugger"),
}
FOUND_OUT = {
    "app.run(debug=True)": "dict(debug=True)",
    "app.run(use_reloader=True)": "dict(use_reloader=True)",
}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "served.py").write_text(textwrap.dedent(APP))
    (tmp_path / "instance").mkdir()
    return tmp_path


@contextmanager
def reloading(folder: Path, *command: str, port: int, run: str = "") -> Iterator[tuple[int, int]]:
    """Run it; give the ids of the parent and of the child that serves."""
    environment = {
        **os.environ,
        "INSTANCE": str(folder / "instance"),
        "SMTP_PORT": str(port),
        "RUN": run,
    }
    log = folder / "log"
    with log.open("wb") as output:
        parent = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        home = wait_for(lambda: re.search(r"http://127\.0\.0\.1:\d+", log.read_text()))[0]
        with urlopen(f"{home}/who", timeout=BOUND) as answer:  # noqa: S310  our own server
            yield parent.pid, int(answer.read())
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()


def works(folder: Path, pid: int) -> bool:
    """Tell whether a worker lives in a process."""
    note = folder / "instance" / f"threads-{pid}"
    note.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR1)
    names = wait_for(lambda: note.exists() and note.read_text()).split()
    return "flask-outbox" in names


@pytest.mark.parametrize("command", KNOWN.values(), ids=KNOWN)
def test_under_flask_run_no_worker_begins_in_the_parent(folder, command):
    eyes = Eyes(folder / "instance" / "outbox.sqlite3")
    with Hostile() as relay:
        with reloading(folder, *command, port=relay.port) as (parent, child):
            wait_for(lambda: eyes.count("state = 'accepted'") == 2)
            assert (works(folder, parent), works(folder, child)) == (False, True)
        assert len(relay.message_ids) == len(set(relay.message_ids)) == 2
    begun = re.findall(r"^(\d+): worker \S+ begins", (folder / "log").read_text(), re.MULTILINE)
    assert [int(each) for each in begun] == [child]


@pytest.mark.parametrize("run", FOUND_OUT.values(), ids=FOUND_OUT)
def test_under_app_run_a_worker_leaves_the_parent_once_it_is_one(folder, run):
    eyes = Eyes(folder / "instance" / "outbox.sqlite3")
    with Hostile() as relay:
        with reloading(folder, "served.py", port=relay.port, run=run) as (parent, child):
            wait_for(lambda: eyes.count("state = 'accepted'") == 2)
            wait_for(lambda: not works(folder, parent))
            assert works(folder, child)
        assert len(relay.message_ids) == len(set(relay.message_ids)) == 2
