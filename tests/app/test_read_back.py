"""What a listener in a worker is given is the mail that was sealed: it can be sealed again."""

import pytest

from flask_outbox import Message
from flask_outbox.app.telling import message_of
from flask_outbox.mail.attachment import Attachment
from flask_outbox.mail.mime import seal
from flask_outbox.mail.submission import Dsn

PLAIN = {"subject": "Grüße", "recipients": ["a@x.test"], "body": "b", "sender": ("Ü", "s@x.test")}
MAILS = {
    "one Reply-To": {"reply_to": ("Doe, Ü", "r@x.test")},
    "several Reply-To": {"reply_to": ["r@x.test", ("Doe, Ü", "q@x.test"), "plain <p@x.test>"]},
    "a list": {
        "list_id": ("The news", "news.x.test"),
        "list_unsubscribe": [f"https://x.test/{'u' * 90}", "mailto:u@x.test"],
        "list_unsubscribe_post": True,
    },
    "a list with a name in any script": {"list_id": ("Nächrichten, 新", "news.x.test")},
    "a thread": {"references": [f"<{at}@x.test>" for at in range(40)], "in_reply_to": "<1@x.test>"},
    "texts": {"html": "<p>ü", "alts": {"x-amp-html": "<html ⚡4email>"}, "body": "a\n\n.\n"},
    "html alone": {"html": "<p>", "body": None},
    "headers": {"extra_headers": {"X-A": "ü" * 100, "Errors-To": "Ü <e@x.test>"}},
    "nobody in To": {"recipients": [], "bcc": ["b@x.test"]},
    "addresses in UTF-8": {"recipients": ["é@x.test"], "cc": [("Ö", "ö@bücher.example")]},
    "envelope": {
        "dsn": Dsn(notify={"a@x.test": ("SUCCESS",)}, ret="HDRS", envid="x y"),
        "mail_options": ["X=1"],
        "rcpt_options": ["Y=2"],
        "tags": ["t"],
        "metadata": {"k": "v"},
        "sensitive": True,
        "at_most_once": True,
        "auto_submitted": "auto-generated",
    },
    "provider": {
        "provider": {"template": {"id": "x", "variables": [1, None, "ü", {"a": 0.5}]}},
        "track_opens": False,
        "track_clicks": True,
    },
    "attachments": {
        "html": "<img src='cid:i@x'>",
        "attachments": [
            Attachment("ü?.pdf", "application/pdf", b"x", headers={"X-N": "ü" * 90}),
            Attachment(None, "message/rfc822", b"Subject: x\r\n\r\nhi\r\n"),
            Attachment("i.png", data=b"1", cid="i@x"),
        ],
    },
}


@pytest.mark.parametrize("name", MAILS)
def test_it_can_be_sealed_again_and_is_the_same_mail(name):
    sealed = seal(Message(**{**PLAIN, **MAILS[name]}), now=1.0)
    assert seal(message_of(sealed), now=2.0) == sealed


def test_one_reply_to_is_text_and_several_are_a_list_of_it():
    for given, read in (
        (None, None),
        (("R", "r@x.test"), "R <r@x.test>"),
        (["r@x.test", ("R", "q@x.test")], ["r@x.test", "R <q@x.test>"]),
    ):
        message = Message(**{**PLAIN, "reply_to": given})
        assert message_of(seal(message, now=1.0)).reply_to == read
