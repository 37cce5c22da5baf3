"""A line to the database that is cut at any word of a worker: each mail is sent once."""

import pytest

from cutter import Cutter
from faults_worker import an_outbox
from flask_outbox.mail import retry
from flask_outbox.outbox.claim import claim, start
from flask_outbox.outbox.encryption import Keyring
from flask_outbox.outbox.enqueue import Schedule, put
from flask_outbox.transports.smtp import Smtp
from flask_outbox.worker import loop
from flask_outbox.worker.plan import Plan
from hostile import Hostile, Session, say
from outbox_mail import KEY, empty
from worker_stage import Eyes, a_submission, at_work, wait_for

STEP = 8  # of so many words one is cut before it is done, and another one after
TWO = ("fine@example.org", "busy@example.org")
MAILS = {
    "died": {},
    "one": {},
    "two": {"recipients": TWO},
    "once": {"at_most_once": True},
    "secret": {"sensitive": True},
    "late": {},
}
SENT = sorted(
    ["died@example.org", "one@example.org", *TWO, "once@example.org", "secret@example.org"]
)


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def place(server):
    url = server.new()
    an_outbox(url).upgrade()
    return url


@pytest.fixture
def direct(place):
    outbox = an_outbox(place)
    outbox.keyring = Keyring([KEY])
    yield outbox
    outbox.close()


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch):
    monkeypatch.setattr(retry, "UNCLEAR_SPREAD", (0.00005, 0.0001))
    monkeypatch.setattr(retry, "BACKOFF_FIRST", 0.05)
    monkeypatch.setattr(retry, "BACKOFF_LEAST", 0.02)
    monkeypatch.setattr(loop, "TROUBLE_FIRST", 0.01)


def fill(outbox, eyes):
    """Put them there; one was begun by a worker that died, one comes too late."""
    empty(outbox)
    for name, changes in MAILS.items():
        expires = 1.0 if name == "late" else None
        put(outbox, a_submission(name, **changes), Schedule(key=name, expires=expires))
        if name == "died":
            assert start(outbox, claim(outbox, transports=["default"], limit=1, worker="dead"))
            eyes.change("UPDATE outbox_message SET lease_until = leased_at, leased_at = 1.0")


class BusyOnce:
    """For ``RCPT``: one recipient is deferred the first time."""

    def __init__(self) -> None:
        self.answers = [say(b"450 4.2.1 mailbox busy")]

    def __call__(self, session: Session) -> None:
        is_busy = TWO[1].encode() in session.line
        answer = self.answers.pop() if is_busy and self.answers else Session.polite
        answer(session)


def work(outbox, eyes, port):
    """Let a worker send it all; give what its listeners heard, by the names of the mails."""
    heard = []
    plan = Plan(
        outbox=outbox,
        transports={"default": Smtp("127.0.0.1", port)},
        connections=2,
        poll=0.02,
        observe=lambda each: heard.append(f"{each.submission.message_id} {each.state.value}"),
    )
    with at_work(plan):
        wait_for(lambda: eyes.count("ended_at IS NULL") == 0)
    outbox.close()
    return heard


@pytest.mark.parametrize("done", [False, True])
def test_wherever_the_line_is_cut_each_mail_is_sent_once(server, place, direct, caplog, done):
    eyes = Eyes(place)
    with Cutter(server.port) as cutter:
        cuts, number = -1, 1 + STEP // 2 * done
        while cutter.cuts > cuts:  # it was cut
            cuts = cutter.cuts
            fill(direct, eyes)
            outbox = an_outbox(place.replace(f":{server.port}/", f":{cutter.port}/"))
            outbox.keyring = direct.keyring
            with Hostile({"RCPT": BusyOnce()}) as relay:
                cutter.at_word(number, done=done)
                heard = work(outbox, eyes, relay.port)
                sent = sorted(to for mail in relay.accepted for to in mail.recipients)
            assert sent == SENT, number
            assert set(eyes.states().values()) == {"accepted", "expired"}
            assert eyes.rows("SELECT sum(attempts) FROM outbox_message") == [(len(SENT) + 1,)]
            ended = [each for each in heard if "queued" not in each]
            assert len(ended) == len(set(ended)), number
            assert "<late@example.com> expired" in heard or done
            number += STEP
    assert cutter.cuts > 10
    assert "stumbled" not in caplog.text
