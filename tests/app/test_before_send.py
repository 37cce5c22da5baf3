"""@mail.before_send, and the sandbox of MAIL_REDIRECT_TO and MAIL_ALLOW_ONLY, in every way."""

import asyncio
import email
from email import policy

import pytest
from flask import Flask, current_app

from flask_outbox import Attachment, Mail, Message, MessageCancelled, MessageError
from flask_outbox.transports.local import Memory


def note(**fields):
    return Message(**{"subject": "hi", "recipients": ["ada@example.org"], "body": "text", **fields})


def send(mail, message):
    mail.send(message)


def send_async(mail, message):
    asyncio.run(mail.send_async(message))


def connect(mail, message):
    with mail.connect() as connection:
        connection.send(message)


def send_message(mail, message):
    mail.send_message(
        message.subject,
        message.recipients,
        message.body,
        cc=message.cc,
        bcc=message.bcc,
        extra_headers=message.extra_headers,
    )


def state(mail, message):
    current_app.extensions["mail"].send(message)


WAYS = pytest.mark.parametrize("way", [send, send_async, connect, send_message, state])


@pytest.fixture
def memory():
    return Memory()


@pytest.fixture
def make(memory, tmp_path):
    def make(**config):
        app = Flask("shop", instance_path=str(tmp_path / "instance"))
        app.config.update(MAIL_TRANSPORT=memory, MAIL_DEFAULT_SENDER="shop@example.com", **config)
        return app, Mail(app)

    return make


def parsed(submission):
    return email.message_from_bytes(submission.content, policy=policy.default)


@WAYS
def test_each_function_may_change_what_goes_out(make, memory, way):
    app, mail = make()

    @mail.before_send
    def footer(message):
        assert current_app == app
        message.body += "\n-- \nThe shop"
        message.recipients.append("archive@example.com")
        message.extra_headers = {"X-Shop": "1"}

    @mail.before_send
    def second(message):
        message.subject += "!"

    message = note()
    with app.app_context(), mail.record_messages() as outbox:
        way(mail, message)
    (sent,) = memory.sent
    assert sent.recipients == ("ada@example.org", "archive@example.com")
    assert parsed(sent)["subject"] == "hi!"
    assert "The shop" in parsed(sent).get_content()
    assert outbox[0].subject == "hi!"
    assert (message.subject, message.body) == ("hi", "text")
    assert message.recipients == ["ada@example.org"]


def test_a_set_of_recipients_is_a_copy_too_and_the_sandbox_goes_through_it_in_one_order(
    make, memory
):
    app, mail = make(MAIL_ALLOW_ONLY="@example.org, archive@example.com")
    mail.before_send(lambda message: message.recipients.add("archive@example.com"))
    theirs = {f"{letter}@example.org" for letter in "hgfedcba"}
    message = note()
    message.recipients = set(theirs)
    with app.app_context():
        mail.send(message)
    assert memory.sent[0].recipients == tuple(sorted({*theirs, "archive@example.com"}))
    assert message.recipients == theirs


@WAYS
def test_a_function_may_cancel_with_a_reason(make, memory, way):
    app, mail = make()

    @mail.before_send
    def unsubscribed(message):
        raise MessageCancelled("ada has unsubscribed")

    with (
        app.app_context(),
        mail.record_messages() as outbox,
        pytest.raises(MessageCancelled, match="unsubscribed"),
    ):
        way(mail, note())
    assert outbox == memory.sent == []


def test_send_later_runs_them_in_the_call_and_writes_nothing_when_cancelled(make):
    app, mail = make(MAIL_WORKER="process")

    @mail.before_send
    def change(message):
        if not message.cc:
            raise MessageCancelled("no copy for the boss")
        message.subject = "changed"

    with app.app_context():
        with pytest.raises(MessageCancelled, match="boss"):
            mail.send_later(note())
        assert not app.extensions["outbox"].where.exists()
        row = mail.send_later(note(cc=["boss@example.com"]))
        assert mail.status(row).message_id
    app.extensions["outbox"].close()


