"""SIGKILL of a worker at every point of a mail's journey; the server writes down what it accepted.

The server kills: it alone knows how far the dialogue is. Verdict: its list of Message-IDs against
the rows. Nothing is lost; a second copy exists only where the first may have been accepted.
"""

import os
import signal
import subprocess
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from database_fixtures import KINDS
from faults_worker import an_outbox, kill_speaker, note_pid, pid_of, started
from hostile import Hostile, after, polite, take, then
from worker_stage import BOUND, Eyes, a_submission, put, wait_for

ONE = "<one@example.com>"


@pytest.fixture
def outbox(place):
    outbox = an_outbox(place)
    outbox.open()
    yield outbox
    outbox.close()


@pytest.fixture
def eyes(place):
    return Eyes(place)


def end(program: subprocess.Popen[bytes]) -> int:
    program.terminate()
    return program.wait(BOUND)


def test_killed_before_its_claim_is_committed_it_has_done_nothing(place, outbox, eyes):
    with Hostile() as server:
        with eyes.lock(), started(place, server.port) as program:
            # Its first statement waits for the lock, so a claim cannot have been committed.
            wait_for(lambda: waits_for_lock(program.pid, place, eyes))
            program.kill()
            program.wait()
        put(outbox, a_submission())
        assert (eyes.one("state"), eyes.one("attempts")) == ("queued", 0)
        with started(place, server.port) as program:
            wait_for(lambda: eyes.one("state") == "accepted")
            assert end(program) == 0
    assert server.message_ids == [ONE]


def waits_for_lock(pid: int, place: str, eyes: Eyes) -> bool:
    """Tell whether the process waits, or has at least the file open in which it must."""
    file = Path(place.removeprefix("sqlite:///"))
    if "://" in place and not place.startswith("sqlite:"):
        return eyes.waiting() > 0
    descriptors = Path(f"/proc/{pid}/fd")
    try:
        return any(each.readlink() == file for each in descriptors.iterdir())
    except OSError:
        return False


def test_killed_after_its_claim_and_before_it_connects_costs_a_lease_and_no_copy(
    place, outbox, eyes
):
    put(outbox, *(a_submission(f"n{i}") for i in range(60)))
    silent: list[int] = []
    greet = then(lambda _: silent.append(1), stay)
    with Hostile({"EHLO": note_pid, "greet": [greet]}) as server:
        with started(place, server.port, "--connections", "1") as program:
            wait_for(lambda: silent)
            wait_for(lambda: eyes.count("state = 'sending' AND started_at IS NULL"))
            program.kill()
            program.wait()
        unbegun = {row[0] for row in eyes.rows(UNBEGUN)}
        with started(place, server.port) as program:
            wait_for(lambda: eyes.count("state = 'accepted'") == 60)
            assert end(program) == 0
    assert unbegun
    assert set(Counter(server.message_ids).values()) == {1}
    assert len(server.message_ids) == 60
    marks = "', '".join(unbegun)
    assert eyes.count(f"attempts = 1 AND NOT alone AND id IN ('{marks}')") == len(unbegun)


UNCLEAR = (
    "SELECT message_id FROM outbox_message m WHERE EXISTS"
    " (SELECT * FROM outbox_event WHERE kind = 'unclear' AND message = m.id)"
)
UNBEGUN = "SELECT id FROM outbox_message WHERE state = 'sending' AND started_at IS NULL"


def stay(session) -> None:
    """Accept the connection and say nothing to it."""
    session.server.over.wait(2.0)


LONG = (b"x" * 70 + b"\r\n") * 200_000
BEFORE_THE_DOT = {
    "MAIL": kill_speaker(),
    "RCPT": kill_speaker(),
    "DATA": kill_speaker(),
    "body": after(0, kill_speaker()),
    "half of the body": after(40, kill_speaker()),
}


# Where in the dialogue it was is nothing to the database: on each, before and within the content.
@pytest.mark.parametrize(
    ("place", "point"),
    [
        *(("sqlite", point) for point in BEFORE_THE_DOT),
        *((kind, point) for kind in KINDS[1:] for point in ("MAIL", "half of the body")),
    ],
    indirect=["place"],
)
def test_killed_before_the_final_dot_there_is_one_copy(place, outbox, eyes, point):
    # More than the kernel's buffers hold, so that the dot cannot be on its way when it dies.
    put(outbox, a_submission(content=b"Message-ID: %s\r\n\r\n" % ONE.encode() + LONG))
    act = BEFORE_THE_DOT[point]
    where = "body" if "body" in point else point
    with Hostile({"EHLO": note_pid, where: [act]}) as server:
        with started(place, server.port) as program:
            assert program.wait(BOUND) == -signal.SIGKILL
        with started(place, server.port) as program:
            wait_for(lambda: eyes.one("state") == "accepted")
            assert end(program) == 0
    assert server.message_ids == [ONE]


