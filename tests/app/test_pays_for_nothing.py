"""An app that only calls mail.send: no file, no table, no thread, no SQLAlchemy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hostile import Hostile


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

ALL_OF_IT = """
import sys, threading
from flask import Flask
from flask_outbox import Mail, Message
_, instance, how, port = sys.argv
app = Flask("shop", instance_path=instance)
app.config.update(MAIL_DEFAULT_SENDER="shop@example.com", MAIL_DEBUG=1)
if how == "by URL":
    app.config["MAIL_TRANSPORT"] = f"smtp://127.0.0.1:{port}"
else:
    app.config["MAIL_PORT"] = port
mail = Mail(app)
@mail.before_send
def mark(message):
    message.subject += "!"
@app.get("/")
def view():
    with mail.record_messages() as outbox:
        message = Message("hï", ["ä <a@münchen.example>"], "text", html="<p>HTML</p>")
        message.attach("ü.txt", "text/plain", "x")
        mail.send(message)
        mail.send_message("hi", ["ada@example.org"], "text")
        with mail.connect() as connection:
            connection.send(message)
    assert len(outbox) == 3
    assert mail.status("x") is None and not mail.cancel("x")
    return "ok"
assert app.test_client().get("/").text == "ok"
assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
heavy = {"sqlalchemy", "alembic", "sqlite3", "asyncio"}
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


@pytest.mark.parametrize("how", ["by keys", "by URL"])
def test_with_a_relay_in_another_process_there_is_no_thread_at_all(tmp_path, how):
    with Hostile() as server:
        run(ALL_OF_IT, str(tmp_path / "instance"), how, str(server.port))
        assert len(server.accepted) == 3
    assert not (tmp_path / "instance").exists()


def test_importing_the_package_is_light(tmp_path):
    run(LIGHT)


def test_the_pytest_plugin_is_light(tmp_path):
    run(PLUGIN)


def test_send_later_under_testing_loads_no_sqlalchemy(tmp_path):
    run(REHEARSE, str(tmp_path / "instance"))
    assert not (tmp_path / "instance").exists()