def test_they_run_under_testing_too(make):
    app, mail = make(TESTING=True)
    mail.before_send(lambda message: setattr(message, "subject", "changed"))
    with app.app_context(), mail.record_messages() as outbox:
        mail.send(note())
        mail.send_later(note())
    assert [each.subject for each in outbox] == ["changed", "changed"]


def test_they_may_be_added_before_the_app_and_serve_all_its_apps(make, memory):
    app, _ = make()
    mail = Mail()
    seen = []
    mail.before_send(lambda _: seen.append(current_app.name))
    mail.init_app(app)
    other = Flask("other")
    other.config.update(app.config)
    mail.init_app(other)
    for each in (app, other):
        with each.app_context():
            mail.send(note())
    assert seen == ["shop", "other"]


def test_a_message_sent_twice_is_changed_once_each_time_and_keeps_its_id(make, memory):
    app, mail = make()

    @mail.before_send
    def footer(message):
        message.body += "."

    message = note()
    with app.app_context():
        mail.send(message)
        mail.send(message)
    assert [parsed(each).get_content().strip() for each in memory.sent] == ["text.", "text."]
    assert {each.message_id for each in memory.sent} == {message.msgId}


def test_lists_and_dicts_of_a_message_are_changed_in_a_copy(make, memory):
    app, mail = make()

    @mail.before_send
    def one_more(message):
        for field in ("recipients", "cc", "bcc", "reply_to"):
            getattr(message, field).append(f"{field.replace('_', '-')}@example.org")
        message.attachments.append(Attachment("a.txt", data="x"))
        message.alts["x-amp-html"] = "<p>"
        message.extra_headers["X-A"] = "b"

    message = note(cc=["c@example.org"], reply_to=["r@example.org"], extra_headers={"X-B": "c"})
    with app.app_context():
        mail.send(message)
    assert len(memory.sent[0].recipients) == 5
    assert parsed(memory.sent[0])["reply-to"] == "r@example.org, reply-to@example.org"
    assert (message.recipients, message.cc) == (["ada@example.org"], ["c@example.org"])
    assert (message.bcc, message.reply_to) == ([], ["r@example.org"])
    assert (message.attachments, message.alts, message.extra_headers) == ([], {}, {"X-B": "c"})


def test_attachments_and_metadata_of_a_message_are_changed_in_a_copy(make, memory):
    app, mail = make()

    @mail.before_send
    def rename(message):
        message.attachments[0].filename = f"new-{message.attachments[0].filename}"
        message.attachments[0].headers["X-A"] += "b"
        message.metadata["seen"] = "yes"

    message = note(attachments=[Attachment("a.txt", data="x", headers={"X-A": "a"})])
    with app.app_context():
        for _ in range(2):
            mail.send(message)
    assert [b'filename="new-a.txt"' in each.content for each in memory.sent] == [True, True]
    assert [b"X-A: ab\r\n" in each.content for each in memory.sent] == [True, True]
    assert message.attachments[0].headers == {"X-A": "a"}
    assert message.metadata == {}


@WAYS
def test_redirect_covers_to_cc_bcc_and_envelope(make, memory, way):
    app, mail = make(MAIL_REDIRECT_TO="tester@example.com")
    with app.app_context():
        way(
            mail,
            note(
                cc=["Cc <cc@example.org>"],
                bcc=["bcc@example.org"],
                extra_headers={"to": "forged@example.org", "X-A": "b"},
            ),
        )
    (sent,) = memory.sent
    assert sent.recipients == ("tester@example.com",)
    read = parsed(sent)
    assert (read["to"], read["cc"], read["bcc"]) == ("tester@example.com", None, None)
    assert read["x-redirected-from"] == "ada@example.org, cc@example.org, bcc@example.org"
    assert read["x-a"] == "b"


