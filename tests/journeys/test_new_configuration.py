"""A configuration that changes under ``flask outbox worker``: nothing is lost, nothing doubled."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
import threading
from base64 import b64decode
from contextlib import contextmanager

import pytest

from database_fixtures import KINDS, new_place
from hostile import Hostile, hang_up, polite
from worker_stage import Eyes
from worker_stage import wait_for as wait_so_long_for

BOUND = 60.0  # seconds: each process begins with importing an app
MAILS = 1_000
FEW = 100  # where it is about how the password is read, and not about the mail

SHOP = """
    import logging
    import os
    from flask import Flask
    from flask_outbox import Mail

    def create_app():
        logging.basicConfig(level=os.environ["LEVEL"])
        app = Flask("shop", instance_path=os.path.abspath("instance"))
        app.config.update(
            SECRET_KEY="one key",
            MAIL_PORT=os.environ["RELAY"],
            MAIL_USERNAME="ada",
            MAIL_DEFAULT_SENDER="shop@example.com",
            MAIL_OUTBOX_URL=os.environ["PLACE"],
            MAIL_WORKER="process",
            MAIL_LEASE=4,
            MAIL_GRACE=0.5,
        )
        {configure}
        Mail(app)
        return app
"""
# How the app comes by its password: what it does for it, and the file that it stands in.
SOURCES = {
    "a secret's file": ('app.config["MAIL_PASSWORD_FILE"] = "secret"', "secret", "{}\n"),
    "a file of settings": (
        'app.config.from_pyfile(os.path.abspath("settings.cfg"))',
        "settings.cfg",
        "MAIL_PASSWORD = {!r}\n",
    ),
    "a .env file": (
        'app.config["MAIL_PASSWORD"] = os.environ["SHOP_PASSWORD"]',
        ".env",
        "SHOP_PASSWORD={}\n",
    ),
}
ENQUEUE = """
    import sys
    from flask_outbox import Mail, Message
    from shop import create_app
    app = create_app()
    with app.app_context():
        for number in range(int(sys.argv[1])):
            Mail().send_later(Message(f"{number}", [f"{number}@example.org"], "text"))
