"""A submission on its way: the key by which a far side knows a repeat."""

from dataclasses import replace

from flask_outbox.mail.submission import Submission

FIRST = Submission(
    id="1",
    sender="shop@example.com",
    recipients=("ada@example.org", "bob@example.org"),
    content=b"Subject: hello\r\n\r\nhello\r\n",
    message_id="<1@example.com>",
    date=1.0,
)


def test_a_repeat_has_the_same_idempotency_key():
    again = replace(FIRST, fence="f", attempt=2, alone=True, recipients=FIRST.recipients[::-1])
    assert again.idempotency_key == FIRST.idempotency_key


def test_another_row_or_other_recipients_have_another_idempotency_key():
    keys = {FIRST.idempotency_key, replace(FIRST, id="2").idempotency_key}
    keys.add(FIRST.only(FIRST.recipients[:1]).idempotency_key)
    assert len(keys) == 3
