"""What is too much is refused, early, by the name of the limit (FAULTS B5)."""

import itertools
import re
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


def attached(**fields):
    message = mail()
    message.attach(**{"filename": "a.bin", "data": b"x", **fields})
    return message


LONG_IN_A_PART = {
    "filename": lambda size: attached(filename="f" * size),
    "filename, not ASCII": lambda size: attached(filename="\N{SNOWMAN}" * (size // 12)),
    "headers": lambda size: attached(headers={"X-Note": "word " * (size // 5)}),
    "headers[X-Note]": lambda size: attached(headers={"X-Note": "\N{SNOWMAN}" * min(size, 30_000)}),
    "content_type": lambda size: attached(content_type="text/x" + "; a=b" * (size // 5)),
    "cid": lambda size: attached(cid="c" * size),
}


@pytest.mark.parametrize("field", LONG_IN_A_PART)
def test_a_header_field_of_a_part_is_held_to_the_limit_by_name(field):
    name = re.escape(field.partition(",")[0])
    for size in (120_000, 1_000_000):
        with pytest.raises(MessageError, match=rf"^attachments: {name}"):
            seal(LONG_IN_A_PART[field](size), now=0)
    for small in ("f" * 50_000, "\N{SNOWMAN}" * 5000):
        assert seal(attached(filename=small), now=0)


@pytest.mark.parametrize("field", ["filename", "headers"])
def test_what_is_too_long_for_a_part_is_refused_before_it_is_encoded(field):
    long = "\N{SNOWMAN}" * 300_000
    message = attached(**{field: {"X-Note": long} if field == "headers" else long})
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError, match=f"^attachments: {field}"):
            seal(message, now=0)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_one_octet_more_in_a_field_of_a_part_is_too_much():
    content = seal(attached(filename="f" * 1000), now=0).content
    size = len(re.search(rb"Content-Disposition:[^\r]*(?:\r\n [^\r]*)*", content)[0])
    assert seal(attached(filename="f" * 1000), now=0, limits=Limits(field=size))
    with pytest.raises(TooLargeError, match=r"^attachments: filename"):
        seal(attached(filename="f" * 1000), now=0, limits=Limits(field=size - 1))


def test_a_field_of_a_part_within_a_part_is_held_to_the_limit_too():
    message = mail(html="<img src='cid:i@x'>")
    message.attach("i.png", data=b"x", cid="i@x", headers={"X-Note": "\N{SNOWMAN}" * 30_000})
    message.attach("a.bin", data=b"x")
    with pytest.raises(TooLargeError, match=r"^attachments: headers\[X-Note\]"):
        seal(message, now=0)


def test_more_headers_in_a_part_than_the_limit_are_refused():
    for count in (5000, 98):
        with pytest.raises(TooLargeError, match=r"^attachments: headers.* limit on headers is 100"):
            seal(attached(headers={f"X-{at}": "x" for at in range(count)}), now=0)
    seal(attached(headers={f"X-{at}": "x" for at in range(97)}), now=0)


@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize("field", ["tags", "metadata", "mail_options", "rcpt_options"])
def test_words_beside_the_mail_are_held_to_the_limit_by_name(field, count):
    def words(size):
        several = [f"{at:03}".ljust(size // count, "x") for at in range(count)]
        return dict.fromkeys(several, "") if field == "metadata" else several

    seal(mail(**{field: words(100_000)}), now=0)
    with pytest.raises(TooLargeError, match=f"^{field} is larger than the limit"):
        seal(mail(**{field: words(110_000)}), now=0)


@pytest.mark.parametrize("field", ["tags", "metadata", "mail_options", "rcpt_options"])
def test_more_words_beside_the_mail_than_the_limit_are_refused(field):
    several = [f"w{at}" for at in range(101)]
    words = dict.fromkeys(several, "v") if field == "metadata" else several
    with pytest.raises(TooLargeError, match=f"^{field} has 101 .* 100"):
        seal(mail(**{field: words}), now=0)


def test_a_value_of_the_metadata_counts_like_its_key():
    with pytest.raises(TooLargeError, match=r"^metadata"):
        seal(mail(metadata={"k": "x" * 110_000}), now=0)


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
