"""What Flask-Mail does wrong, each of which was seen; here it is right."""

import copy
import email
import socket
import time
from email import policy

import pytest
from flask import Flask

import certificates
from flask_outbox import (
    Accepted,
    Attachment,
    BadHeaderError,
    Mail,
    Message,
    MessageError,
    Refused,
    SendError,
)
from hostile import Hostile, hang_up, reset, say, stall


def note(**fields):
    return Message(**{"subject": "hi", "recipients": ["ada@example.org"], "body": "text", **fields})


def app_for(server, **config):
    app = Flask("shop")
    app.config.update(MAIL_PORT=server.port, MAIL_DEFAULT_SENDER="shop@example.com", **config)
    Mail(app)
    return app


def send(server, message=None, **config):
    app = app_for(server, **config)
    with app.app_context():
        return app.extensions["mail"].send(message or note())


def parsed(message):
    return email.message_from_bytes(message.as_bytes(), policy=policy.default)


@pytest.mark.parametrize("kind", ["expired", "of another name", "of a stranger"])
def test_a_certificate_is_verified(kind):
    with Hostile(tls=certificates.server_context(kind)) as server:
        with pytest.raises(SendError):
            send(
                server,
                MAIL_SERVER="localhost",
                MAIL_USE_TLS=True,
                MAIL_TLS_CA_FILE=certificates.ca_file(),
            )
        assert server.accepted == []


@pytest.mark.parametrize("point", ["greet", "EHLO", "MAIL", "RCPT", "DATA", "dot"])
def test_a_server_that_says_nothing_is_given_up(point):
    with Hostile({point: stall}) as server:
        began = time.monotonic()
        with pytest.raises(SendError) as caught:
            send(server, MAIL_TIMEOUT=0.3)
        assert time.monotonic() - began < 5
    assert caught.value.may_have_left is (point == "dot")


def test_connect_without_with_connects(live, server):
    live.extensions["mail"].connect().send(note())
    assert len(server.taken) == 1


@pytest.mark.parametrize("act", [say(b"500 no"), reset, hang_up])
def test_quit_never_changes_the_outcome(act):
    with Hostile({"QUIT": act}) as server:
        receipt = send(server, MAIL_MAX_EMAILS=1)
        assert receipt.accepted == ["ada@example.org"]
        assert len(server.accepted) == 1


def test_a_partly_refused_list_is_in_the_receipt():
    with Hostile({"RCPT": [say(b"250 ok"), say(b"550 5.1.1 unknown")]}) as server:
        receipt = send(server, note(recipients=["ada@example.org", "bob@example.org"]))
    assert isinstance(receipt["ada@example.org"], Accepted)
    assert receipt["bob@example.org"] == Refused("550 5.1.1 unknown")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"extra_headers": {"X-A": "b\r\nBcc: e@example.net"}}, "X-A"),
        ({"extra_headers": {"X-A\r\nBcc": "e@example.net"}}, "extra_headers"),
        ({"cc": ["a@example.org\r\n"]}, "cc"),
        ({"bcc": ["a@example.org\n"]}, "bcc"),
        ({"attachments": [Attachment("a\r\nX: y.txt", data="x")]}, "filename"),
    ],
)
def test_line_breaks_are_refused_everywhere_by_name(mail, fields, named):
    with pytest.raises(BadHeaderError, match=named):
        mail.send(note(**fields))


@pytest.mark.parametrize("name", ["List-Unsubscribe", "References"])
def test_long_list_unsubscribe_and_references_are_never_encoded(mail, name):
    value = " ".join(f"<https://example.com/{'x' * 70}/{each}>" for each in range(3))
    text = note(extra_headers={name: value}).as_string()
    assert "=?" not in text
    assert parsed(note(extra_headers={name: value}))[name].replace(" ", "") == value.replace(
        " ", ""
    )


def test_a_name_with_a_comma_is_quoted(mail):
    message = note(sender=("Doe, John", "john@example.com"))
    assert 'From: "Doe, John" <john@example.com>' in message.as_string()


def test_recipients_that_are_a_text_are_refused_clearly(mail):
    with pytest.raises(MessageError, match="recipients"):
        Message("hi", "ada@example.org")


def test_the_callers_list_is_copied(mail):
    people = ["ada@example.org"]
    message = note(recipients=people)
    message.add_recipient("bob@example.org")
    assert people == ["ada@example.org"]


def test_html_among_the_alternatives_is_kept(mail):
    assert Message("hi", ["a@example.org"], alts={"html": "<p>hi</p>"}).html == "<p>hi</p>"


