"""What is seen at a glance is what is read in full."""

from hypothesis import given, settings
from hypothesis import strategies as st

from flask_outbox.mail.attachment import Invitation
from flask_outbox.mail.message import Message
from flask_outbox.mail.mime import seal
from flask_outbox.mail.outline import USUAL, outline
from flask_outbox.mail.unseal import unseal

NOW = 1_764_400_000.0
TEXT = (
    st.none()
    | st.sampled_from(
        [
            "",
            " ",
            "\n",
            "\xa0",
            "a",
            "\u2003\n ",
            "=_00_1",
            "--=_0\n\nSubject: x\n\n",
            "ü" * 99,
            "x" * 2000,
        ]
    )
    | st.text(max_size=40)
)
SENDERS = [
    "shop@example.com",
    ("The Shop", "shop@example.com"),
    ('A "B" <c@d.example>, Ü', "Shop@bücher.example"),
    ("long " * 30, "shop@" + "a" * 60 + ".example"),
    ("Ünal", "ünal@example.com"),
]
NAMES = st.sampled_from(["a.txt", "räché.txt", None])
TYPES = st.sampled_from(
    ["text/plain", "text/html", "application/pdf", "text/calendar", "image/png"]
)
ATTACHMENT = st.fixed_dictionaries(
    {
        "filename": NAMES,
        "content_type": TYPES,
        "data": st.sampled_from([b"", b"x", b"\r\n--=_", b"y" * 99]),
    },
    optional={
        "disposition": st.just("inline"),
        "cid": st.just("logo@x"),
        "headers": st.sampled_from([{"X-Own": "1"}, {"Content-ID": "<a@b>"}, {"Subject": "x"}]),
    },
)
MAILS = st.fixed_dictionaries(
    {"sender": st.sampled_from(SENDERS), "recipients": st.just(["ada@example.org"])},
    optional={
        "subject": st.sampled_from(["", "hi", "Ü" * 60, 'multipart/x; boundary="=_00_1"', "a: b"]),
        "body": TEXT,
        "html": TEXT,
        "alts": st.just({"x-amp-html": "<html amp4email></html>"}),
        "invitation": st.just(Invitation("BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nEND:VCALENDAR\r\n")),
        "extra_headers": st.just({"X-Order": "42 " * 60, "Received": "from x"}),
    },
)


def sealed(mail, attachments):
    message = Message(**mail)
    for each in attachments:
        message.attach(**each)
    return seal(message, now=NOW)


@settings(max_examples=150)
@given(mail=MAILS, attachments=st.lists(ATTACHMENT, max_size=3))
def test_a_glance_sees_what_is_read_in_full(mail, attachments):
    submission = sealed(mail, attachments)
    seen, read = outline(submission.content), unseal(submission.content)
    assert seen.author == read.sender.addr == submission.author
    assert bool(seen.fields.get("subject")) == bool(read.subject)
    assert {name: leaf.text.replace("\r\n", "\n") for name, leaf in seen.texts.items()} == {
        name: text
        for name, text in {"plain": read.text, "html": read.html, **read.alternatives}.items()
        if text is not None
    }
    assert [(each.kind, bool(each.content)) for each in seen.attachments] == [
        (each.content_type, bool(each.data)) for each in read.attachments
    ]
    for leaf, attachment in zip(seen.attachments, read.attachments, strict=True):
        assert leaf.fields.keys() - USUAL >= {name.lower() for name, _ in attachment.headers}
    assert {name.lower() for name, _ in read.headers} <= seen.fields.keys()


def test_a_message_inside_is_one_part():
    inner = seal(Message("in", ["a@example.org"], "x", html="y", sender="s@example.com"), now=NOW)
    message = Message("hi", ["ada@example.org"], "hello", sender="shop@example.com")
    message.attach("mail.eml", "message/rfc822", inner.content)
    seen = outline(seal(message, now=NOW).content)
    assert [each.kind for each in seen.leaves] == ["text/plain", "message/rfc822"]
    assert seen.author == "shop@example.com"


def test_a_mail_that_was_forgotten_has_nothing_to_see():
    seen = outline(b"")
    assert (seen.author, seen.attachments) == ("", [])
