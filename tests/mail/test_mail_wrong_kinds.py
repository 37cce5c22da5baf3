"""What is of a wrong kind altogether answers with the field's name, at the call or when sealed."""

import re
from inspect import signature

import pytest

from flask_outbox.mail.errors import MessageError
from flask_outbox.mail.message import Attachment, Invitation, Message
from flask_outbox.mail.mime import seal
from flask_outbox.mail.submission import Dsn


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
    "provider": "x",
    "track_opens": "yes",
    "track_clicks": 5,
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


WORD = "x" * 2000
ANYTHING = [
    *(5, 1.5, True, b"x", b"\xff", object(), float("nan"), -1e30, "\ud800", WORD),
    *(["x"], [5], [None], [["a"]], [WORD], ["\ud800"], ("a", "b", "c"), ("a", 5), (None, "a")),
    *({"a": 1}, {1: "t"}, {"a": None}, {None: "x"}, {"html": "\ud800"}, {WORD: "t"}, {"x": ["y"]}),
    *({"*": ("NEVER",)}, {"*": 5}, {5: ("NEVER",)}, {"*": [5]}, {"a": b"\xff"}),
    *("METHOD:REQUEST\n\ud800", f"METHOD:{WORD}", "METHOD:REQUEST"),
]
FIELDS = [name for name in signature(Message).parameters if name != "html"]
PARTS = ["filename", "content_type", "data", "disposition", "headers", "cid"]


def with_part(name, value):
    attachment = Attachment("a.txt", data="x")
    setattr(attachment, name, value)
    return {"attachments": [attachment]}


def around(name, value):
    """The field's value as it is given to whatever takes it."""
    return {"subject": "Hi", "recipients": ["a@x.test"], "sender": "s@x.test", name: value}


AT_ANY_PLACE = {
    **{(f, "at the call"): lambda v, f=f: seal(Message(**around(f, v)), now=1.0) for f in FIELDS},
    **{(f, "set later"): lambda v, f=f: sealed(**{f: v}) for f in [*FIELDS, "html", "msgId"]},
    **{(p, "set later"): lambda v, p=p: sealed(**with_part(p, v)) for p in PARTS},
    **{
        (p, "at the call"): lambda v, p=p: sealed(
            attachments=[Attachment(**{"filename": "a.txt", "data": "x", p: v})]
        )
        for p in PARTS
    },
    **{
        (p, "of an invitation"): lambda v, p=p: sealed(
            invitation=Invitation(**{"content": "METHOD:REQUEST", p: v})
        )
        for p in ("content", "method")
    },
    **{(p, "of dsn"): lambda v, p=p: sealed(dsn=Dsn(**{p: v})) for p in ("notify", "ret", "envid")},
    ("return_path", ""): lambda v: seal(
        Message("s", ["a@x.test"], sender="s@x.test"), now=1.0, return_path=v
    ),
}


def refusal_of(give, value):
    """The text of the error; nothing where it was sealed."""
    try:
        give(value)
    except MessageError as error:
        return str(error)
    return ""


OTHER_NAMES = {"alts": "alts|html", "data": "attachments"}


@pytest.mark.parametrize("place", AT_ANY_PLACE, ids=" ".join)
def test_whatever_is_given_is_sealed_or_refused_by_name(place):
    field, how = place
    name = "invitation" if how == "of an invitation" else OTHER_NAMES.get(field, field)
    refusals = filter(None, [refusal_of(AT_ANY_PLACE[place], value) for value in ANYTHING])
    assert [text for text in refusals if not re.search(name, text)] == []


def test_a_list_id_is_one_name_or_two_words():
    for several in (("a", "b", "c"), ("news.example.org",), ["a", "b", "c"]):
        with pytest.raises(
            MessageError, match=r"^list_id must be .*\('News', 'news.example.org'\)"
        ):
            sealed(list_id=several)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alts", {WORD: "x"}),
        ("invitation", f"METHOD:{WORD}"),
        ("attachments: disposition", with_part("disposition", WORD)["attachments"]),
    ],
)
def test_a_word_that_is_too_long_is_refused_where_it_stands(field, value):
    with pytest.raises(MessageError, match=f"^{field} "):
        sealed(**{field.partition(":")[0]: value})


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
