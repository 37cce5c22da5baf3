"""What is given as a set is written in one order, whatever the order that a process keeps it in."""

import os
import subprocess
import sys

import pytest

from flask_outbox.mail.errors import MessageError
from flask_outbox.mail.lenient import render
from flask_outbox.mail.message import Attachment, Message
from flask_outbox.mail.mime import fingerprint, seal

PEOPLE = [f"guest{number}@example.org" for number in range(8)]
WORDS = {
    "tags": [f"tag{number}" for number in range(8)],
    "mail_options": [f"A={number}" for number in range(8)],
    "rcpt_options": [f"B={number}" for number in range(8)],
}
GIVEN = {"recipients": PEOPLE[:3], "cc": PEOPLE[3:6], "bcc": PEOPLE[6:], **WORDS}

PROGRAM = f"""
from flask_outbox.mail.address import Address
from flask_outbox.mail.message import Message
from flask_outbox.mail.mime import fingerprint, seal

def show(message):
    message.msgId = "<1@example.com>"
    sealed = seal(message, now=0)
    print(fingerprint(message), sealed.content, sealed)

PEOPLE, WORDS = {PEOPLE!r}, {WORDS!r}
for kind in (set, frozenset):
    for field in ("recipients", "cc", "bcc", *WORDS):
        given = {{"recipients": ["ada@example.org"], "sender": "shop@example.com"}}
        value = kind(WORDS.get(field, PEOPLE))
        show(Message("Hi", **{{**given, field: value}}))
        later = Message("Hi", **given)
        setattr(later, field, value)
        show(later)
        assert getattr(later, field) is value
pairs = {{(f"X-{{number}}", str(number)) for number in range(8)}}
alts = {{(f"x-{{number}}", str(number)) for number in range(8)}}
show(Message("Hi", **given, extra_headers=pairs, metadata=pairs, alts=alts))
several = {{each for one in PEOPLE for each in (one, Address("", one), ("Ada", one))}}
show(Message("Hi", several, sender="shop@example.com"))
"""


def written(seed):
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment
    ).stdout.splitlines()


def test_two_processes_write_the_same_and_find_the_same_by_a_key():
    first, second = written("1"), written("2")
    assert len(first) == 26
    assert first == second


def mail(**more):
    message = Message("Hi", **{"recipients": PEOPLE, "sender": "shop@example.com", **more})
    message.msgId = "<1@example.com>"
    return message


@pytest.mark.parametrize("field", GIVEN)
def test_a_set_is_the_sorted_list_of_it(field):
    as_list, as_set = mail(**GIVEN), mail(**{**GIVEN, field: set(GIVEN[field])})
    later = mail(**GIVEN)
    setattr(later, field, set(GIVEN[field]))
    for each in (as_set, later):
        assert fingerprint(each) == fingerprint(as_list)
        assert seal(each, now=0) == seal(as_list, now=0)
        assert render(each, now=0) == render(as_list, now=0)


def test_a_list_and_the_keys_of_a_dict_keep_their_order():
    backwards = PEOPLE[::-1]
    keys = dict.fromkeys(backwards).keys()
    later = mail()
    later.recipients = keys
    for each in (mail(recipients=backwards), mail(recipients=keys), later):
        assert seal(each, now=0).recipients == tuple(backwards)
        assert fingerprint(each) == fingerprint(mail(recipients=backwards))


@pytest.mark.parametrize("field", ["recipients", "cc", "bcc", "tags"])
@pytest.mark.parametrize("kind", [set, frozenset, lambda several: dict.fromkeys(several).keys()])
def test_what_is_set_later_counts_for_a_key_whatever_its_kind(field, kind):
    one, other = mail(), mail()
    setattr(one, field, kind(PEOPLE[:2]))
    setattr(other, field, kind(PEOPLE[:3]))
    assert fingerprint(one) != fingerprint(other)


def attachments(numbers):
    return {
        Attachment(name, "text/plain", data)
        for number in numbers
        for name, data in (
            (None, f"{number}"),
            (None, f"{number}".encode()),
            (f"{number}.txt", [b"x"]),
        )
    }


def test_attachments_are_sorted_by_their_names_and_what_is_in_them():
    ones = [mail(attachments=attachments(numbers)) for numbers in (range(8), range(7, -1, -1))]
    later = mail()
    later.attachments = attachments(range(8))
    assert len({fingerprint(each) for each in (*ones, later)}) == 1
    assert len({render(each, now=0) for each in (*ones, later)}) == 1
    assert len({seal(each, now=0).content for each in (*ones, later)}) == 1


@pytest.mark.parametrize("field", ["reply_to", "references", "list_unsubscribe", "list_id"])
@pytest.mark.parametrize("value", [{"a@example.org"}, frozenset({"a@example.org", "b"})])
def test_where_a_list_has_its_own_order_a_set_is_refused_by_name(field, value):
    with pytest.raises(MessageError, match=field):
        seal(mail(**{field: value}), now=0)
