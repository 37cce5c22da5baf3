"""Control characters: refused in every field, at the call, by name (FAULTS B1)."""

from email import message_from_bytes
from email.policy import default

import pytest

from flask_outbox.mail.errors import BadHeaderError, MessageError
from flask_outbox.mail.message import Attachment, Invitation, Message
from flask_outbox.mail.mime import seal
from flask_outbox.mail.submission import Dsn

BREAKS = {
    "CR": "\r",
    "LF": "\n",
    "CRLF": "\r\n",
    "CRLF and a space": "\r\n ",
    "LF and a space": "\n ",
    "NUL": "\0",
    "VT": "\v",
    "FF": "\f",
    "FS": "\x1c",
    "GS": "\x1d",
    "RS": "\x1e",
    "NEL": "\x85",
    "LS": "\u2028",
    "PS": "\u2029",
    "DEL": "\x7f",
    "lone surrogate": "\ud800",
}


def mail(**fields):
    plain = {"subject": "s", "recipients": ["a@x.test"], "body": "b", "sender": "s@x.test"}
    return Message(**{**plain, **fields})


def attached(**fields):
    message = mail()
    plain = {"filename": "f.bin", "content_type": "application/x-bin", "data": b"x"}
    message.attachments.append(Attachment(**{**plain, **fields}))
    return message


def with_id(text):
    message = mail()
    message.msgId = text
    return message


# Field → a message with the text in it. The text arrives as "x{break}Bcc: e@x.test".
FIELDS = {
    "subject": lambda t: mail(subject=t),
    "sender": lambda t: mail(sender=t),
    "sender's name": lambda t: mail(sender=(t, "s@x.test")),
    "sender's address": lambda t: mail(sender=("S", f"{t}@x.test")),
    "recipients": lambda t: mail(recipients=[f"{t}@x.test"]),
    "recipients' name": lambda t: mail(recipients=[(t, "a@x.test")]),
    "recipients' quoted name": lambda t: mail(recipients=[f'"{t}" <a@x.test>']),
    "recipients' quoted local part": lambda t: mail(recipients=[f'"{t}"@x.test']),
    "cc": lambda t: mail(cc=[f"a@x.test{t}"]),
    "cc's name": lambda t: mail(cc=[(t, "a@x.test")]),
    "bcc": lambda t: mail(bcc=[f"a@x.test{t}"]),
    "bcc's name": lambda t: mail(bcc=[(t, "a@x.test")]),
    "reply_to": lambda t: mail(reply_to=f"a@x.test{t}"),
    "reply_to's name": lambda t: mail(reply_to=(t, "a@x.test")),
    "extra_headers value": lambda t: mail(extra_headers={"X-Thing": t}),
    "extra_headers value of Subject": lambda t: mail(extra_headers={"Subject": t}),
    "extra_headers value of To": lambda t: mail(extra_headers={"To": t}),
    "extra_headers value of List-Id": lambda t: mail(extra_headers={"List-Id": t}),
    "extra_headers name": lambda t: mail(extra_headers={t: "x"}),
    "msgId": lambda t: with_id(f"<{t}@x.test>"),
    "in_reply_to": lambda t: mail(in_reply_to=f"<{t}@x.test>"),
    "references": lambda t: mail(references=[f"<{t}@x.test>"]),
    "references as str": lambda t: mail(references=f"<a@x.test> <{t}@x.test>"),
    "auto_submitted": lambda t: mail(auto_submitted=t),
    "list_id": lambda t: mail(list_id=t),
    "list_id's phrase": lambda t: mail(list_id=(t, "l.x.test")),
    "list_unsubscribe": lambda t: mail(list_unsubscribe=f"https://x.test/{t}"),
    "list_help": lambda t: mail(list_help=f"https://x.test/{t}"),
    "list_subscribe": lambda t: mail(list_subscribe=[f"https://x.test/{t}"]),
    "list_post": lambda t: mail(list_post=f"mailto:{t}@x.test"),
    "list_owner": lambda t: mail(list_owner=f"mailto:{t}@x.test"),
    "list_archive": lambda t: mail(list_archive=f"https://x.test/{t}"),
    "alts": lambda t: mail(alts={t: "x"}),
    "invitation": lambda t: mail(invitation=Invitation("BEGIN:VCALENDAR", method=t)),
    "tags": lambda t: mail(tags=[t]),
    "metadata": lambda t: mail(metadata={"k": t}),
    "metadata's key": lambda t: mail(metadata={t: "v"}),
    "provider['k']": lambda t: mail(provider={"k": t}),
    "provider: a name": lambda t: mail(provider={t: 1}),
    "provider['k'][1]['v']": lambda t: mail(provider={"k": [1, {"v": t}]}),
    "provider['k']: a name": lambda t: mail(provider={"k": {t: 1}}),
    "mail_options": lambda t: mail(mail_options=[t]),
    "rcpt_options": lambda t: mail(rcpt_options=[t]),
    "dsn: envid": lambda t: mail(dsn=Dsn(envid=t)),
    "dsn: notify": lambda t: mail(dsn=Dsn(notify={f"{t}@x.test": ("NEVER",)})),
    "charset": lambda t: mail(charset=t),
    "attachments: filename": lambda t: attached(filename=f"{t}.pdf"),
    "attachments: content_type": lambda t: attached(content_type=f"text/{t}"),
    "attachments: content_type's parameter": lambda t: attached(content_type=f"text/x; {t}=1"),
    "attachments: content_type's value": lambda t: attached(content_type=f'text/x; a="{t}"'),
    "attachments: disposition": lambda t: attached(disposition=t),
    "attachments: cid": lambda t: attached(cid=f"{t}@x"),
    "attachments: headers": lambda t: attached(headers={"X-A": t}),
    "attachments: headers' name": lambda t: attached(headers={t: "x"}),
}


