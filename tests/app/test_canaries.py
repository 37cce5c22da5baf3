"""No password, token or body in any log line, repr, exception or error column, whatever fails."""

import asyncio
import sqlite3
import traceback
from base64 import b64encode

import pytest
from flask import Flask

from flask_outbox import Attachment, Mail, Message, Receipt, SendError
from flask_outbox.mail.attachment import Invitation
from flask_outbox.mail.errors import OutboxError
from flask_outbox.mail.exchange import Opened, Report, SmtpReply, Write
from flask_outbox.mail.fields import read_mailboxes
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.mime import compose, seal
from flask_outbox.mail.outcome import Accepted
from flask_outbox.mail.unseal import unseal
from flask_outbox.outbox.record import Recorded
from flask_outbox.transports.smtp import Smtp
from flask_outbox.worker.loop import drain
from hostile import Hostile, hang_up, reset, say

PASSWORD, TOKEN, BODY = "canary-password", "canary-token", "canary-body"
KEY = "canary-key"
CANARIES = [
    *(PASSWORD, TOKEN, BODY, KEY),
    b64encode(PASSWORD.encode()).decode().rstrip("="),
    b64encode(f"\0ada\0{PASSWORD}".encode()).decode(),
    b64encode(BODY.encode()).decode().rstrip("="),
]
SCRIPTS = {
    "good": {},
    "greeted rudely": {"greet": say(b"554 go away")},
    "AUTH repeats it": {"AUTH": None},
    "AUTH hangs up": {"AUTH": hang_up},
    "MAIL refused": {"MAIL": say(b"550 5.7.1 not you")},
    "RCPT refused": {"RCPT": say(b"550 5.1.1 no")},
    "DATA refused": {"DATA": say(b"554 5.6.0 no")},
    "reset at the dot": {"dot": reset},
    "nonsense": {"EHLO": say(b"\xff\xfe nonsense")},
    "accepted, quoting the mail": {"dot": say(b"250 2.0.0 queued as " + BODY.encode())},
    "refused, quoting the mail": {"dot": say(b"554 5.6.0 no " + BODY.encode())},
    "closing, quoting the mail": {"dot": say(b"421 4.7.0 bye " + BODY.encode())},
}


def repeat(code):
    """Say whatever was heard at AUTH, as it is meant and as it came."""

    def act(session):
        _, said = session.server.logins[-1]
        words = [word for each in said for word in (each, b64encode(each))]
        session.send(b"%s %s %s\r\n" % (code, PASSWORD.encode(), b" ".join(words)))

    return act


REPEATING = {
    "MAIL": repeat(b"550 5.7.1"),
    "RCPT": repeat(b"550 5.1.1"),
    "DATA": repeat(b"451 4.3.0"),
    "dot": repeat(b"554 5.6.0"),
    "the good end": repeat(b"250 2.0.0 queued as"),
    "the end of the line": repeat(b"421 4.7.0"),
}


def secretive(number=0):
    message = Message(f"hi {number}", ["ada@example.org"], BODY, f"<p>{BODY}</p>", sensitive=True)
    message.attach("a.txt", data=BODY)
    return message


def all_that_is_told(server, mechanism, compose, tmp_path):
    """Send in every way, and gather what an app is told and what is stored."""
    told = []
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config.update(
        MAIL_PORT=server.port,
        MAIL_DEFAULT_SENDER="shop@example.com",
        MAIL_USERNAME="ada",
        MAIL_DEBUG=True,
        MAIL_WORKER="process",
        MAIL_MAX_UNCLEAR=0,
        SECRET_KEY=KEY,
    )
    if mechanism == "XOAUTH2":
        app.config["MAIL_OAUTH2_TOKEN"] = lambda: TOKEN
    else:
        app.config["MAIL_PASSWORD"] = PASSWORD
    mail = Mail(app)
    runtime = app.extensions["outbox"]
    with app.app_context():
        for way in (mail.send, lambda message: asyncio.run(mail.send_async(message))):
            try:
                told.append(repr(way(compose())))
            except OutboxError as error:
                told += [*traceback.format_exception(error), repr(error), repr(vars(error))]
        rows = [mail.send_later(compose(number), key=f"key-{number}") for number in range(2)]
        drain(runtime.plan(), seconds=1.0)
        told += [repr(mail.status(row)) for row in rows]
        told += [repr(each) for each in (mail, runtime, runtime.settings, runtime.outbox)]
        told += [repr(runtime.transport()), repr(runtime.plan())]
    runtime.close()
    with sqlite3.connect(tmp_path / "instance" / "outbox.sqlite3") as database:
        told += [line for line in database.iterdump() if '"outbox_content"' not in line]
    database.close()
    return told


