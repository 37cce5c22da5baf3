"""What is of a wrong kind altogether answers with the field's name, at the call or when sealed."""

import pytest

from flask_outbox.mail.errors import MessageError
from flask_outbox.mail.message import Attachment, Message
from flask_outbox.mail.mime import seal


def sealed(**fields):
    message = Message("Hi", ["ada@example.org"], "Hello.", sender="shop@example.com")
    for name, value in fields.items():
        setattr(message, name, value)
    return seal(message, now=1.0)


AT_THE_CALL = {
    "metadata": lambda: Message(metadata="x"),
    "alts": lambda: Message(alts=["x"]),
    "extra_headers": lambda: Message(extra_headers="x"),
    "attachments": lambda: Message(attachments="x"),
    "attach_file": lambda: Message().attach_file(None),
    "attach_file, of bytes": lambda: Message().attach_file(b"/etc/hostname"),
    "attach_file, of anything": lambda: Message().attach_file(object()),
}


@pytest.mark.parametrize("field", AT_THE_CALL)
def test_a_wrong_kind_at_the_call_is_an_error_that_names_the_field(field):
    with pytest.raises(MessageError, match=field.partition(",")[0]):
        AT_THE_CALL[field]()


WHEN_SEALED = {
    "dsn": "x",
    "attachments": ["x"],
    "metadata": "x",
    "extra_headers": ["x"],
    "alts": ["x"],
    "tags": "newsletter",
    "tags, a number": 5,
    "references": 5,
    "list_help": 5,
    "list_id": 5,
    "auto_submitted": 5,
    "auto_submitted, two words": "auto generated",
    "invitation": 5,
    "mail_options": 5,
    "rcpt_options": [5],
}


@pytest.mark.parametrize("field", WHEN_SEALED)
def test_a_wrong_kind_set_later_is_an_error_that_names_the_field_when_sealed(field):
    name = field.partition(",")[0]
    with pytest.raises(MessageError, match=name):
        sealed(**{name: WHEN_SEALED[field]})


@pytest.mark.parametrize(
    ("part", "wrong"),
    [("filename", 5), ("content_type", 5), ("disposition", 5), ("headers", "x"), ("data", 5)],
)
def test_a_wrong_kind_in_an_attachment_names_its_field(part, wrong):
    attachment = Attachment("a.bin", "a/b", b"x")
    setattr(attachment, part, wrong)
    with pytest.raises(MessageError, match=part):
        sealed(attachments=[attachment])


def test_an_address_without_an_at_sign_is_told_so():
    with pytest.raises(MessageError, match="@"):
        sealed(recipients=["root"])


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd"])
def test_a_list_takes_only_urls_that_a_mail_program_may_open(url):
    with pytest.raises(MessageError, match="list_unsubscribe"):
        sealed(list_unsubscribe=[url])


def test_a_date_header_by_hand_must_be_a_date():
    with pytest.raises(MessageError, match="Date"):
        sealed(extra_headers={"Date": "nope"})
    assert (
        b"Date: Tue, 01 Jul 2025 10:00:00 +0200\r\n"
        in sealed(extra_headers={"Date": "Tue, 01 Jul 2025 10:00:00 +0200"}).content
    )
