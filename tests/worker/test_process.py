"""Worker processes: signals, restarts, and a parent that dies."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from faults_worker import an_outbox, note_pid, pid_of, started
from flask_outbox.mail.errors import ConfigurationError
from flask_outbox.worker.child import BAD_SETTING
from flask_outbox.worker.process import run
from hostile import Hostile, polite
from worker_stage import BOUND, Eyes, a_submission, put, wait_for


@pytest.fixture
def slow():
    """A server that answers the content only once it is let go."""
    go = threading.Event()

    def hold(session) -> None:
        go.wait(BOUND)
        polite(session)

    with Hostile({"EHLO": note_pid, "dot": hold}) as server:
        server.go = go
        yield server
        go.set()


def workers(eyes) -> list[int]:
    return [pid for (pid,) in eyes.rows("SELECT pid FROM outbox_worker")]


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_each_process_is_a_worker_and_all_end_with_status_zero(file, outbox, eyes):
    put(outbox, *(a_submission(f"n{i}") for i in range(30)))
    with Hostile() as server, started(file, server.port, "--processes", "3") as program:
        wait_for(lambda: len(workers(eyes)) == 3)
        wait_for(lambda: eyes.count("state = 'accepted'") == 30)
        program.terminate()
        assert program.wait(BOUND) == 0
    assert workers(eyes) == []
    assert len(server.message_ids) == 30


class TestToldToStop:
    """On each database."""

    @pytest.fixture
    def file(self, place):
        return place

    @pytest.fixture
    def outbox(self, place):
        outbox = an_outbox(place)
        outbox.open()
        yield outbox
        outbox.close()

    @pytest.fixture
    def eyes(self, place):
        return Eyes(place)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_lets_what_is_under_way_finish_and_gives_back_the_rest(
        self, file, outbox, eyes, slow, number
    ):
        put(outbox, *(a_submission(f"n{i}") for i in range(60)))
        with started(file, slow.port, "--processes", "1", "--connections", "1") as program:
            wait_for(lambda: "DATA" in slow.verbs())
            wait_for(lambda: eyes.count("state = 'sending' AND started_at IS NULL"))
            os.killpg(program.pid, number)  # as a terminal and a service manager do: all of them
            wait_for(lambda: not eyes.count("state = 'sending' AND started_at IS NULL"))
            assert program.poll() is None
            slow.go.set()
            assert program.wait(BOUND) == 0
        begun = len(slow.message_ids)
        assert 1 <= begun <= 4
        assert eyes.count("state = 'accepted'") == begun
        assert eyes.count("state = 'queued' AND attempts = 0") == 60 - begun

    def test_a_second_signal_abandons_and_the_lease_brings_the_mail_back(
        self, file, outbox, eyes, slow
    ):
        put(outbox, *(a_submission(f"n{i}") for i in range(60)))
        options = ("--processes", "1", "--connections", "1", "--grace", "60", "--lease", "30")
        with started(file, slow.port, *options) as program:
            wait_for(lambda: "DATA" in slow.verbs())
            wait_for(lambda: eyes.count("state = 'sending' AND started_at IS NULL"))
            program.terminate()
            wait_for(lambda: not eyes.count("state = 'sending' AND started_at IS NULL"))
            before = time.monotonic()
            program.terminate()
            assert program.wait(BOUND) == 0
            assert time.monotonic() - before < 5.0
        assert workers(eyes) == []  # it left by itself, and was not killed
        assert 1 <= eyes.count("state = 'sending' AND started_at IS NOT NULL") <= 4

    def test_the_grace_bounds_a_send_that_hangs(self, file, outbox, eyes, slow):
        put(outbox, a_submission())
        with started(file, slow.port, "--processes", "1", "--grace", "0.5") as program:
            wait_for(lambda: "DATA" in slow.verbs())
            before = time.monotonic()
            program.terminate()
            assert program.wait(BOUND) == 0
            assert 0.4 < time.monotonic() - before < 5.0

    def test_told_to_stop_while_the_database_is_locked_it_ends_too(self, file, outbox, eyes):
        options = ("--processes", "1", "--busy", "60", "--grace", "0.2")
        with Hostile() as server, started(file, server.port, *options) as program:
            wait_for(lambda: workers(eyes))
            with eyes.lock():
                program.terminate()
                wait_for(lambda: program.poll() is not None, 25.0)
            assert program.returncode == 0

    def test_while_a_relay_that_is_away_is_given_time_it_ends(self, file, outbox, eyes):
        put(outbox, a_submission())
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # where nobody listens
            with started(file, taken.getsockname()[1], "--processes", "1") as program:
                wait_for(lambda: eyes.rows("SELECT name FROM outbox_route WHERE failures > 0"))
                program.terminate()
                assert program.wait(BOUND) == 0
        assert eyes.count("state = 'queued'") == 1
        assert workers(eyes) == []


def test_a_worker_that_dies_is_replaced(file, outbox, eyes):
    with Hostile() as server, started(file, server.port, "--processes", "1") as program:
        [first] = wait_for(lambda: workers(eyes))
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: any(pid != first for pid in workers(eyes)))
        put(outbox, a_submission())
        wait_for(lambda: eyes.one("state") == "accepted")
        program.terminate()
        assert program.wait(BOUND) == 0


def lost(eyes) -> list[int]:
    return [pid for (pid,) in eyes.rows("SELECT pid FROM outbox_worker WHERE lost_at > 0")]


def test_a_worker_that_was_killed_is_found_by_another(file, outbox, eyes):
    with Hostile() as server, started(file, server.port, "--processes", "2") as program:
        wait_for(lambda: len(workers(eyes)) == 2)
        killed, lives_on = workers(eyes)
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: lost(eyes) == [killed])
        program.terminate()
        assert program.wait(BOUND) == 0
    assert workers(eyes) == [killed]
    assert lives_on not in lost(eyes)


def test_workers_whose_parent_is_killed_finish_and_end(file, outbox, eyes, slow):
    put(outbox, a_submission())
    with started(file, slow.port, "--processes", "1") as program:
        wait_for(lambda: "DATA" in slow.verbs())
        [child] = wait_for(lambda: workers(eyes))
        program.kill()
        program.wait()
        slow.go.set()
        wait_for(lambda: eyes.one("state") == "accepted")
        wait_for(lambda: not lives(child))
    assert workers(eyes) == []


PROGRAM = """
import logging, sys
from flask_outbox.mail.errors import ConfigurationError
from flask_outbox.worker.process import run

def make_plan():
    raise ConfigurationError("MAIL_SERVER must be a host")

sys.exit(run(make_plan, processes=2))
"""


def test_a_setting_that_cannot_work_ends_it_instead_of_being_tried_again():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=BOUND, check=False
    )
    assert done.returncode == BAD_SETTING
    assert "MAIL_SERVER must be a host" in done.stderr


def test_fewer_than_one_process_is_refused():
    with pytest.raises(ConfigurationError, match="--processes"):
        run(lambda: pytest.fail("nobody asked for a plan"), processes=0)


def test_the_speaker_is_a_child_of_the_program(file, outbox, eyes, slow):
    speakers = []
    slow.go.set()
    slow._script["MAIL"] = lambda session: (speakers.append(pid_of(session)), polite(session))
    put(outbox, a_submission())
    with started(file, slow.port, "--processes", "1") as program:
        wait_for(lambda: eyes.one("state") == "accepted")
        assert speakers == workers(eyes) != [program.pid]