def named(field):
    """The start of the error: what stands before an apostrophe or a space is the field's name."""
    return field.partition("'")[0].partition(" ")[0]


@pytest.mark.parametrize("break_", BREAKS.values(), ids=BREAKS)
@pytest.mark.parametrize("field", FIELDS)
def test_it_is_refused_at_the_call_naming_the_field(field, break_):
    if field == "subject" and break_ == "\r\n ":
        return  # a subject that was folded by hand is allowed, and unfolded: see below
    if field == "extra_headers value of Subject" and break_ == "\r\n ":
        return
    text = f"x{break_}Bcc: e@x.test"
    with pytest.raises(MessageError) as raised:
        seal(FIELDS[field](text), now=0)
    assert str(raised.value).startswith(named(field))
    assert "Bcc: e@x" not in str(raised.value)


@pytest.mark.parametrize("break_", BREAKS.values(), ids=BREAKS)
def test_the_return_path_is_no_way_in_either(break_):
    with pytest.raises(MessageError, match=r"^return_path"):
        seal(mail(), now=0, return_path=f"a@x.test{break_}RCPT TO:<e@x.test>")


def test_a_quoted_local_part_with_a_break_is_refused():
    with pytest.raises(BadHeaderError, match=r"^recipients"):
        seal(mail(recipients=['"x\r\nBcc: a@e"@x.test']), now=0)


def test_a_subject_folded_by_hand_is_unfolded():
    sealed = seal(mail(subject="one\r\n two\r\n\tthree"), now=0)
    assert b"Subject: one two\tthree" not in sealed.content  # a TAB travels encoded
    assert message_from_bytes(sealed.content, policy=default)["subject"] == "one two\tthree"


@pytest.mark.parametrize(
    "subject", ["a\r\nb", "a\r\n", "a\r\n \r\n b", "a\r\n ", "\r\n a\nb", "a\r\n\r\n b"]
)
def test_what_is_no_folding_is_refused(subject):
    with pytest.raises(BadHeaderError, match=r"^subject"):
        seal(mail(subject=subject), now=0)


HIDDEN = [
    "=?utf-8?q?=0A?=Bcc: e@x.test",
    "=?utf-8?b?DQpCY2M6IGVAeC50ZXN0?=",
    "=?utf-8?Q?a=0D=0AX:_y?=",
]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("text", HIDDEN)
def test_no_reader_decodes_an_encoded_word_of_ours_to_a_break(field, text):
    try:
        content = seal(FIELDS[field](text), now=0).content
    except MessageError:
        return
    for part in message_from_bytes(content, policy=default).walk():
        for name, value in part.items():
            assert "\n" not in value, name
            assert "\r" not in value, name
        assert part["bcc"] is None


@pytest.mark.parametrize("text", HIDDEN)
def test_text_that_looks_like_an_encoded_word_reads_back_as_it_was(text):
    sealed = seal(mail(subject=text, recipients=[(text, "a@x.test")]), now=0)
    parsed = message_from_bytes(sealed.content, policy=default)
    assert parsed["subject"] == text
    assert parsed["to"].addresses[0].display_name == text


@pytest.mark.parametrize("name", ["", " ", "X Y", "X:", "Ä", "X\t", "a" * 80, 7, None])
def test_a_header_name_that_is_none_is_refused(name):
    with pytest.raises(BadHeaderError, match=r"^extra_headers"):
        seal(mail(extra_headers={name: "x"}), now=0)


def test_nothing_in_a_body_can_become_a_header():
    body = "\r\n.\r\nMAIL FROM:<e@x.test>\r\nBcc: e@x.test\0\x0b\x85\u2028"
    message = mail(body=body, html=f"<p>{body}</p>")
    message.attach("a.txt", "text/plain", body)
    parsed = message_from_bytes(seal(message, now=0).content, policy=default)
    assert [part["bcc"] for part in parsed.walk()] == [None] * 5