"""


def wait_for(condition, seconds=BOUND):
    return wait_so_long_for(condition, seconds)


class Shop:
    """An app in a folder, its commands, and its relay, which wants a password that changes."""

    def __init__(self, folder, source, place):
        configure, name, text = SOURCES[source]
        self.folder, self._file, self._text = folder, folder / name, text
        self.place = place
        (folder / "shop.py").write_text(
            textwrap.dedent(SHOP).replace("{configure}", configure), encoding="utf-8"
        )
        self.password = "first"
        self.level = "WARNING"  # of its log
        self.go = threading.Event()
        self.go.set()
        self.server = Hostile(
            {"AUTH": self._login, "MAIL": self._mail, "dot": self._dot}, auth="PLAIN"
        )
        self.eyes = Eyes(place)

    def _login(self, session):
        session.said = b64decode(session.line.split(b" ")[2]).split(b"\0")[2].decode()
        session.polite() if self._knows(session) else session.send(b"535 5.7.8 no\r\n")

    def _mail(self, session):  # a line that was logged in with what is no password any more
        session.polite() if self._knows(session) else hang_up(session)

    def _dot(self, session):
        self.go.wait(BOUND)
        polite(session)

    def _knows(self, session):
        return session.said == self.password

    def configure(self, password):
        self._file.write_text(self._text.format(password), encoding="utf-8")

    def environment(self):
        # As a service's: what stands in .env is not in it.
        where = {"RELAY": str(self.server.port), "PLACE": self.place, "PWD": str(self.folder)}
        return {**os.environ, **where, "LEVEL": self.level}

    def flask(self, *arguments):
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "shop", "outbox", *arguments],
            cwd=self.folder, env=self.environment(), capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    def enqueue(self, count):
        program = [sys.executable, "-c", textwrap.dedent(ENQUEUE), str(count)]
        environment = {**self.environment(), "SHOP_PASSWORD": "of no use here"}
        subprocess.run(program, cwd=self.folder, env=environment, check=True)

    @contextmanager
    def worker(self, *options):
        log = self.folder / "log"
        with log.open("w") as stderr:
            program = subprocess.Popen(
                [sys.executable, "-m", "flask", "--app", "shop", "outbox", "worker", *options],
                cwd=self.folder, env=self.environment(), stderr=stderr, start_new_session=True,
            )  # fmt: skip
        try:
            yield program
        finally:
            if program.poll() is None:
                program.kill()
            program.wait()
            print(log.read_text())  # noqa: T201  for whoever looks at a failure

    def log(self):
        return (self.folder / "log").read_text()

    def pids(self):
        return {pid for (pid,) in self.eyes.rows("SELECT pid FROM outbox_worker")}


FILE = "a secret's file", "sqlite"


@pytest.fixture(params=[FILE], ids=" on ".join)
def shop(tmp_path, request):
    source, kind = request.param
    shop = Shop(tmp_path, source, new_place(request, kind, tmp_path))
    shop.configure("first")
    shop.flask("upgrade")
    with shop.server:
        yield shop
        shop.go.set()


@pytest.mark.parametrize(
    ("shop", "mails"),
    [
        *(((FILE[0], kind), MAILS) for kind in KINDS),
        *(((source, "sqlite"), FEW) for source in SOURCES if source != FILE[0]),
    ],
    indirect=["shop"],
)
def test_the_relays_password_changes_and_no_attempt_is_used_up(shop, mails):
    with shop.worker("--processes", "2") as program:
        shop.enqueue(1)
        wait_for(lambda: shop.eyes.count("state = 'accepted'") == 1)
        old = wait_for(lambda: len(shop.pids()) == 2 and shop.pids())
        shop.password = "second"
        shop.enqueue(mails)
        wait_for(lambda: shop.eyes.rows("SELECT 1 FROM outbox_route WHERE failures > 0"))
        assert shop.eyes.count("state IN ('queued', 'sending')") == mails

        shop.configure("second")
        assert shop.flask("stats").count("other settings than this app") == 2
        program.send_signal(signal.SIGHUP)
        wait_for(lambda: shop.eyes.count("state = 'accepted'") == mails + 1)
        wait_for(lambda: not old & shop.pids() and len(shop.pids()) == 2)
        assert "other settings" not in shop.flask("stats")
        program.terminate()
        assert program.wait(BOUND) == 0
    assert len(set(shop.server.message_ids)) == len(shop.server.message_ids) == mails + 1
    assert shop.eyes.rows("SELECT max(attempts) FROM outbox_message") == [(1,)]
    assert shop.eyes.rows("SELECT max(attempts) FROM outbox_recipient") == [(1,)]
    assert not shop.pids()
    assert "second" not in shop.log()


def test_what_is_under_way_is_finished_by_the_old_worker_however_long_it_takes(shop):
    shop.go.clear()
    shop.enqueue(12)
    with shop.worker() as program:
        (old,) = wait_for(shop.pids)
        wait_for(lambda: "DATA" in shop.server.verbs())
        program.send_signal(signal.SIGHUP)
        (new,) = wait_for(lambda: shop.pids() - {old})
        begun = "SELECT count(*) FROM outbox_message WHERE worker LIKE ? AND started_at IS NOT NULL"
        wait_for(lambda: not shop.eyes.count("state = 'sending' AND started_at IS NULL"))
        under_way = shop.eyes.rows(begun, f"%:{old}:%")[0][0]
        assert under_way
        assert not wait_until_gone(old, 4.0)  # the grace is over
        shop.go.set()
        wait_for(lambda: shop.eyes.count("state = 'accepted'") == 12)
        wait_for(lambda: shop.pids() == {new})
    assert len(set(shop.server.message_ids)) == len(shop.server.message_ids) == 12


def test_a_configuration_that_cannot_work_leaves_the_old_workers_at_work(shop):
    with shop.worker("--processes", "2") as program:
        old = wait_for(lambda: len(shop.pids()) == 2 and shop.pids())
        whole = (shop.folder / "shop.py").read_text()
        (shop.folder / "shop.py").write_text("def create_app(:\n")
        program.send_signal(signal.SIGHUP)
        wait_for(lambda: "send SIGHUP again" in shop.log())
        (shop.folder / "shop.py").write_text(whole)
        shop.enqueue(3)
        wait_for(lambda: shop.eyes.count("state = 'accepted'") == 3)
        assert shop.pids() == old

        os.kill(min(old), signal.SIGKILL)  # what comes in its place has its configuration
        wait_for(lambda: len(shop.pids() - old) == 1)
        program.send_signal(signal.SIGHUP)
        now = shop.pids()
        wait_for(lambda: len(shop.pids() - now - old) == 2)
        program.terminate()
        assert program.wait(BOUND) == 0
    assert shop.log().count("send SIGHUP again") == 1


def test_one_that_dies_after_the_change_is_replaced_by_one_that_reads_anew(shop):
    with shop.worker() as program:
        (first,) = wait_for(shop.pids)
        program.send_signal(signal.SIGHUP)
        wait_for(lambda: shop.pids() - {first})
        wait_for(lambda: first not in shop.pids())
        (second,) = shop.pids()
        program.send_signal(signal.SIGHUP)  # and once more, from one that was started so
        wait_for(lambda: shop.pids() - {second})
        wait_for(lambda: second not in shop.pids())
        (third,) = shop.pids()
        shop.password = "second"
        shop.configure("second")
        os.kill(third, signal.SIGKILL)
        shop.enqueue(1)
        wait_for(lambda: shop.eyes.count("state = 'accepted'") == 1)
        program.terminate()
        assert program.wait(BOUND) == 0


def test_new_workers_come_one_by_one_and_an_old_one_goes_when_a_new_one_works(shop):
    shop.level = "INFO"
    with shop.worker("--processes", "3") as program:
        old = wait_for(lambda: len(shop.pids()) == 3 and shop.pids())
        before = len(shop.log())
        program.send_signal(signal.SIGHUP)
        wait_for(lambda: not old & shop.pids() and len(shop.pids()) == 3)
        program.terminate()
        assert program.wait(BOUND) == 0
    told = re.findall(r"worker process (\d+) (started|takes the place)", shop.log()[before:])
    new = [pid for pid, what in told if what == "started"]
    assert len(new) == 3
    assert told == [(pid, what) for pid in new for what in ("started", "takes the place")]


def test_told_to_stop_while_it_replaces_it_ends_all(shop):
    with shop.worker("--processes", "3") as program:
        wait_for(lambda: len(shop.pids()) == 3)
        program.send_signal(signal.SIGHUP)
        wait_for(lambda: "worker process" in shop.log() or shop.pids())
        program.terminate()
        assert program.wait(BOUND) == 0
    wait_for(lambda: not shop.pids())


def test_stats_say_in_words_and_in_json_what_a_worker_has_of_another(shop):
    with shop.worker() as program:
        wait_for(shop.pids)
        assert "than this app" not in shop.flask("stats")
        (one,) = json.loads(shop.flask("stats", "--json"))["workers"]
        assert one["differs"] == []
        text = (shop.folder / "shop.py").read_text()
        (shop.folder / "shop.py").write_text(text.replace("one key", "other key"))
        assert "has another SECRET_KEY than this app" in shop.flask("stats")
        (one,) = json.loads(shop.flask("stats", "--json"))["workers"]
        assert one["differs"] == ["secret"]
        program.terminate()
        assert program.wait(BOUND) == 0


def test_when_its_terminal_goes_it_ends_as_before(tmp_path):
    shop = Shop(tmp_path, FILE[0], f"sqlite:///{tmp_path / 'outbox.sqlite3'}")
    shop.configure("first")
    shop.flask("upgrade")
    with shop.server:
        pid, terminal = pty.fork()
        if not pid:
            os.chdir(tmp_path)
            command = [sys.executable, "-m", "flask", "--app", "shop", "outbox", "worker"]
            os.execve(command[0], command, shop.environment())  # noqa: S606  ours
        (child,) = wait_for(shop.pids)
        os.close(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert wait_until_gone(child, 5.0)


def wait_until_gone(pid, seconds):
    try:
        wait_for(lambda: not lives(pid), seconds)
    except AssertionError:
        return False
    return True


def lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
