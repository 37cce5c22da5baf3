"""mail.send and mail.send_async: receipts, SendError, and that nothing waits for them."""

import asyncio
import os
import pickle
import smtplib
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from flask import Flask

import certificates
from flask_outbox import (
    Accepted,
    Attachment,
    Dsn,
    Mail,
    Message,
    MessageError,
    SendError,
    State,
    UnsupportedFeature,
    message_failed,
    message_sent,
)
from flask_outbox.mail.outcome import Deferred, Refused, Unclear
from hostile import Hostile, later, reset, say
from hostile import then as first


def note(**fields):
    return Message(**{"subject": "hi", "recipients": ["ada@example.org"], "body": "text", **fields})


def app_for(server, **config):
    app = Flask("shop")
    app.config.update(MAIL_PORT=server.port, MAIL_DEFAULT_SENDER="shop@example.com", **config)
    Mail(app)
    return app


def sending(way, server, message=None, **config):
    """Send by ``send`` or by ``send_async``, in the app's context."""
    app = app_for(server, **config)
    mail = Mail(app)
    with app.app_context():
        if way == "send":
            return mail.send(message or note())
        return asyncio.run(mail.send_async(message or note()))


WAYS = pytest.mark.parametrize("way", ["send", "send_async"])


@WAYS
def test_a_receipt_has_the_outcome_for_each_recipient(way):
    with Hostile(
        {"RCPT": [say(b"250 ok"), say(b"550 5.1.1 no"), say(b"451 4.2.1 later")]}
    ) as server:
        people = [f"{name}@example.org" for name in "abc"]
        receipt = sending(way, server, note(recipients=people))
    assert [type(outcome) for outcome in receipt.values()] == [Accepted, Refused, Deferred]
    assert list(receipt) == people


@WAYS
def test_all_refused_is_smtplibs_recipients_refused_too(way):
    with (
        Hostile({"RCPT": say(b"550 5.1.1 <ada@example.org> unknown")}) as server,
        pytest.raises(smtplib.SMTPRecipientsRefused) as caught,
    ):
        sending(way, server)
    error = caught.value
    assert isinstance(error, SendError)
    assert error.recipients == {"ada@example.org": (550, b"5.1.1 <ada@example.org> unknown")}
    assert error.receipt["ada@example.org"].text.startswith("550")
    assert "did not leave" in str(error)
    assert "ada@example.org" not in str(error)


@WAYS
def test_deferred_says_that_it_did_not_leave_and_to_try_later(way):
    with (
        Hostile({"MAIL": say(b"451 4.7.1 greylisted")}) as server,
        pytest.raises(SendError, match=r"4\.7\.1 greylisted.*did not leave.*send_later") as caught,
    ):
        sending(way, server)
    assert not caught.value.may_have_left
    assert isinstance(caught.value, smtplib.SMTPException)


@WAYS
def test_no_answer_after_the_last_byte_says_that_it_may_have_left(way):
    with (
        Hostile({"dot": reset}) as server,
        pytest.raises(SendError, match=r"may have left.*second copy") as caught,
    ):
        sending(way, server)
    assert caught.value.may_have_left
    assert isinstance(caught.value.receipt["ada@example.org"], Unclear)


@WAYS
def test_refused_credentials_name_the_settings_and_the_reply_never_the_password(way):
    with (
        Hostile({"AUTH": say(b"535 5.7.8 no such thing as s3cret-word")}, auth="PLAIN") as server,
        pytest.raises(
            smtplib.SMTPAuthenticationError, match=r"MAIL_USERNAME.*535 5\.7\.8"
        ) as caught,
    ):
        sending(way, server, MAIL_USERNAME="ada", MAIL_PASSWORD="s3cret-word")
    assert isinstance(caught.value, SendError)
    assert caught.value.smtp_code == 535
    assert "s3cret-word" not in str(caught.value)
    assert "s3cret-word" not in repr(caught.value)


@WAYS
@pytest.mark.parametrize(
    ("verb", "reply"),
    [("MAIL", b"530 5.7.0 authenticate first"), ("RCPT", b"554 5.7.1 Relay access denied")],
)
def test_a_server_that_wants_a_log_in_says_so(way, verb, reply):
    with (
        Hostile({verb: say(reply)}) as server,
        pytest.raises(smtplib.SMTPAuthenticationError, match="MAIL_PASSWORD"),
    ):
        sending(way, server)


@WAYS
def test_nobody_there_is_a_connection_refused(way):
    with Hostile() as server:
        pass
    with pytest.raises(ConnectionRefusedError, match="MAIL_PORT") as caught:
        sending(way, server)
    assert isinstance(caught.value, SendError)


