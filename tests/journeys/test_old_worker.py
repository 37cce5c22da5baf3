"""First the schema, then the code: a worker of the release before works on the schema of this one.

The release before is the newest tag, where this is no release itself; until there is one, the code
as it was committed last.
"""

import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from flask import Flask

from app_server import running
from flask_outbox import Mail, Message, State
from worker_stage import BOUND, wait_for

TOP = Path(__file__).parents[2]
PROGRAM = """
import json, os
from flask import Flask
import flask_outbox

assert flask_outbox.__file__.startswith(os.environ["PYTHONPATH"])
app = Flask("shop", instance_path=os.environ["INSTANCE"])
app.config.update(json.loads(os.environ["CONFIG"]))
flask_outbox.Mail(app)
"""


def git(*arguments, within=TOP):
    return subprocess.run(["git", *arguments], cwd=within, capture_output=True, check=True).stdout


def the_release_before(repository):
    newest = ("tag", "--list", "v*", "--sort=-version:refname")
    here = git("tag", "--points-at", "HEAD", within=repository).split()
    tags = [each for each in git(*newest, within=repository).split() if each not in here]
    return tags[0].decode() if tags else "HEAD"


def test_on_a_released_commit_the_release_before_is_another_one(tmp_path):
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    git("init", "--quiet", within=tmp_path)
    found = []
    for tag in ("v0.9.0", "v0.10.0", None):
        git(*who, "commit", "--quiet", "--allow-empty", "--message", "A change", within=tmp_path)
        if tag:
            git("tag", tag, within=tmp_path)
        found.append(the_release_before(tmp_path))
    assert found == ["HEAD", "v0.9.0", "v0.10.0"]


@pytest.fixture
def code_before(tmp_path):
    """A folder with the package of the release before."""
    archive = git("archive", "--format=tar", the_release_before(TOP), "src")
    with tarfile.open(fileobj=BytesIO(archive)) as packed:
        packed.extractall(tmp_path / "before", filter="data")
    return tmp_path / "before" / "src"


def test_an_old_worker_sends_what_a_new_app_wrote_into_a_new_schema(place, code_before, tmp_path):
    with running() as relay:
        config = {
            "MAIL_PORT": relay.port,
            "MAIL_DEFAULT_SENDER": "shop@example.com",
            "MAIL_WORKER": "process",
            "MAIL_OUTBOX_URL": place,
        }
        app = Flask("shop", instance_path=str(tmp_path / "instance"))
        app.config.update(config)
        mail = Mail(app)
        with app.app_context():
            plain = Message("Hello", ["ada@example.org"], "Hello")
            rows = [mail.send_later(plain), mail.send_later(plain, priority="urgent", key="one")]
        (tmp_path / "made.py").write_text(PROGRAM)
        with (tmp_path / "log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "flask", "--app", "made", "outbox", "worker"],
                cwd=tmp_path,
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": str(code_before),
                    "INSTANCE": str(tmp_path / "instance"),
                    "CONFIG": app.json.dumps(config),
                },
                stdout=log,
                stderr=log,
            )
        try:
            wait_for(
                lambda: (
                    worker.poll() is not None
                    or all(mail.status(row).state is State.ACCEPTED for row in rows)
                )
            )
            worker.terminate()
            assert worker.wait(BOUND) == 0, (tmp_path / "log").read_text()
        finally:
            worker.kill()
            worker.wait()
        assert len(relay.taken) == 2
        app.extensions["outbox"].close()