@pytest.mark.parametrize("auth", ["password", "token"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_whatever_the_server_does_no_secret_is_told(name, auth, tmp_path, caplog, capfd):
    caplog.set_level("DEBUG")
    secret = PASSWORD if auth == "password" else TOKEN
    script = {
        point: act or say(f"535 5.7.8 {secret} is wrong".encode())
        for point, act in SCRIPTS[name].items()
    }
    mechanism = "PLAIN" if auth == "password" else "XOAUTH2"
    with Hostile(script, auth=mechanism) as server:
        told = all_that_is_told(server, mechanism, secretive, tmp_path)
    told += [caplog.text, *capfd.readouterr()]
    for canary in CANARIES:
        assert not [text for text in told if canary in text]


def plain(number=0):
    return Message(f"hi {number}", ["ada@example.org"], "text")


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2"])
@pytest.mark.parametrize("name", REPEATING)
def test_whenever_the_server_repeats_a_login_no_secret_is_told(
    name, mechanism, tmp_path, caplog, capfd
):
    caplog.set_level("DEBUG")
    point = name if name.isupper() else "dot"
    with Hostile({point: REPEATING[name]}, auth=mechanism) as server:
        told = all_that_is_told(server, mechanism, plain, tmp_path)
    told += [caplog.text, *capfd.readouterr()]
    confided = [each for _, said in server.logins for each in said if each != b"ada"]
    coded = [b64encode(each).decode().rstrip("=") for each in confided]
    digests = [each.split(b" ")[-1].decode("latin-1") for each in confided]
    secret = TOKEN if mechanism == "XOAUTH2" else PASSWORD
    assert any("***" in text for text in told)
    for canary in (secret, *coded, *digests):
        assert not [text for text in told if canary in text]


def test_bad_input_is_refused_without_being_repeated():
    app = Flask("shop")
    app.config.update(TESTING=True, MAIL_DEFAULT_SENDER="shop@example.com")
    mail = Mail(app)
    told = []
    with app.app_context():
        for message in (
            Message(f"{BODY}\n", ["ada@example.org"], "text"),
            Message("hi", [f"{BODY}\r\n@example.org"], "text"),
            Message("hi", ["ada@example.org"], BODY, extra_headers={"X-A": f"{BODY}\r\n"}),
            Message("hi", ["ada@example.org"], BODY, charset=BODY),
            Message("hi", ["ada@example.org"], BODY + "\ud800"),
            Message(
                "hi", ["ada@example.org"], BODY, attachments=[Attachment(f"{BODY}\0", data="x")]
            ),
            Message("hi", [f"{BODY} <a@b@c>"], "text"),
        ):
            for way in (mail.send, mail.send_later):
                with pytest.raises(OutboxError) as caught:
                    way(message)
                told.append(f"{caught.value} {caught.value!r}")
    assert not [text for text in told if BODY in text]


def test_what_is_no_token_pauses_the_route_charges_no_mail_and_is_not_told(tmp_path, caplog, capfd):
    caplog.set_level("DEBUG")
    told = []
    with Hostile(auth="XOAUTH2") as server:
        app = Flask("shop", instance_path=str(tmp_path / "instance"))
        app.config.update(
            MAIL_PORT=server.port,
            MAIL_DEFAULT_SENDER="shop@example.com",
            MAIL_USERNAME="ada",
            MAIL_OAUTH2_TOKEN=lambda: f"{TOKEN}\udcff",
            MAIL_DEBUG=True,
            MAIL_WORKER="process",
        )
        mail = Mail(app)
        with app.app_context():
            for send in (mail.send, lambda message: asyncio.run(mail.send_async(message))):
                with pytest.raises(SendError, match="MAIL_OAUTH2_TOKEN") as caught:
                    send(plain())
                told += [*traceback.format_exception(caught.value), repr(vars(caught.value))]
            row = mail.send_later(plain())
            mail.drain(seconds=1.0)
            status = mail.status(row)
        app.extensions["outbox"].close()
    assert status.state is State.QUEUED
    assert status.attempts == status.crashes == 0
    assert "MAIL_OAUTH2_TOKEN" in status.recipients[0].reply
    assert "Route default is paused" in caplog.text
    assert server.accepted == []
    told += [repr(status), caplog.text, *capfd.readouterr()]
    assert not [text for text in told if TOKEN in text]


def full_of_it():
    message = secretive()
    message.sender = "shop@example.com"
    message.metadata, message.tags = {"for": BODY}, (BODY,)
    message.subject = BODY
    message.invitation = Invitation(f"BEGIN:VCALENDAR\nMETHOD:REQUEST\nSUMMARY:{BODY}")
    message.attach("a.bin", data=BODY.encode(), cid="a@b", headers={"X-Note": BODY})
    return message


def login_of(username="ada", password=PASSWORD):
    """The question that puts AUTH on the wire."""
    smtp = Smtp("127.0.0.1", 25, username=username, password=password)
    talk = smtp.send([seal(full_of_it(), now=0)])
    next(talk)
    talk.send(Opened(None, "127.0.0.1"))  # read the greeting
    talk.send(SmtpReply(220, ("hello",)))
    talk.send(None)  # read the answer to EHLO
    return talk.send(SmtpReply(250, ("hello", "AUTH PLAIN")))


def held():
    """Everything that holds a content or a credential on its way."""
    message = full_of_it()
    sealed = seal(message, now=0)
    composed = compose(message, read_mailboxes(message), now=0)
    app = Flask("shop")
    app.config.update(TESTING=True)
    mail = Mail(app)
    runtime = app.extensions["outbox"]
    with app.app_context():
        mail.send_later(message)
        prepared = runtime.prepare(message)
    receipt = Receipt.same(sealed, Accepted())
    return {
        "Message": message,
        "Attachment": message.attachments[0],
        "Invitation": message.invitation,
        "Composed": composed,
        "Part": composed.root,
        "Submission": sealed,
        "Parts": unseal(sealed.content),
        "Prepared": prepared,
        "Report": Report(sealed, receipt),
        "Recorded": Recorded(submission=sealed, receipt=receipt, state=State.ACCEPTED),
        "Write of a mail": Write((sealed.content,), 1.0),
        "Write of AUTH": login_of(),
        "the rehearsed": vars(runtime.rehearsal),
    }


def test_no_repr_shows_what_it_holds():
    told = {name: repr(each) for name, each in held().items()}
    assert {name for name, text in told.items() if any(each in text for each in CANARIES)} == set()


def test_a_repr_tells_which_and_how_large():
    sealed = seal(full_of_it(), now=0)
    assert sealed.message_id in repr(sealed)
    assert str(len(sealed.content)) in repr(sealed)
    assert repr(Write((b"12345", b"67"), 1.0)) == "Write(7 octets, seconds=1.0, replies=1)"