def test_killed_after_the_final_dot_there_is_one_more_copy_of_the_same_message(place, outbox, eyes):
    put(outbox, a_submission())
    with Hostile({"EHLO": note_pid, "dot": [then(take, kill_speaker())]}) as server:
        with started(place, server.port) as program:
            assert program.wait(BOUND) == -signal.SIGKILL
        with started(place, server.port) as program:
            wait_for(lambda: eyes.one("state") == "accepted")
            assert end(program) == 0
    assert server.message_ids == [ONE, ONE]
    assert server.accepted[0].content == server.accepted[1].content
    assert ("unclear",) in eyes.rows("SELECT kind FROM outbox_event")


def test_killed_after_each_final_dot_there_are_no_more_copies_than_it_may_be_unclear(
    place, outbox, eyes
):
    put(outbox, a_submission())
    dots = [then(take, kill_speaker())] * 10
    with Hostile({"EHLO": note_pid, "dot": dots}) as server:
        for _ in range(3):
            with started(place, server.port) as program:
                assert program.wait(BOUND) == -signal.SIGKILL
        with started(place, server.port) as program:
            wait_for(lambda: eyes.one("state") == "unknown")
            assert end(program) == 0
    assert server.message_ids == [ONE] * 3


def test_killed_after_the_answer_and_before_it_is_recorded_is_the_same(place, outbox, eyes):
    put(outbox, a_submission())
    held = ExitStack()

    def lock(session) -> None:
        held.enter_context(eyes.lock())
        session.polite()

    with Hostile({"dot": [lock]}) as server:
        with held, started(place, server.port) as program:
            # The answer is out, and the record cannot be: the test holds the lock.
            server.wait_until(lambda server: server.accepted)
            program.kill()
            program.wait()
        assert eyes.one("state") == "sending"
        with started(place, server.port) as program:
            wait_for(lambda: eyes.one("state") == "accepted")
            assert end(program) == 0
    assert server.message_ids == [ONE, ONE]


def test_killed_after_the_record_there_is_one_copy(place, outbox, eyes):
    put(outbox, a_submission())
    with Hostile() as server:
        with started(place, server.port) as program:
            wait_for(lambda: eyes.one("state") == "accepted")
            program.kill()
            program.wait()
        assert "QUIT" not in server.verbs()
        with started(place, server.port) as program:
            wait_for(lambda: eyes.rows("SELECT name FROM outbox_worker WHERE pid = ?", program.pid))
            assert end(program) == 0
    assert server.message_ids == [ONE]


def test_a_mail_that_crashes_the_interpreter_ends_as_poison_and_its_neighbours_lose_nothing(
    place, outbox, eyes
):
    poison = a_submission("bad", content=b"Message-ID: <bad@example.com>\r\nX-Poison: 1\r\n\r\n")
    put(outbox, *(a_submission(f"n{i}") for i in range(50)), poison)
    put(outbox, *(a_submission(f"m{i}") for i in range(49)))
    with Hostile() as server, started(place, server.port, "--processes", "1") as program:
        wait_for(lambda: eyes.one("state", "bad") == "failed", 40.0)
        wait_for(lambda: eyes.count("state = 'accepted'") == 99, 40.0)
        assert end(program) == 0
    assert eyes.one("reason", "bad").startswith("poison")
    assert len(set(server.message_ids)) == 99
    # What had been started and not recorded when it first struck may be repeated; nothing else.
    in_flight = {name for (name,) in eyes.rows(UNCLEAR)}
    repeated = Counter(server.message_ids) - Counter(set(server.message_ids))
    assert set(repeated) <= in_flight
    assert set(repeated.values()) <= {1}
    assert eyes.one("crashes", "bad") == 3


def test_a_worker_that_slept_through_its_lease_changes_nothing_when_it_wakes(place, outbox, eyes):
    put(outbox, a_submission())
    sleepers: list[int] = []

    def put_to_sleep(session) -> None:
        if not sleepers:
            sleepers.append(pid_of(session))
            os.kill(sleepers[0], signal.SIGSTOP)
        polite(session)

    with Hostile({"EHLO": note_pid, "dot": put_to_sleep}) as server:
        with started(place, server.port) as zombie, started(place, server.port) as other:
            wait_for(lambda: eyes.one("state") == "accepted")
            # Whichever of the two began first sleeps; the other has taken over and recorded.
            events = eyes.rows("SELECT kind FROM outbox_event ORDER BY number")
            row = eyes.rows("SELECT * FROM outbox_message")
            os.kill(sleepers[0], signal.SIGCONT)
            assert end(zombie) == 0
            assert end(other) == 0
        assert eyes.rows("SELECT kind FROM outbox_event ORDER BY number") == events
        assert eyes.rows("SELECT * FROM outbox_message") == row
    assert server.message_ids == [ONE, ONE]
    assert [kind for (kind,) in events] == ["unclear", "accepted"]
