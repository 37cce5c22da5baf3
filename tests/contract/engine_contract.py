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
played once for a class and a database, and told in several tests.
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
from flask import Flask

from database_fixtures import KINDS, new_place
from engine_stage import Stage, later
from flask_outbox import Mail, State
from flask_outbox.outbox.workers import Badge, workers
from hostile import Hostile, Session, hang_up, say, stall
from worker_stage import BOUND, wait_for

ANSWERS = {"refused": b"550 5.1.1 no such person", "later": b"451 4.2.1 later"}


@dataclass
class Kind:
    """How one engine is run, and what the desk is told of it."""

    run: Callable[..., AbstractContextManager["Popen[bytes]"]]
    desk: dict[str, Any]
    worker: dict[str, Any]
    celery: dict[str, Any] = field(default_factory=dict)
    register: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def stage(self, folder: Path, port: int, place: str) -> Iterator[Stage]:
        """Make a stage for it."""
        stage = Stage(folder, port, place, celery=self.celery, register=self.register)
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
    relay: Hostile

    def signals(self, name: str) -> list[str]:
        """What the listeners heard of it, in order."""
        return [
            each["signal"]
            for each in self.heard
            if each["id"] == self.ids[name] and each["signal"] != "email_dispatched"
        ]

    def order(self) -> list[str]:
        """Whose mail was accepted, in order."""
        return [name_of(each.recipients[0]) for each in self.relay.accepted]


def shown(desk: Flask) -> list[Badge]:
    """Tell what the workers say that they run with."""
    with desk.extensions["outbox"].outbox.read() as connection:
        return [
            Badge(version=w.version, schema=w.schema, settings=w.settings, secret=w.secret)
            for w in workers(connection)
            if not w.has_ended
        ]


def name_of(address: str) -> str:
    return address.partition("@")[0]


class Relay(Hostile):
    """Answers by the recipient, may take a mail and not say so, be slow, or too busy for any."""

    busy = False

    def __init__(self, answers: dict[str, bytes]) -> None:
        self.answers = answers
        self.slow_begins, self.slow_ends = threading.Event(), threading.Event()
        super().__init__(
            {
                **dict.fromkeys(("greet", "MAIL"), self.at_the_door),
                "RCPT": self.at_recipient,
                "dot": self.at_the_end,
            }
        )

    def at_the_door(self, session: Session) -> None:
        if self.busy:
            session.send(b"421 4.3.2 busy\r\n")
            hang_up(session)
        session.polite()

    def at_recipient(self, session: Session) -> None:
        name = name_of(session.line.decode().partition("<")[2])
        # "Later" is said once: how soon it is tried again is up to chance.
        reply = self.answers.pop(name, b"") if name == "later" else self.answers.get(name)
        say(reply)(session) if reply else session.polite()

    def at_the_end(self, session: Session) -> None:
        if "unclear@example.org" in session._mail.recipients:
            session.take()
            hang_up(session)
        if "slow@example.org" in session._mail.recipients:
            self.slow_begins.set()
            self.slow_ends.wait(BOUND)
        session.polite()


