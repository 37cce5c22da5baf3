"""The embedded worker under real application servers: forked, preloaded, threaded, green.

Requests enqueue, whichever process serves them; each mail is accepted once. After a restart, one
request that has nothing to do with mail sends what waits.
"""

import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from database_fixtures import KINDS, new_place
from hostile import Hostile
from worker_stage import BOUND, Eyes, wait_for

BIN = Path(sys.executable).parent

APP = """
import os
from flask import Flask
from flask_outbox import Mail, Message

app = Flask(__name__, instance_path=os.environ["INSTANCE"])
app.config.update(
    MAIL_SERVER="127.0.0.1",
    MAIL_PORT=int(os.environ["SMTP_PORT"]),
    MAIL_DEFAULT_SENDER="shop@example.com",
)
app.config.from_prefixed_env()
mail = Mail(app)

with app.app_context():  # before the server forks
    for each in range(int(os.environ.get("AT_IMPORT", "0"))):
        mail.send_later(Message("Up", recipients=[f"admin{each}@example.org"], body="I am up"))

@app.get("/send/<name>")
def send(name):
    return mail.send_later(Message("Hello", recipients=[f"{name}@example.org"], body="Hello"))

@app.get("/quiet")
def quiet():
    return str(os.getpid())
"""

GUNICORN = (BIN / "gunicorn", "--bind", "127.0.0.1:0", "--workers", "2", "--no-control-socket")
UWSGI = (
    BIN / "uwsgi", "--http-socket", "127.0.0.1:0", "--module", "served:app", "--master",
    "--processes", "2", "--die-on-term", "--need-app",
)  # fmt: skip
SERVERS = {
    "gunicorn": (*GUNICORN, "served:app"),
    "gunicorn, preloaded": (*GUNICORN, "--preload", "served:app"),
    "gunicorn, threads": (*GUNICORN, "--threads", "4", "served:app"),
    "gunicorn, gevent": (*GUNICORN, "--worker-class", "gevent", "served:app"),
    "gunicorn, gevent, preloaded": (
        *GUNICORN, "--worker-class", "gevent", "--preload", "served:app",
    ),
    "uwsgi": UWSGI,
    "uwsgi, loaded in each process": (*UWSGI, "--lazy-apps"),
    "uwsgi, four processes": (*UWSGI, "--processes", "4"),
    "uwsgi that tells of forks": (*UWSGI, "--py-call-osafterfork"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "served.py").write_text(textwrap.dedent(APP))
    (tmp_path / "instance").mkdir()
    return tmp_path


@pytest.fixture
def eyes(folder) -> Eyes:
    return Eyes(folder / "instance" / "outbox.sqlite3")


@contextmanager
def serving(
    folder: Path, command: tuple[object, ...], smtp_port: int, **environment: str
) -> Iterator[str]:
    """Run the server; it must end by itself when told to."""
    log = folder / "log"
    environment = {
        **environment,
        "INSTANCE": str(folder / "instance"),
        "SMTP_PORT": str(smtp_port),
        "PATH": str(BIN),
        "PYTHONPATH": str(folder),
        "VIRTUAL_ENV": str(BIN.parent),
    }
    with log.open("wb") as output:
        server = subprocess.Popen(
            list(map(str, command)),
            cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        port = wait_for(lambda: re.search(r"127\.0\.0\.1:([1-9]\d*)", log.read_text()))[1]
        wait_for(lambda: get(f"http://127.0.0.1:{port}/none")[0] == 404)
        yield f"http://127.0.0.1:{port}"
        server.send_signal(signal.SIGTERM)
        assert server.wait(BOUND) == 0, log.read_text()
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)  # and its workers
            server.wait()


def get(address: str) -> tuple[int, str]:
    try:
        with urlopen(address, timeout=BOUND) as answer:  # noqa: S310  our own server
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


@pytest.mark.parametrize("name", SERVERS)
def test_each_mail_of_many_requests_is_accepted_once_and_a_restart_sends_what_waits(
    folder, eyes, name
):
    with Hostile() as relay:
        with serving(folder, SERVERS[name], relay.port) as home:
            with ThreadPoolExecutor(4) as pool:
                asked = [f"{home}/send/n{i}" for i in range(24)]
                answers = list(pool.map(get, asked))
            assert {status for status, _ in answers} == {200}, (folder / "log").read_text()
            wait_for(lambda: eyes.count("state = 'accepted'") == 24)
        assert len(relay.message_ids) == len(set(relay.message_ids)) == 24
        [(row,)] = eyes.rows("SELECT id FROM outbox_message LIMIT 1")
        eyes.rows("UPDATE outbox_recipient SET state = 'queued', due_at = 0 WHERE message = ?", row)
        eyes.rows("UPDATE outbox_message SET state = 'queued', due_at = 0 WHERE id = ?", row)
        with serving(folder, SERVERS[name], relay.port) as home:
            assert get(f"{home}/quiet")[0] == 200
            wait_for(lambda: eyes.count("state = 'accepted'") == 24)
        assert len(relay.message_ids) == 25
    assert "Traceback" not in (folder / "log").read_text()


@pytest.mark.parametrize("name", ["uwsgi", "uwsgi, loaded in each process"])
def test_a_signal_that_ends_uwsgi_is_handled_by_no_thread_of_ours(folder, eyes, name):
    """It would end Python there, while the worker waits for the next request for ever."""
    with Hostile() as relay, serving(folder, SERVERS[name], relay.port) as home:
        assert get(f"{home}/send/ada")[0] == 200
        wait_for(lambda: eyes.count("state = 'accepted'") == 1)

        def one_that_sends():
            process = int(get(f"{home}/quiet")[1])
            return process if len(threads_of(process)) > 1 else 0

        process = wait_for(one_that_sends)
        blocked = {thread: blocked_in(process, thread) for thread in threads_of(process)}
    ending = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}
    assert not ending & blocked.pop(process)
    assert blocked
    assert [thread for thread, signals in blocked.items() if not ending <= signals] == []


