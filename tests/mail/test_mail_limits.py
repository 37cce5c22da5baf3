"""What is too much is refused, early, by the name of the limit (FAULTS B5)."""

import itertools
import tracemalloc

import pytest

from flask_outbox.mail.errors import BadHeaderError, MessageError, TooLargeError
from flask_outbox.mail.message import Message
from flask_outbox.mail.mime import Limits, seal


def mail(**fields):
    plain = {"subject": "s", "recipients": ["a@x.test"], "body": "b", "sender": "s@x.test"}
    return Message(**{**plain, **fields})


@pytest.mark.parametrize("field", ["recipients", "cc", "bcc"])
def test_more_than_a_thousand_recipients_are_refused(field):
    many = [f"a{at}@x.test" for at in range(1000)]
    message = mail(recipients=[])
    setattr(message, field, many)
    assert len(seal(message, now=0).recipients) == 1000
    many.append("one-more@x.test")
    with pytest.raises(TooLargeError, match="limit on recipients is 1000"):
        seal(message, now=0)


def test_ten_thousand_recipients_are_refused_before_any_is_parsed():
    with pytest.raises(TooLargeError, match="10000 addresses"):
        seal(mail(recipients=["no address"] * 10_000), now=0)


def test_more_headers_than_the_limit_are_refused():
    for count in (5000, 98):
        with pytest.raises(TooLargeError, match="limit on headers is 100"):
            seal(mail(extra_headers={f"X-{at}": "x" for at in range(count)}), now=0)
    seal(mail(extra_headers={f"X-{at}": "x" for at in range(94)}), now=0)


@pytest.mark.parametrize("subject", ["x" * 1_000_000, "ü" * 1_000_000, "x " * 500_000])
def test_a_subject_of_a_megabyte_is_refused(subject):
    with pytest.raises(TooLargeError, match="subject is larger than the limit on one header field"):
        seal(mail(subject=subject), now=0)


def test_a_url_that_no_line_can_hold_is_refused():
    with pytest.raises(BadHeaderError, match=r"^list_unsubscribe has a word that is too long"):
        seal(mail(list_unsubscribe="https://x.test/" + "a" * 1000), now=0)
    seal(mail(list_unsubscribe="https://x.test/" + "a" * 900), now=0)


@pytest.mark.parametrize("field", ["body", "html"])
@pytest.mark.parametrize("letter", ["x\n", "ü"])
def test_a_body_over_the_limit_on_size_is_refused(field, letter):
    with pytest.raises(TooLargeError, match="limit on size, 10000 octets"):
        seal(mail(**{field: letter * 10_000}), now=0, limits=Limits(size=10_000))


def test_an_attachment_over_the_limit_is_refused_before_it_is_encoded():
    message = mail()
    message.attach("a.bin", None, b"x" * (26 * 1024 * 1024))
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError, match="limit on size"):
            seal(message, now=0)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_stream_without_end_is_cut_off_at_the_limit():
    message = mail()
    message.attach("a.bin", None, itertools.repeat(b"x" * 10_000))
    with pytest.raises(TooLargeError, match="limit on size"):
        seal(message, now=0, limits=Limits(size=1_000_000))


def test_one_octet_more_is_too_much():
    message = mail()
    size = len(seal(message, now=0).content)
    seal(message, now=0, limits=Limits(size=size))
    with pytest.raises(TooLargeError):
        seal(message, now=0, limits=Limits(size=size - 1))


@pytest.mark.parametrize("as_blocks", [False, True])
def test_sealing_takes_at_most_three_times_the_message_in_memory(as_blocks):
    data = b"\xff" * 6_000_000
    message = mail()
    if as_blocks:
        message.attach(
            "a.bin", None, (data[at : at + 60_000] for at in range(0, len(data), 60_000))
        )
    else:
        message.attach("a.bin", None, data)
    tracemalloc.start()
    try:
        content = seal(message, now=0).content
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(content) > 8_000_000
    assert peak < 3 * len(content)


def test_everything_that_is_raised_is_a_message_error():
    for error in (TooLargeError, BadHeaderError):
        assert issubclass(error, MessageError)
