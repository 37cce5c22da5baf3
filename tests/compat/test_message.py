"""Message and Attachment: the constructor, the members, and what they read like."""

import copy
import email
import json
import pickle
import time
from email import policy

import pytest

from flask_outbox import Attachment, Mail, Message


def parsed(message):
    return email.message_from_bytes(message.as_bytes(), policy=policy.default)


def test_the_constructor_takes_flask_mails_fifteen_by_position(mail):
    attachment = Attachment("a.txt", "text/plain", "x")
    message = Message(
        "subject",
        ["to@example.org"],
        "body",
        "<p>html</p>",
        {"amp": "<amp>"},
        "sender@example.com",
        ["cc@example.org"],
        ["bcc@example.org"],
        [attachment],
        "reply@example.com",
        1_700_000_000.0,
        "utf-8",
        {"X-Extra": "yes"},
        ["BODY=8BITMIME"],
        ["NOTIFY=NEVER"],
    )
    assert message.subject == "subject"
    assert message.recipients == ["to@example.org"]
    assert message.body == "body"
    assert message.html == "<p>html</p>"
    assert message.alts == {"amp": "<amp>", "html": "<p>html</p>"}
    assert message.sender == "sender@example.com"
    assert (message.cc, message.bcc) == (["cc@example.org"], ["bcc@example.org"])
    assert message.attachments == [attachment]
    assert message.reply_to == "reply@example.com"
    assert message.date == 1_700_000_000.0
    assert message.charset == "utf-8"
    assert message.extra_headers == {"X-Extra": "yes"}
    assert message.mail_options == ["BODY=8BITMIME"]
    assert message.rcpt_options == ["NOTIFY=NEVER"]


def test_ours_are_keyword_only(mail):
    with pytest.raises(TypeError):
        Message(*[None] * 15, "in_reply_to")


def test_attachment_takes_its_five_by_position():
    attachment = Attachment("a.bin", "image/png", b"x", "inline", {"Content-ID": "<1>"})
    assert (attachment.filename, attachment.content_type) == ("a.bin", "image/png")
    assert (attachment.data, attachment.disposition) == (b"x", "inline")
    assert attachment.headers == {"Content-ID": "<1>"}


def test_attach_takes_the_same_five(mail):
    message = Message()
    message.attach("a.bin", "image/png", b"x", "inline", {"Content-ID": "<1>"})
    (attachment,) = message.attachments
    assert vars(attachment) == vars(
        Attachment("a.bin", "image/png", b"x", "inline", {"Content-ID": "<1>"})
    )


def test_an_attachment_without_data_is_a_value_error(mail):
    with pytest.raises(ValueError, match="data"):
        Attachment("a.txt")
    with pytest.raises(ValueError, match="data"):
        Message().attach("a.txt")


@pytest.mark.parametrize(
    ("filename", "data", "guessed"),
    [
        ("a.pdf", b"x", "application/pdf"),
        ("a.html", "x", "text/html"),
        (None, "x", "text/plain"),
        (None, b"x", "application/octet-stream"),
        ("a.unheard-of", b"x", "application/octet-stream"),
    ],
)
def test_the_type_is_guessed_from_the_name_else_from_the_data(filename, data, guessed):
    assert Attachment(filename, data=data).content_type == guessed
    assert Attachment(filename, data=data).disposition == "attachment"


def test_everything_can_be_set_after_construction(mail):
    message = Message()
    message.subject = "later"
    message.recipients = ["ada@example.org"]
    message.body = "text"
    message.html = "<p>html</p>"
    message.cc = ["cc@example.org"]
    message.bcc = ["bcc@example.org"]
    message.reply_to = "reply@example.com"
    message.date = 0.0
    message.extra_headers = {"X-A": "b"}
    message.msgId = "<mine@example.com>"
    read = parsed(message)
    assert read["subject"] == "later"
    assert read["cc"] == "cc@example.org"
    assert read["reply-to"] == "reply@example.com"
    assert read["x-a"] == "b"
    assert read["message-id"] == "<mine@example.com>"
    assert read["date"].datetime.year == 1970
    assert read["bcc"] is None


