"""A stage for engines: an app in the test, and a program beside it that sends its mail."""

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from celery import Celery
from flask import Flask

from brokers import broker
from engine_app import create_app
from flask_outbox import Mail, Message
from hostile import Hostile
from worker_stage import BOUND, Eyes, wait_for

TESTS = Path(__file__).parent
LEASE = 2.0
ENDS_WITHIN = 60.0  # seconds: a child of Celery's may wait 30 s for a parent that hears no more
CELERY = {"MAIL_WORKER": "celery"}
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO")


@dataclass
class Stage:
    """One outbox, one app in the test, programs besides."""

    folder: Path
    smtp_port: int
    place: str = ""  # the outbox's URL; by default a file in the folder
    mail: dict[str, Any] = field(default_factory=dict)
    celery: dict[str, Any] = field(default_factory=dict)
    register: dict[str, Any] | None = field(default_factory=dict)
    apps: list[Flask] = field(default_factory=list)
    politely: bool = True  # whether programs are asked to end, which Celery takes its time for

    def config(self, **mail: Any) -> dict[str, Any]:
        where = {"MAIL_OUTBOX_URL": self.place} if self.place else {}
        given = {"MAIL_PORT": self.smtp_port, "MAIL_LEASE": LEASE, "MAIL_GRACE": 8, **self.mail}
        config = {"instance": str(self.folder), "mail": {**where, **given, **mail}}
        return (
            {**config, "celery": self.celery, "register": self.register} if self.celery else config
        )

    def app(self, **mail: Any) -> Flask:
        """Make the app here, as a web process has it."""
        app = create_app(self.config(**mail))
        self.apps.append(app)
        return app

    @property
    def eyes(self) -> Eyes:
        return Eyes(self.place or self.folder / "outbox.sqlite3")

    def heard(self, name: str = "", row: str = "") -> list[dict[str, Any]]:
        """What the listeners heard, wherever they were."""
        with suppress(FileNotFoundError):
            lines = map(json.loads, (self.folder / "heard").read_text().splitlines())
            return [
                each for each in lines if name in {"", each["signal"]} and row in {"", each["id"]}
            ]
        return []

    def log(self) -> str:
        return "\n".join(each.read_text(errors="replace") for each in self.folder.glob("*.log"))

    @contextmanager
    def program(
        self, command: list[str], ready: str, **mail: Any
    ) -> Iterator["subprocess.Popen[bytes]"]:
        """Run something with the app, wait until it says that it is ready, and end it."""
        file = self.folder / f"{uuid.uuid4().hex}.log"
        with file.open("wb") as log:
            running = subprocess.Popen(
                [sys.executable, "-m", *command],
                env={
                    **os.environ,
                    "PYTHONFAULTHANDLER": "1",
                    "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
                    "ENGINE_APP": json.dumps(self.config(**mail)),
                },
                cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            wait_for(lambda: re.search(ready, file.read_text()) or running.poll() is not None)
            assert running.poll() is None, self.log()
            yield running
            if self.politely and running.poll() is None:
                running.send_signal(signal.SIGTERM)
                try:
                    running.wait(ENDS_WITHIN)
                except subprocess.TimeoutExpired:
                    os.killpg(running.pid, signal.SIGABRT)  # each says where it is
                assert running.wait(BOUND) == 0, self.log()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()

    def celery_worker(self, pool: str = "prefork", concurrency: int = 2, *more: str, **mail: Any):
        """Run a Celery worker; ``--beat`` among the options runs the sweep with it."""
        pools = ["--pool", pool, "--concurrency", str(concurrency)]
        beat = ["--schedule", str(self.folder / "schedule")] if "--beat" in more else []
        command = ["celery", "-A", "engine_app:celery_app", "worker", *QUIET, *pools, *more, *beat]
        return self.program(command, r"celery@\S+ ready", **mail)

    def web_process(self, **mail: Any):
        """Run a process that serves requests, with the worker inside."""
        return self.program(["engine_app"], "ready", **mail)

    def outbox_worker(self, **mail: Any):
        """Run ``flask outbox worker``."""
        return self.program(["flask", "--app", "engine_app", "outbox", "worker"], "begins", **mail)

    def close(self) -> None:
        for app in self.apps:
            app.extensions["outbox"].close()


def on_broker(url: str, **conf: Any) -> dict[str, Any]:
    """Configure Celery for a broker that others may use besides."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    options = {"global_keyprefix": f"{name}:"} if url.startswith("redis") else {}
    return {
        "broker_url": url,
        "task_default_queue": name,
        "task_ignore_result": True,
        "worker_enable_remote_control": False,
        **conf,
        "broker_transport_options": {**options, **conf.get("broker_transport_options", {})},
    }


@contextmanager
def staged(folder: Path, relay: Hostile, name: str = "redis", **conf: Any) -> Iterator[Stage]:
    """Make a stage with Celery, on a broker of that name."""
    with broker(name) as url:
        celery = on_broker(url, **conf)
        stage = Stage(folder, relay.port, mail=CELERY, celery=celery, register={"sweep": None})
        try:
            yield stage
        finally:
            stage.close()
            clean(celery)


def all_accepted(stage: Stage, count: int) -> bool:
    return stage.eyes.count("state = 'accepted'") == count


def clean(conf: dict[str, Any]) -> None:
    """Leave nothing at the broker."""
    queue = conf["task_default_queue"]
    if conf["broker_url"].startswith("redis"):
        with redis.Redis.from_url(conf["broker_url"]) as client:
            for key in client.scan_iter(f"{queue}:*"):
                client.delete(key)
        return
    with Celery(broker=conf["broker_url"]).connection_for_write() as connection:
        channel = connection.channel()
        channel.queue_delete(queue)
        channel.exchange_delete(queue)


def tasks_at(conf: dict[str, Any]) -> int:
    """Count the tasks that wait at the broker."""
    app = Celery()
    app.config_from_object(conf)
    with app.connection_for_read() as connection:
        channel = connection.channel()
        if conf["broker_url"].startswith("redis"):
            return int(channel.client.llen(conf["task_default_queue"]))
        return int(channel.queue_declare(conf["task_default_queue"], passive=True).message_count)


def task_at(conf: dict[str, Any]) -> Any:
    """Take the first task from the broker, as kombu's message."""
    app = Celery()
    app.config_from_object(conf)
    with app.connection_for_read() as connection:
        return connection.SimpleQueue(conf["task_default_queue"]).get(block=False)


def later(app: Flask, *names: str, at_most_once: bool = False, **options: Any) -> str:
    """Send a mail later, by the names that its recipients have."""
    to: list[Any] = [f"{name}@example.org" for name in names]
    message = Message("Hello", to, "Hello", at_most_once=at_most_once)
    with app.app_context():
        return Mail().send_later(message, **options)