class EngineContract:
    """The suite."""

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Kind:
        """The engine under test."""
        raise NotImplementedError

    @pytest.fixture(scope="class", params=KINDS)
    @classmethod
    def new_stage(cls, request, engine, tmp_path_factory) -> Callable[[int], Any]:
        """Make a stage for a relay, on an outbox of its own."""

        def new(port: int) -> AbstractContextManager[Stage]:
            folder = tmp_path_factory.mktemp("stage")
            return engine.stage(folder, port, new_place(request, request.param, folder))

        return new

    @pytest.fixture(scope="class")
    @classmethod
    def day(cls, engine, new_stage) -> Iterator[Day]:
        with Relay(dict(ANSWERS)) as relay, new_stage(relay.port) as stage:
            desk = stage.app(**engine.desk)
            plan: dict[str, dict[str, Any]] = {
                **{f"bulk{n}": {"priority": "bulk"} for n in range(12)},
                **{name: {} for name in ("good", "refused", "later", "cancelled", "both refused")},
                "unclear": {"at_most_once": True},
                "expired": {"expires": timedelta(seconds=0.01)},
                "urgent": {"priority": "urgent"},
                "tomorrow": {"delay": timedelta(days=1)},
            }
            ids = {
                names.split()[0]: later(desk, *names.split(), **options)
                for names, options in plan.items()
            }
            too_late = time.time() + 0.01
            with desk.app_context():
                assert Mail().cancel(ids["cancelled"])
            wait_for(lambda: time.time() > too_late)
            with engine.at_work(stage, MAIL_CONNECTIONS=1):
                wait_for(lambda: stage.eyes.count("state IN ('queued', 'sending')") == 1)
                wait_for(lambda: len(stage.heard("message_sent")) == 16)
                wait_for(lambda: len(stage.heard("message_failed")) == 4)
                relay.busy = True
                ids["afterwards"] = later(desk, "afterwards")
                wait_for(lambda: stage.heard("route_paused"))
                relay.busy = False
                wait_for(lambda: stage.heard("message_sent", ids["afterwards"]))
                wait_for(lambda: stage.heard("route_resumed"))
                ids["slow"] = later(desk, "slow")
                assert relay.slow_begins.wait(BOUND)
                too_late = time.time() + 2.0  # time enough to be claimed
                ids["stale"] = later(desk, "stale", expires=too_late)
                wait_for(lambda: time.time() > too_late)
                relay.slow_ends.set()
                wait_for(lambda: stage.heard("message_failed", ids["stale"]))
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
            **dict.fromkeys(("good", "urgent", "later", "afterwards", "slow"), State.ACCEPTED),
            **dict.fromkeys(("refused", "both"), State.FAILED),
            "unclear": State.UNKNOWN,
            "cancelled": State.CANCELLED,
            **dict.fromkeys(("expired", "stale"), State.EXPIRED),
            "tomorrow": State.QUEUED,
        }

    def test_each_mail_is_accepted_once_and_no_other_is_sent(self, day):
        bulk = [f"bulk{n}" for n in range(12)]
        others = ["good", "urgent", "later", "both", "unclear", "afterwards", "slow"]
        assert sorted(day.order()) == sorted([*bulk, *others])

    def test_what_was_deferred_is_tried_again(self, day):
        assert day.attempts["later"] == 2
        assert day.attempts["refused"] == day.attempts["both"] == day.attempts["good"] == 1
        assert day.attempts["expired"] == day.attempts["cancelled"] == 0

    def test_what_got_too_old_while_the_relay_was_slow_was_not_begun(self, day):
        assert day.attempts["stale"] == 0
        assert day.signals("stale") == ["message_failed"]

    def test_a_relay_that_is_busy_costs_no_attempt_and_is_an_alert(self, day):
        assert day.attempts["afterwards"] == 1
        assert set(day.signals("afterwards")) == {"message_deferred", "message_sent"}
        alerts = [each["signal"] for each in day.heard if each["signal"].startswith("route_")]
        assert alerts == ["route_paused", "route_resumed"]

    def test_the_most_urgent_goes_first_and_what_is_bulk_last(self, day):
        order = [each for each in day.order() if each not in {"later", "unclear"}]
        assert order[:3] == ["urgent", "good", "both"]

    def test_each_end_is_heard_once(self, day):
        assert day.signals("good") == ["message_sent"]
        assert day.signals("later") == ["message_deferred", "message_sent"]
        assert day.signals("both") == ["message_sent", "message_failed"]
        assert [day.signals(name) for name in ("refused", "unclear", "expired")] == [
            ["message_failed"]
        ] * 3
        assert day.signals("cancelled") == []
        assert day.signals("tomorrow") == []

    def test_it_is_heard_in_the_apps_context_a_fresh_one_for_each_mail(self, day):
        assert {(each["of"], each["in"], each["clean"]) for each in day.heard} == {
            ("shop", "shop", True)
        }

    def test_it_is_heard_where_it_is_sent_not_at_the_desk(self, day):
        assert os.getpid() not in {each["pid"] for each in day.heard}

    def test_it_shows_what_it_runs_with_and_told_to_stop_finishes_what_is_under_way_alone(
        self, engine, new_stage
    ):
        def held(session):
            may_end.wait(BOUND)
            session.polite()

        may_end = threading.Event()
        with Hostile({"dot": [held]}) as relay, new_stage(relay.port) as stage:
            desk = stage.app(**engine.desk)
            for n in range(20):
                later(desk, f"n{n}")
            with engine.at_work(stage, MAIL_CONNECTIONS=1) as program:
                wait_for(lambda: stage.eyes.count("started_at IS NOT NULL"))
                wait_for(lambda: stage.eyes.count("state = 'sending'"))
                assert shown(desk) == [desk.extensions["outbox"].badge()]
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

    def test_what_had_not_left_when_its_grace_is_over_is_nobodys_fault(self, engine, new_stage):
        def silent(session):
            begun.set()
            stall(session)

        begun = threading.Event()
        with Hostile({"greet": [silent]}) as relay, new_stage(relay.port) as stage:
            desk = stage.app(**engine.desk)
            with engine.at_work(stage, MAIL_CONNECTIONS=1, MAIL_GRACE=0.5) as program:
                row = later(desk, "once", at_most_once=True)
                assert begun.wait(BOUND)
                program.terminate()
                assert program.wait(BOUND) == 0, stage.log()
            with desk.app_context():
                status = Mail().status(row)
            assert (status.state, status.attempts) == (State.QUEUED, 0)
            assert [each.unclear for each in status.recipients] == [0]
            with engine.at_work(stage):
                wait_for(lambda: stage.eyes.count("state = 'accepted'"))
            assert len(relay.message_ids) == 1