def test_recipients_stay_in_order_and_are_written_to_once(live, server):
    people = [f"{name}@example.org" for name in ("zoe", "ada", "mia", "bob")]
    live.extensions["mail"].send(note(recipients=people, cc=["ada@example.org", "cc@example.org"]))
    (taken,) = server.taken
    assert taken.recipients == [*people, "cc@example.org"]
    assert (
        b"To: zoe@example.org, ada@example.org, mia@example.org, bob@example.org" in taken.content
    )
    assert b"Cc: ada@example.org, cc@example.org" in taken.content


def test_an_empty_to_is_left_out(live, server):
    live.extensions["mail"].send(note(recipients=[], bcc=["ada@example.org"]))
    assert b"\r\nTo:" not in server.taken[0].content
    assert server.taken[0].recipients == ["ada@example.org"]


@pytest.mark.parametrize("name", ["Subject", "To", "Message-ID", "Reply-To"])
def test_extra_headers_replace(mail, name):
    value = {"Subject": "other", "Message-ID": "<other@example.com>"}.get(name, "o@example.org")
    message = note(reply_to="reply@example.com", extra_headers={name: value})
    assert parsed(message).get_all(name) == [value]


def test_an_internationalised_address_needs_smtputf8():
    with Hostile() as server:
        receipt = send(server, note(recipients=["jörg@example.org"]))
        assert receipt.accepted == ["jörg@example.org"]
        assert any(b"SMTPUTF8" in line for line in server.heard)
    with Hostile(extensions=()) as server, pytest.raises(SendError, match="SMTPUTF8"):
        send(server, note(recipients=["jörg@example.org"]))


def test_domains_are_encoded_by_idna_2008(live, server):
    live.extensions["mail"].send(note(recipients=["ada@straße.example"]))
    assert server.taken[0].recipients == ["ada@xn--strae-oqa.example"]


def test_lines_over_998_octets_are_re_encoded(live, server):
    body = "x" * 5000
    message = note(body=body)
    live.extensions["mail"].send(message)
    assert max(map(len, server.taken[0].content.split(b"\r\n"))) <= 998
    assert parsed(message).get_content().rstrip() == body


def test_a_text_attachment_says_that_it_is_utf8(mail):
    message = note()
    message.attach("a.txt", data="Grüße")
    (part,) = parsed(message).iter_attachments()
    assert part.get_content_charset() == "utf-8"
    assert part.get_content().rstrip() == "Grüße"


def test_an_attached_message_is_not_in_base64(mail):
    message = note()
    message.attach("m.eml", "message/rfc822", b"Subject: inner\r\n\r\nhello\r\n")
    text = message.as_string()
    assert "Subject: inner" in text
    assert "base64" not in text


def test_mail_debug_says_neither_password_nor_body(caplog, capsys):
    caplog.set_level("DEBUG")
    with Hostile(auth="PLAIN LOGIN") as server:
        send(
            server,
            note(body="the secret body"),
            MAIL_DEBUG=True,
            MAIL_USERNAME="ada",
            MAIL_PASSWORD="s3cret-word",
        )
        assert server.logins
    said = caplog.text + "".join(capsys.readouterr())
    assert "AUTH PLAIN …" in said
    assert "RCPT TO:<…@example.org>" in said
    for secret in ("s3cret-word", "the secret body", "AGFkYQBzM2NyZXQtd29yZA=="):
        assert secret not in said


@pytest.mark.parametrize(("text", "value"), [("False", False), ("0", False), ("true", True)])
def test_values_from_the_environment_are_parsed(text, value):
    app = Flask("shop")
    app.config.update(MAIL_USE_TLS=text, MAIL_PORT="2525", MAIL_MAX_EMAILS="", MAIL_DEBUG=text)
    state = Mail(app).state
    assert state.use_tls is value
    assert state.port == 2525
    assert state.max_emails is None
    assert state.debug == int(value)


def test_copying_mail_works_and_a_typo_is_an_attribute_error(mail):
    assert copy.copy(mail).app is mail.app
    assert copy.copy(Mail()).app is None
    with pytest.raises(AttributeError):
        _ = mail.supress


def test_inline_images_go_into_multipart_related(mail):
    message = note(html='<img src="cid:logo">')
    message.attach("logo.png", "image/png", b"x", "inline", {"Content-ID": "<logo>"})
    assert "multipart/related" in [part.get_content_type() for part in parsed(message).walk()]


def test_it_hangs_on_no_server_that_stops_answering():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        app = Flask("shop")
        app.config.update(
            MAIL_PORT=silent.getsockname()[1], MAIL_DEFAULT_SENDER="a@b.example", MAIL_TIMEOUT=0.2
        )
        mail = Mail(app)
        with app.app_context(), pytest.raises(SendError):
            mail.send(note())
