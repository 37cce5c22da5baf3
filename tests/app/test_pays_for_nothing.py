"""An app that only calls mail.send: no file, no table, no thread, no SQLAlchemy."""

import os
import subprocess
import sys
from pathlib import Path


def run(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


SEND = """
import sys, threading
from flask import Flask
from flask_outbox import Mail, Message
from hostile import Hostile
sys.modules.pop("asyncio", None)
with Hostile() as server:
    before = set(threading.enumerate())
    app = Flask("shop", instance_path=sys.argv[1])
    app.config.update(MAIL_PORT=server.port, MAIL_DEFAULT_SENDER="shop@example.com")
    mail = Mail(app)
    @app.get("/")
    def view():
        mail.send(Message("hi", ["ada@example.org"], "text"))
        with mail.connect() as connection:
            connection.send(Message("hi", ["ada@example.org"], "text"))
        return "ok"
    assert app.test_client().get("/").text == "ok"
    ours = {each for each in threading.enumerate() if each.name.startswith("flask-outbox")}
    assert not ours, ours
    assert len(server.accepted) == 2
heavy = {"sqlalchemy", "alembic", "sqlite3", "asyncio", "email_validator", "idna",
    "flask_outbox.outbox.database", "flask_outbox.worker.loop", "flask_outbox.wire.aio",
    "flask_outbox.app.cli"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""

LIGHT = """
import sys
import flask_outbox
heavy = {"flask", "smtplib", "sqlalchemy", "asyncio", "email_validator", "ssl"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
from flask_outbox import MessageError, Receipt
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""

PLUGIN = """
import sys, pytest
before = set(sys.modules)
import flask_outbox.app.testing
new = set(sys.modules) - before
assert new <= {"flask_outbox", "flask_outbox.app", "flask_outbox.app.testing"}, new
"""

REHEARSE = """
import sys
from flask import Flask
from flask_outbox import Mail, Message
app = Flask("shop", instance_path=sys.argv[1])
app.config.update(TESTING=True, MAIL_DEFAULT_SENDER="shop@example.com")
mail = Mail(app)
with app.app_context():
    mail.send_later(Message("hi", ["ada@example.org"], "text"))
assert "sqlalchemy" not in sys.modules
"""


def test_sending_alone_makes_no_file_no_thread_and_loads_no_sqlalchemy(tmp_path):
    run(SEND, str(tmp_path / "instance"))
    assert not (tmp_path / "instance").exists()


def test_importing_the_package_is_light(tmp_path):
    run(LIGHT)


def test_the_pytest_plugin_is_light(tmp_path):
    run(PLUGIN)


def test_send_later_under_testing_loads_no_sqlalchemy(tmp_path):
    run(REHEARSE, str(tmp_path / "instance"))
    assert not (tmp_path / "instance").exists()