def test_html_reads_and_writes_its_alternative(mail):
    message = Message(html="<p>1</p>")
    assert message.alts == {"html": "<p>1</p>"}
    message.alts["html"] = "<p>2</p>"
    assert message.html == "<p>2</p>"
    message.html = None
    assert message.alts == {}
    assert Message(alts=[("json", "{}")]).alts == {"json": "{}"}
    assert Message(html="<p>3</p>", alts={"html": "<p>4</p>"}).alts == {"html": "<p>3</p>"}


def test_send_to_is_a_set_of_everybody(mail):
    message = Message(recipients=["a@example.org"], cc=["b@example.org"], bcc=["c@example.org"])
    message.add_recipient("b@example.org")
    assert message.send_to == {"a@example.org", "b@example.org", "c@example.org"}
    assert isinstance(message.send_to, set)


def test_as_string_as_bytes_str_and_bytes_say_the_same(mail):
    message = Message("hi", ["ada@example.org"], "text")
    assert message.as_string() == str(message) == message.as_bytes().decode()
    assert message.as_bytes() == bytes(message)


def test_as_bytes_gives_the_same_each_time(mail):
    message = Message("hi", ["ada@example.org"], "text", "<p>html</p>")
    message.attach("a.txt", data="x")
    assert message.as_bytes() == message.as_bytes()


def test_the_date_that_is_shown_before_sending_is_todays(mail):
    shown = parsed(Message("hi", ["ada@example.org"], "text"))["date"].datetime
    assert abs(time.time() - shown.timestamp()) < 60


def test_the_default_sender_is_the_apps(app, mail):
    assert Message().sender == "shop@example.com"
    app.extensions["mail"].default_sender = ("tester", "tester@example.com")
    assert Message().sender == "tester <tester@example.com>"
    assert Message(sender="own@example.com").sender == "own@example.com"


def test_a_tuple_sender_reads_back_as_text(mail):
    assert Message(sender=("tester", "t@example.com")).sender == "tester <t@example.com>"


def test_date_is_none_until_sent(mail):
    message = Message("hi", ["ada@example.org"], "text")
    message.as_string()
    assert message.date is None
    mail.send(message)
    assert message.date is not None


def test_the_message_id_is_made_when_first_read_with_the_senders_domain(mail):
    message = Message(sender="a@example.com")
    assert "msgId" not in vars(message)
    assert message.msgId == message.msgId
    assert message.msgId.endswith("@example.com>")
    assert message.msgId != Message(sender="a@example.com").msgId


def test_there_is_no_bcc_header_and_no_empty_subject(mail):
    message = Message("", ["a@example.org"], "text", bcc=["b@example.org"])
    assert b"b@example.org" not in message.as_bytes()
    assert parsed(message)["subject"] is None


def test_an_ascii_body_stays_readable(mail):
    assert (
        "\r\n\r\nHello Joe,\r\nhow are you?"
        in Message("hi", ["a@example.org"], "Hello Joe,\nhow are you?").as_string()
    )


def test_shift_jis_goes_out_as_iso_2022_jp(mail):
    message = Message(
        "表題", ["a@example.org"], "内容", sender=("送信者", "b@example.com"), charset="shift_jis"
    )
    text = message.as_string()
    assert "Subject: =?iso-2022-jp?" in text
    assert "From: =?iso-2022-jp?" in text
    assert 'charset="iso-2022-jp"' in text
    assert parsed(message).get_content() == "内容\n" or "内容" in parsed(message).get_content()


def test_a_file_name_that_is_not_ascii_is_percent_encoded(mail):
    message = Message("hi", ["a@example.org"], "text")
    message.attach("ünicöde ✓.txt", "text/plain", b"x")
    assert "filename*=UTF8''%C3%BCnic%C3%B6de%20%E2%9C%93.txt" in message.as_string()


def test_mail_ascii_attachments_makes_file_names_ascii(app, mail):
    app.extensions["mail"].ascii_attachments = True
    message = Message("hi", ["a@example.org"], "text")
    message.attach("ünicödeß ←.→ ✓.txt", "text/plain", b"x")
    assert 'filename="unicode . .txt"' in message.as_string()