@WAYS
def test_signals_tell_of_what_was_sent_and_what_was_not(way):
    heard = []

    def hear_sent(app, **named):
        heard.append(("sent", named["state"], named["id"], named["message"].subject))

    def hear_failed(app, **named):
        heard.append(("failed", named["state"], named["id"], named["message"].subject))

    with message_sent.connected_to(hear_sent), message_failed.connected_to(hear_failed):
        with Hostile() as server:
            sending(way, server)
        with Hostile({"dot": reset}) as server, pytest.raises(SendError):
            sending(way, server)
        with Hostile({"DATA": say(b"554 no")}) as server, pytest.raises(SendError):
            sending(way, server)
    assert heard == [
        ("sent", State.ACCEPTED, "", "hi"),
        ("failed", State.UNKNOWN, "", "hi"),
        ("failed", State.FAILED, "", "hi"),
    ]


@WAYS
def test_bad_input_answers_before_anything_is_opened(way):
    with Hostile() as server:
        with pytest.raises(MessageError, match="recipients"):
            sending(way, server, note(recipients=["no address"]))
        assert server.connections == 0


@WAYS
def test_what_the_transport_cannot_carry_is_refused(way):
    class Simple:
        name = "simple"

        class carries:  # noqa: N801  a stand-in for a value
            dsn = False

        def send(self, submissions):
            raise AssertionError

    with Hostile() as server, pytest.raises(UnsupportedFeature, match="dsn"):
        sending(way, server, note(dsn=Dsn(notify={"*": ("NEVER",)})), MAIL_TRANSPORT=Simple())


@WAYS
def test_a_transport_that_says_nothing_leaves_us_in_doubt(way):
    class Silent:
        name = "silent"

        class carries:  # noqa: N801  a stand-in for a value
            dsn = True

        def send(self, submissions):
            yield from ()

    with Hostile() as server, pytest.raises(SendError, match="may have left"):
        sending(way, server, MAIL_TRANSPORT=Silent())


@WAYS
def test_mails_of_one_process_share_a_line(way):
    with Hostile() as server:
        app = app_for(server)
        mail = Mail(app)
        with app.app_context():
            for _ in range(3):
                if way == "send":
                    mail.send(note())
                else:
                    asyncio.run(mail.send_async(note()))
        assert server.connections == 1
        assert len(server.accepted) == 3
        app.extensions["outbox"].close()


def test_a_reused_line_that_is_gone_is_opened_anew():
    with Hostile({"MAIL": [say(b"250 ok"), first(say(b"421 bye"), reset)]}) as server:
        app = app_for(server)
        mail = Mail(app)
        with app.app_context():
            mail.send(note())
            assert mail.send(note()).accepted
        assert server.connections == 2


def test_a_password_set_live_is_noticed_on_the_next_mail():
    with Hostile(auth="PLAIN") as server:
        app = app_for(server, MAIL_USERNAME="ada", MAIL_PASSWORD="first")
        with app.app_context():
            for word in ("first", "second"):
                app.extensions["mail"].password = word
                app.extensions["mail"].send(note())
        assert len(server.logins) == 2
        app.extensions["outbox"].close()


@WAYS
def test_notifications_are_asked_for_on_the_envelope(way):
    with Hostile() as server:
        sending(way, server, note(dsn=Dsn(notify={"*": ("NEVER",)})))
        assert any(b"NOTIFY=NEVER" in line for line in server.heard)


def test_a_big_message_is_sealed_beside_the_loop_and_a_small_one_in_it():
    threads = []
    big = note()
    big.attach("big.bin", data=bytes(100_000))
    with Hostile() as server:
        app = app_for(server)
        mail = Mail(app)
        mail.before_send(lambda _: threads.append(threading.current_thread()))
        with app.app_context():
            asyncio.run(mail.send_async(big))
            asyncio.run(mail.send_async(note()))
    here = threading.current_thread()
    assert [each is here for each in threads] == [False, True]


def test_the_return_path_is_on_the_envelope_alone():
    with Hostile() as server:
        sending("send", server, MAIL_RETURN_PATH="bounces@example.com")
        assert server.heard[1].startswith(b"MAIL FROM:<bounces@example.com>")


def test_a_token_source_logs_in_by_xoauth2():
    with Hostile(auth="XOAUTH2") as server:
        sending("send", server, MAIL_USERNAME="ada", MAIL_OAUTH2_TOKEN=lambda: "fresh")
        assert server.logins[0][0] == "XOAUTH2"


def test_send_error_passes_through_a_task_queue():
    with Hostile({"DATA": say(b"451 later")}) as server, pytest.raises(SendError) as caught:
        sending("send", server)
    twin = pickle.loads(pickle.dumps(caught.value))  # noqa: S301  our own
    assert str(twin) == str(caught.value)
    assert twin.receipt == caught.value.receipt


def test_send_async_works_in_an_async_view():
    with Hostile() as server:
        app = app_for(server)
        mail = Mail(app)

        @app.get("/")
        async def view():
            receipt = await mail.send_async(note())
            return ",".join(receipt.accepted)

        assert app.test_client().get("/").text == "ada@example.org"


