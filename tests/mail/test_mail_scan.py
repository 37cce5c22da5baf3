"""The out-guard: it stops what the checks before it would have let through."""

import pytest

from flask_outbox.mail import fields, headers
from flask_outbox.mail.errors import BadHeaderError, MessageError
from flask_outbox.mail.message import Message
from flask_outbox.mail.mime import seal
from flask_outbox.mail.scan import guard

DELIMITER = b"\r\n--=_x"
GOOD = b"From: a\r\nTo: b,\r\n c\r\n\r\nbody\r\n"


def test_what_is_right_passes():
    guard(GOOD, [["from", "to"]], DELIMITER)
    guard(b"From: a\r\n\r\n" + b"x" * 998 + b"\r\n", [["from"]], DELIMITER)


@pytest.mark.parametrize(
    "content",
    [
        GOOD.replace(b"body\r\n", b"body"),
        GOOD.replace(b"body", b"bo\ndy"),
        GOOD.replace(b"body", b"bo\rdy"),
        GOOD.replace(b"body", b"bo\n\rdy"),
        GOOD.replace(b"body\r\n", b"body\n\r"),
        GOOD.replace(b"body", b"bo\r\r\ndy\n"),
        GOOD.replace(b"body", b"bo\0dy"),
        GOOD.replace(b"body", b"x" * 999),
        GOOD.replace(b"From: a\r\n", b"From: a\n"),
        GOOD.replace(b"c\r\n", b"c\r"),
    ],
)
def test_a_line_that_is_none_of_mails_is_stopped(content):
    with pytest.raises(MessageError, match="was not sealed"):
        guard(content, [["from", "to"]], DELIMITER)


@pytest.mark.parametrize(
    "content",
    [
        GOOD.replace(b"To: b", b"To: b\r\nBcc: e"),
        GOOD.replace(b"From: a\r\n", b""),
        GOOD.replace(b"From: a", b"From: a\r\n\r\nearly"),
        GOOD.replace(b"From: a", b"From : a"),
        GOOD.replace(b"From: a", b"Fr\xc3\xb6m: a"),
        GOOD.replace(b"From: a", b" From: a"),
        GOOD.replace(b"b,\r\n c", b"b,\r\n \r\n c"),
        GOOD.replace(b"b,\r\n c", b"b,\r\nc"),
        GOOD.replace(b"From: a", b"To: a"),
        b"To: b\r\nFrom: a\r\n\r\nbody\r\n",
        b"From: a\r\nTo: b\r\n",
        b"",
    ],
)
def test_headers_other_than_were_meant_are_stopped(content):
    with pytest.raises(MessageError, match="was not sealed"):
        guard(content, [["from", "to"]], DELIMITER)


def parts(*blocks):
    inside = b"".join(b"--=_x_1\r\n" + block + b"\r\n\r\nbody\r\n" for block in blocks)
    return b"From: a\r\n\r\n" + inside + b"--=_x_1--\r\n"


def test_the_headers_of_parts_are_read_too():
    guard(parts(b"A: 1", b"B: 2"), [["from"], ["a"], ["b"]], DELIMITER)
    for wrong in (
        parts(b"A: 1"),
        parts(b"A: 1", b"B: 2", b"C: 3"),
        parts(b"A: 1", b"B: 2\r\nX: 3"),
        parts(b"A: 1", b"X: 2"),
        parts(b"A: 1\r\n\r\nB: 2"),
    ):
        with pytest.raises(BadHeaderError, match="was not sealed"):
            guard(wrong, [["from"], ["a"], ["b"]], DELIMITER)


@pytest.mark.parametrize(
    "text", ["x\r\nBcc: e@x.test", "x\r\n\r\nbody", "x\nBcc: e@x.test", "x\r\n\r\n"]
)
def test_it_holds_even_where_the_checks_before_it_are_gone(monkeypatch, text):
    for module in (fields, headers):
        if hasattr(module, "refuse_control_characters"):
            monkeypatch.setattr(module, "refuse_control_characters", lambda value, _: value)
    message = Message("s", ["a@x.test"], "b", sender="s@x.test", extra_headers={"X-A": text + "y"})
    with pytest.raises(MessageError, match="was not sealed"):
        seal(message, now=0)