def threads_of(process: int) -> list[int]:
    return [int(each.name) for each in Path(f"/proc/{process}/task").iterdir()]


def blocked_in(process: int, thread: int) -> set[int]:
    status = Path(f"/proc/{process}/task/{thread}/status").read_text()
    mask = int(re.search(r"SigBlk:\s*(\w+)", status)[1], 16)
    return {number for number in range(1, 65) if mask >> number - 1 & 1}


@pytest.mark.parametrize(
    "name", ["gunicorn, preloaded", "gunicorn, threads", "gunicorn, gevent, preloaded", "uwsgi"]
)
@pytest.mark.parametrize("kind", KINDS[1:])
def test_with_the_outbox_on_a_server_each_mail_is_accepted_once_too(request, folder, kind, name):
    place = new_place(request, kind, folder)
    eyes = Eyes(place)
    with Hostile() as relay:
        where = {"FLASK_MAIL_OUTBOX_URL": place}
        with serving(folder, SERVERS[name], relay.port, **where) as home:
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(get, [f"{home}/send/n{i}" for i in range(24)]))
            assert {status for status, _ in answers} == {200}, (folder / "log").read_text()
            wait_for(lambda: eyes.count("state = 'accepted'") == 24)
        assert len(relay.message_ids) == len(set(relay.message_ids)) == 24
    assert "Traceback" not in (folder / "log").read_text()


@pytest.mark.parametrize(
    "name",
    ["gunicorn, preloaded", "uwsgi, four processes", "uwsgi that tells of forks"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_an_app_sends_at_its_import_costs_no_later_mail(request, folder, kind, name):
    place = f"sqlite:///{folder / 'instance' / 'outbox.sqlite3'}"
    if kind != "sqlite":
        place = new_place(request, kind, folder)
    eyes = Eyes(place)
    where = {"FLASK_MAIL_OUTBOX_URL": place, "AT_IMPORT": "3"}
    with Hostile() as relay:
        with serving(folder, SERVERS[name], relay.port, **where) as home:
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(get, [f"{home}/send/n{i}" for i in range(40)]))
            assert {status for status, _ in answers} == {200}, (folder / "log").read_text()
            ids = {row for (row,) in eyes.rows("SELECT id FROM outbox_message")}
            assert {row for _, row in answers} <= ids
            wait_for(lambda: eyes.count("state = 'accepted'") == 43)
        assert len(relay.message_ids) == len(set(relay.message_ids)) == 43
    assert "Traceback" not in (folder / "log").read_text()
