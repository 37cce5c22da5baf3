"""A submission on its way: the key by which a far side knows a repeat."""

from dataclasses import replace

from outbox_mail import a_submission


def test_a_repeat_has_the_same_idempotency_key():
    first = replace(a_submission("a", "b"), id="1")
    again = replace(first, fence="f", attempt=2, alone=True, recipients=first.recipients[::-1])
    assert again.idempotency_key == first.idempotency_key


def test_another_row_or_other_recipients_have_another_idempotency_key():
    first = replace(a_submission("a", "b"), id="1")
    keys = {first.idempotency_key, replace(first, id="2").idempotency_key}
    keys.add(first.only(first.recipients[:1]).idempotency_key)
    assert len(keys) == 3