def test_other_alternatives_go_out_as_text_of_their_key(mail):
    message = Message("hi", ["a@example.org"], "text", alts={"json": '{"a": 1}'})
    assert [part.get_content_type() for part in parsed(message).iter_parts()] == [
        "text/plain",
        "text/json",
    ]


@pytest.mark.parametrize(
    "subject",
    ["testing\r\n", "testing\n\r", "a\r\n b\r\n ", "a\r\n b\r\n\t", "a\nb", "a\r\nb", "\r\n a"],
)
def test_has_bad_headers_tells_of_a_broken_subject(mail, subject):
    assert Message(subject, ["a@example.org"]).has_bad_headers()


def test_a_folded_subject_is_no_bad_header(mail):
    message = Message("a\r\n b\r\n \tc", ["a@example.org"], "text")
    assert not message.has_bad_headers()
    mail.send(message)


@pytest.mark.parametrize(
    "fields",
    [
        {"sender": "a@example.com\r\n"},
        {"recipients": ["a@example.org\n"]},
        {"recipients": [("a\r\nb", "a@example.org")]},
        {"cc": ["a@example.org\n"]},
        {"bcc": ["a@example.org\n"]},
        {"reply_to": "a@example.org\r"},
        {"extra_headers": {"X-A": "b\r\nBcc: e@example.net"}},
        {"attachments": [Attachment("a\r\nb.txt", data="x")]},
    ],
)
def test_has_bad_headers_looks_everywhere(mail, fields):
    assert Message("subject", **fields).has_bad_headers()


def test_is_bad_headers_is_deprecated(mail):
    with pytest.deprecated_call():
        assert not Message("hi", ["a@example.org"]).is_bad_headers()


def test_as_string_strips_instead_of_raising(mail):
    message = Message(
        "a\r\nb",
        ["to\r\n@example.org", "two@example.org\r\n"],
        "text",
        sender="from@example.com\r\n",
        reply_to="reply@example.com\r",
    )
    text = message.as_string()
    assert "To: to@example.org" in text
    assert "From: from@example.com\r\n" in text
    assert "Reply-To: reply@example.com\r\n" in text


def test_a_message_can_be_sent_by_its_own_method(mail):
    with mail.record_messages() as outbox, mail.connect() as connection:
        Message("hi", ["a@example.org"], "text").send(connection)
    assert [each.subject for each in outbox] == ["hi"]


def test_without_an_app_a_message_with_a_sender_can_be_made_and_read():
    message = Message("hi", ["a@example.org"], "text", sender="b@example.com")
    assert b"From: b@example.com" in message.as_bytes()
    assert Message("hi").sender is None


def test_keyword_expansion_of_json_makes_a_message(mail):
    data = json.loads('{"subject": "hi", "recipients": ["a@example.org"], "body": "text"}')
    assert Message(**data).subject == "hi"


def test_updating_the_dict_moves_a_message(mail):
    message = Message("hi", ["a@example.org"], "text", "<p>html</p>")
    expected = message.as_bytes()
    other = Message()
    other.__dict__.update(json.loads(json.dumps(vars(message))))
    assert other.as_bytes() == expected
    mail.send(other)


def test_a_message_can_be_pickled_and_copied(mail):
    message = Message("hi", ["a@example.org"], "text", "<p>html</p>")
    message.attach("a.txt", data="x")
    expected = message.as_bytes()
    assert pickle.loads(pickle.dumps(message)).as_bytes() == expected  # noqa: S301  our own
    assert copy.copy(message).as_bytes() == expected
    assert copy.deepcopy(message).as_bytes() == expected


def test_a_message_without_recipients_can_be_read(mail):
    assert parsed(Message("hi", body="text"))["to"] is None


def test_mail_is_not_needed_to_be_set_up_for_a_message(app):
    assert Message("hi").sender is None
    Mail(app)
    assert Message("hi").sender == "shop@example.com"
