"""Mails with all that a mail can have, for every API to say in its own words."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flask_outbox.mail.attachment import Invitation
from flask_outbox.mail.message import Message
from flask_outbox.mail.mime import seal
from flask_outbox.mail.submission import Dsn, Submission

ROW = "019a0000-0000-7000-8000-000000000001"
NOW = 1_764_400_000.0
ADA, BOB, EVE, HID, HEX = (f"{each}@example.org" for each in ("ada", "bob", "eve", "hid", "hex"))


def sealed(message: Message, *recipients: str, **more: Any) -> Submission:
    """Seal it as the row that it has become; ``recipients`` are those still to be reached."""
    message.__dict__["msgId"] = "<1@example.com>"
    whole = replace(seal(message, now=NOW), id=ROW, **more)
    return whole.only(recipients) if recipients else whole


def plain(**more: Any) -> Message:
    return Message("hi", [ADA], "hello", sender="shop@example.com", **more)


def rich(**more: Any) -> Message:
    message = Message(
        "Your order, Ünal",
        [("Ada, née Byron", ADA), BOB],
        "hello\nthere",
        html="<p>hello <img src='cid:logo@inline'></p>",
        sender=("The Shop", "shop@example.com"),
        cc=[("Eve", EVE)],
        bcc=[HID, HEX],
        reply_to=[("Help", "help@example.com"), "desk@example.com"],
        extra_headers={"X-Order": "42"},
        in_reply_to="<0@example.com>",
        list_unsubscribe="https://shop.example.com/u/1",
        list_unsubscribe_post=True,
        tags=["order"],
        metadata={"customer": "c-7"},
        **more,
    )
    message.attach("logo.png", "image/png", b"\x89PNG", cid="logo@inline")
    message.attach("räché.txt", "text/plain", "søt")
    message.attach("bill.pdf", "application/pdf", b"%PDF")
    return message


def with_headers_of_an_attachment(name: str = "X-Own") -> Message:
    message = plain()
    message.attach("a.bin", data=b"x", headers={name: "1"})
    return message


def with_an_empty_attachment() -> Message:
    message = plain()
    message.attach("empty.txt", "text/plain", b"")
    return message


MAILS: dict[str, Callable[[], Submission]] = {
    "plain": lambda: sealed(plain()),
    "rich": lambda: sealed(rich()),
    "html alone": lambda: sealed(
        Message("", [ADA], html="<p>hello</p>", sender="shop@example.com")
    ),
    "a part of those in To": lambda: sealed(rich(), BOB, HEX),
    "nobody left in To": lambda: sealed(rich(), EVE, HID),
    "one hidden recipient": lambda: sealed(rich(), HID),
}

# By what is named in the refusal: what no API that takes parts has a place for.
UNSUPPORTED: dict[str, Callable[[], Submission]] = {
    "dsn": lambda: sealed(plain(dsn=Dsn(ret="HDRS"))),
    "mail_options": lambda: sealed(plain(mail_options=["BODY=8BITMIME"])),
    "rcpt_options": lambda: sealed(plain(rcpt_options=["NOTIFY=NEVER"])),
    "text/calendar": lambda: sealed(
        plain(invitation=Invitation("BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nEND:VCALENDAR\r\n"))
    ),
    "text/x-amp-html": lambda: sealed(plain(alts={"x-amp-html": "<html amp4email></html>"})),
    "headers of an attachment": lambda: sealed(with_headers_of_an_attachment()),
    "headers of an attachment.": lambda: sealed(with_headers_of_an_attachment("Subject")),
    "return_path": lambda: sealed(plain(), sender="bounces@example.com"),
    "without a text": lambda: sealed(Message("hi", [ADA], sender="shop@example.com")),
    "local part is not ASCII": lambda: sealed(
        Message("hi", ["ünal@example.org"], "hello", sender="shop@example.com")
    ),
    "provider['no such name']": lambda: sealed(plain(provider={"no such name": 1})),
    "recipients in one message": lambda: sealed(
        Message("hi", [f"r{at}@example.org" for at in range(51)], "x", sender="s@example.com")
    ),
}
