"""What every engine must do: whoever sends, the same becomes of each mail, and the same is heard.

Subclass it and override ``engine``::

    class TestMine(EngineContract):
        @pytest.fixture(scope="class")
        @classmethod
        def engine(cls):
            def run(stage, **mail):  # a context: a program that sends, until it gets SIGTERM
                return stage.program(["my_worker"], "ready", **mail)

            return Kind(run, {"MAIL_WORKER": "process"}, {})

The app in the test, the *desk*, only writes down; a program beside it sends. One day at work is
played once for a class, and told in several tests.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from app_server import Server, running
from engine_stage import Stage, later
from flask_outbox import Mail, State
from hostile import Hostile
from worker_stage import BOUND, wait_for

REFUSED = "550 5.1.1 no such person"
LATER = "451 4.2.1 later"


@dataclass
class Kind:
    """How one engine is run, and what the desk is told of it."""

    run: Callable[..., AbstractContextManager["Popen[bytes]"]]
    desk: dict[str, Any]
    worker: dict[str, Any]
    celery: dict[str, Any] = field(default_factory=dict)
    register: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def stage(self, folder: Path, port: int) -> Iterator[Stage]:
        """Make a stage for it."""
        stage = Stage(folder, port, celery=self.celery, register=self.register)
        try:
            yield stage
        finally:
            stage.close()

    def at_work(self, stage: Stage, **mail: Any) -> AbstractContextManager["Popen[bytes]"]:
        """Run it."""
        return self.run(stage, **self.worker, **mail)


@dataclass
class Day:
    """What was sent later, by name, and what became of it."""

    ids: dict[str, str]
    states: dict[str, Any]
    attempts: dict[str, int]
    heard: list[dict[str, Any]]
    relay: Server

    def signals(self, name: str) -> list[str]:
        """What the listeners heard of it, in order."""
        return [
            each["signal"]
            for each in self.heard
            if each["id"] == self.ids[name] and each["signal"] != "email_dispatched"
        ]

    def order(self) -> list[str]:
        """Whose mail was accepted, in order."""
        return [each.recipients[0].partition("@")[0] for each in self.relay.taken]


class EngineContract:
    """The suite."""

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Kind:
        """The engine under test."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def day(cls, engine, tmp_path_factory) -> Iterator[Day]:
        answers = {"refused@example.org": REFUSED, "later@example.org": LATER}
        folder = tmp_path_factory.mktemp("day")
        with running(answers) as relay, engine.stage(folder, relay.port) as stage:
            desk = stage.app(**engine.desk)
            plan = {
                **{f"bulk{n}": {"priority": "bulk"} for n in range(12)},
                **{name: {} for name in ("good", "refused", "later", "cancelled")},
                "expired": {"expires": timedelta(seconds=0.01)},
                "urgent": {"priority": "urgent"},
                "tomorrow": {"delay": timedelta(days=1)},
            }
            ids = {name: later(desk, name, **options) for name, options in plan.items()}
            too_late = time.time() + 0.01
            with desk.app_context():
                assert Mail().cancel(ids["cancelled"])
            wait_for(lambda: time.time() > too_late)
            mail = {"MAIL_CONNECTIONS": 1}
            with engine.at_work(stage, **mail):
                wait_for(lambda: stage.heard("message_deferred", ids["later"]))
                del answers["later@example.org"]
                wait_for(lambda: stage.eyes.count("state IN ('queued', 'sending')") == 1)
                wait_for(lambda: len(stage.heard("message_sent")) == 15)
            with desk.app_context():
                assert not Mail().cancel(ids["good"])
                found = {name: Mail().status(row) for name, row in ids.items()}
            yield Day(
                ids,
                {name: status.state for name, status in found.items()},
                {name: status.attempts for name, status in found.items()},
                stage.heard(),
                relay,
            )

    def test_each_mail_ends_in_the_state_of_its_outcome(self, day):
        assert day.states == {
            **{f"bulk{n}": State.ACCEPTED for n in range(12)},
            **dict.fromkeys(("good", "urgent", "later"), State.ACCEPTED),
            "refused": State.FAILED,
            "cancelled": State.CANCELLED,
            "expired": State.EXPIRED,
            "tomorrow": State.QUEUED,
        }

    def test_each_mail_is_accepted_once_and_no_other_is_sent(self, day):
        bulk = [f"bulk{n}" for n in range(12)]
        assert sorted(day.order()) == sorted([*bulk, "good", "urgent", "later"])

    def test_what_was_deferred_is_tried_again(self, day):
        assert day.attempts["later"] == 2
        assert day.attempts["refused"] == day.attempts["good"] == 1
        assert day.attempts["expired"] == day.attempts["cancelled"] == 0

    def test_the_most_urgent_goes_first_and_what_is_bulk_last(self, day):
        order = [each for each in day.order() if each != "later"]
        assert order[:2] == ["urgent", "good"]

    def test_each_end_is_heard_once(self, day):
        assert day.signals("good") == ["message_sent"]
        assert day.signals("later") == ["message_deferred", "message_sent"]
        assert day.signals("refused") == ["message_failed"]
        assert day.signals("cancelled") == []
        assert day.signals("tomorrow") == []

    def test_it_is_heard_in_the_apps_context_a_fresh_one_for_each_mail(self, day):
        assert {(each["of"], each["in"], each["clean"]) for each in day.heard} == {
            ("shop", "shop", True)
        }

    def test_it_is_heard_where_it_is_sent_not_at_the_desk(self, day):
        assert os.getpid() not in {each["pid"] for each in day.heard}

    def test_told_to_stop_it_finishes_what_is_under_way_and_gives_back_the_rest(
        self, engine, tmp_path
    ):
        def held(session):
            may_end.wait(BOUND)
            session.polite()

        may_end = threading.Event()
        with Hostile({"dot": [held]}) as relay, engine.stage(tmp_path, relay.port) as stage:
            desk = stage.app(**engine.desk)
            for n in range(20):
                later(desk, f"n{n}")
            with engine.at_work(stage, MAIL_CONNECTIONS=1) as program:
                wait_for(lambda: stage.eyes.count("started_at IS NOT NULL"))
                wait_for(lambda: stage.eyes.count("state = 'sending'"))
                program.terminate()
                started = "state = 'sending' AND started_at IS NULL"
                wait_for(lambda: stage.eyes.count(started) == 0)
                wait_for(lambda: stage.eyes.count("state = 'queued'") >= 12)
                may_end.set()
                assert program.wait(BOUND) == 0, stage.log()
            assert stage.eyes.count("state = 'sending'") == 0
            accepted = stage.eyes.count("state = 'accepted'")
            assert accepted == len(relay.message_ids) < 20
            assert stage.eyes.count("state = 'queued'") == 20 - accepted
            with engine.at_work(stage):
                wait_for(lambda: stage.eyes.count("state = 'accepted'") == 20)
            assert len(relay.message_ids) == len(set(relay.message_ids)) == 20