def test_send_async_under_testing_sends_nothing_and_tells_of_it():
    with Hostile() as server:
        app = app_for(server, TESTING=True)
        mail = Mail(app)
        with app.app_context(), mail.record_messages() as outbox:
            receipt = asyncio.run(mail.send_async(note()))
        assert receipt.accepted == ["ada@example.org"]
        assert len(outbox) == 1
        assert server.connections == 0


SLOW_SERVER = """
import sys
from hostile import Hostile, later
with Hostile({"dot": later(1.0)}) as server:
    print(server.port, flush=True)
    sys.stdin.read()
    print(len(server.accepted), flush=True)
"""


@pytest.fixture
def slow_server():
    """A server that is slow to answer, in a process of its own: it shall not take our time."""
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    ) as process:
        yield SimpleNamespace(port=int(process.stdout.readline()))
        assert process.communicate("")[0] == "1\n"


def test_send_async_never_stalls_the_event_loop(slow_server):
    """A coroutine ticks beside it: 10 MB are sealed and sent to a server that is slow."""
    ticks = []

    async def tick():
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.005)

    async def both(mail, message):
        ticker = asyncio.create_task(tick())
        receipt = await mail.send_async(message)
        ticker.cancel()
        return receipt

    message = note()
    message.attach("big.bin", data=bytes(10_000_000))
    app = app_for(slow_server)
    with app.app_context():
        receipt = asyncio.run(both(Mail(app), message))
    assert receipt.accepted
    gaps = [after - before for before, after in pairwise(ticks)]
    assert len(gaps) > 20
    assert max(gaps) < 0.5, sorted(gaps)[-5:]
    app.extensions["outbox"].close()


SLOW_TO_SEAL = {
    "people": {"recipients": [f"a{n}@münchen{n}.example" for n in range(20)]},
    "people to be told, too": {"cc": [f"ü{n} <a{n}@example.org>" for n in range(20)]},
    "people whom nobody sees": {"bcc": [f"a{n}@münchen{n}.example" for n in range(20)]},
    "text": {"body": "é" * 70_000},
    "HTML": {"html": "é" * 70_000},
    "headers": {"extra_headers": {f"X-{n}": "é" * 900 for n in range(90)}},
    "a file": {"attachments": [Attachment("a.bin", data=bytes(70_000))]},
}


@pytest.mark.parametrize("much", [*SLOW_TO_SEAL, "nothing"])
def test_send_async_seals_what_takes_long_outside_of_the_event_loop(app, mail, much):
    sealed_in = []

    @mail.before_send
    def where(_message):
        sealed_in.append(threading.current_thread())

    asyncio.run(mail.send_async(note(**SLOW_TO_SEAL.get(much, {}))))
    assert (sealed_in == [threading.current_thread()]) == (much == "nothing")


def test_a_cancelled_send_async_closes_its_line():
    async def impatient(mail):
        await asyncio.wait_for(mail.send_async(note()), 0.2)

    with Hostile({"MAIL": later(5)}) as server:
        app = app_for(server)
        with app.app_context(), pytest.raises(TimeoutError):
            asyncio.run(impatient(Mail(app)))
        assert server.accepted == []


@pytest.mark.parametrize("way", ["send", "send_later", "connect", "send_async"])
@pytest.mark.parametrize("thing", [None, "hi", {"subject": "hi"}])
def test_what_is_no_message_is_refused_in_every_way_of_sending(app, mail, way, thing):
    ways = {
        "send": mail.send,
        "send_later": lambda message: mail.send_later(message, key="one"),
        "connect": mail.connect().send,
        "send_async": lambda message: asyncio.run(mail.send_async(message)),
    }
    with pytest.raises(MessageError, match=r"message must be a flask_outbox\.Message, not "):
        ways[way](thing)


def test_a_message_of_flask_mails_own_is_refused_with_what_to_do(app, mail):
    theirs = type("Message", (), {"__module__": "flask_mail"})()
    with pytest.raises(MessageError, match="install_as_flask_mail"):
        mail.send(theirs)


@pytest.mark.parametrize(
    ("query", "config", "is_trusted"),
    [
        ("", {}, False),
        ("", {"MAIL_TLS_CA_FILE": certificates.ca_file()}, True),
        ("", {"MAIL_TLS_FINGERPRINT": certificates.fingerprint()}, True),
        ("", {"MAIL_TLS_FINGERPRINT": "00" * 32}, False),
        (f"?ca_file={certificates.ca_file()}", {"MAIL_TLS_FINGERPRINT": "00" * 32}, True),
    ],
    ids=["nobody said", "an authority", "a pin", "another pin", "the URL's own"],
)
def test_whom_an_app_trusts_is_for_urls_too(query, config, is_trusted):
    with Hostile({}, tls=certificates.server_context(), implicit=True) as server:
        url = f"smtps://localhost:{server.port}{query}"
        app = app_for(server, MAIL_TRANSPORT=url, MAIL_EHLO_NAME="shop.example.com", **config)
        with app.app_context(), nullcontext() if is_trusted else pytest.raises(SendError):
            assert Mail(app).send(note()).accepted
    assert len(server.accepted) == is_trusted