@WAYS
def test_allow_only_drops_the_others(make, memory, way):
    app, mail = make(MAIL_ALLOW_ONLY="@exämple.com, ada@example.org")
    with app.app_context():
        way(
            mail,
            note(
                recipients=["Ada@Example.org", "bob@example.org", "eve@evil-xn--exmple-cua.com"],
                cc=["cc@XN--EXMPLE-CUA.com", "cc@sub.xn--exmple-cua.com"],
                bcc=["bcc@exämple.com", "bcc@example.org"],
            ),
        )
    (sent,) = memory.sent
    assert sent.recipients == (
        "Ada@example.org",
        "cc@xn--exmple-cua.com",
        "bcc@xn--exmple-cua.com",
    )
    assert b"bob@" not in sent.content
    assert b"eve@" not in sent.content


def test_allow_only_that_leaves_nobody_sends_nothing_and_fails_nothing(make, memory, caplog):
    caplog.set_level("INFO")
    app, mail = make(MAIL_ALLOW_ONLY="@example.com")
    with app.app_context(), mail.record_messages() as outbox:
        assert mail.send(note()) == {}
        assert asyncio.run(mail.send_async(note())) == {}
        assert mail.send_later(note()) == ""
    assert outbox == memory.sent == []
    assert "MAIL_ALLOW_ONLY" in caplog.text
    assert "ada@" not in caplog.text


def test_both_together_let_the_allowed_through_and_redirect_the_rest(make, memory):
    app, mail = make(MAIL_ALLOW_ONLY="@example.com", MAIL_REDIRECT_TO=["t@example.net"])
    with app.app_context():
        mail.send(note(recipients=["ok@example.com", "ada@example.org"]))
        mail.send(note(recipients=["ok@example.com"]))
    assert [each.recipients for each in memory.sent] == [
        ("ok@example.com", "t@example.net"),
        ("ok@example.com",),
    ]


def test_the_sandbox_stands_behind_before_send(make, memory):
    app, mail = make(MAIL_REDIRECT_TO="tester@example.com")
    mail.before_send(lambda message: message.bcc.append("leak@example.org"))
    with app.app_context():
        mail.send(note())
    assert memory.sent[0].recipients == ("tester@example.com",)


def test_bad_addresses_are_bad_in_the_sandbox_too(make, memory):
    app, mail = make(MAIL_REDIRECT_TO="tester@example.com")
    with app.app_context():
        for fields in ({"recipients": ["nobody"]}, {"bcc": ["a@b@c"]}, {"recipients": []}):
            with pytest.raises(MessageError):
                mail.send(note(**fields))
    assert memory.sent == []


def test_attachments_from_below_the_roots_alone(make, memory, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("inside")
    (tmp_path / "out.txt").write_text("outside")
    app, mail = make(MAIL_ATTACHMENT_ROOTS=[str(tmp_path / "in")])
    with app.app_context():
        good, bad = note(), note()
        good.attach_file(tmp_path / "in" / "a.txt")
        bad.attach_file(tmp_path / "in" / ".." / "out.txt")
        mail.send(good)
        with pytest.raises(MessageError, match="MAIL_ATTACHMENT_ROOTS"):
            mail.send(bad)
    assert len(memory.sent) == 1


def test_limits_and_text_from_html_are_settings(make, memory):
    app, mail = make(MAIL_MAX_SIZE=5000, MAIL_MAX_RECIPIENTS="2", MAIL_TEXT_FROM_HTML="yes")
    with app.app_context():
        with pytest.raises(MessageError, match="5000"):
            mail.send(note(attachments=[Attachment("a.bin", data=b"x" * 5000)]))
        with pytest.raises(MessageError, match="2"):
            mail.send(note(recipients=[f"{each}@example.org" for each in "abc"]))
        mail.send(note(body=None, html="<p>only <b>html</b></p>"))
    assert parsed(memory.sent[0]).get_body(("plain",)).get_content().strip() == "only html"
