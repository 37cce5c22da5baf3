"""No body, however its lines end, can end the mail and begin another (FAULTS B4)."""

import re

import pytest

from flask_outbox.mail.message import Message
from flask_outbox.mail.mime import seal

ENDINGS = [
    "\n.\n",
    "\n.\r\n",
    "\r.\r",
    "\r\n.\r",
    "\r.\r\n",
    "\r.\n",
    "\n.\r",
    "\r\n.\n",
    "\r\n.\0\r\n",
    "\r\n\0.\r\n",
    "\r\n.\r\n",
    "\r\n..\r\n",
]
NEXT = "MAIL FROM:<e@x.test>\r\nRCPT TO:<v@x.test>\r\nDATA\r\nSubject: evil\r\n\r\nevil\r\n.\r\n"
LENIENT = (rb"\r\n\.\r\n", rb"\n\.\n", rb"\n\.\r\n", rb"\r\.\r", rb"\r\n\.\r", rb"\r\.\r\n")


def stuffed(content):
    """What SMTP puts on the wire (RFC 5321 section 4.5.2)."""
    return re.sub(rb"^\.", b"..", content, flags=re.MULTILINE)


@pytest.mark.parametrize("where", ["body", "html", "alternative", "attachment", "message inside"])
@pytest.mark.parametrize("letter", ["", "ü", "漢" * 40])
@pytest.mark.parametrize("ending", ENDINGS)
def test_no_receiver_strict_or_lenient_finds_an_end_in_it(ending, letter, where):
    text = f"{letter}a{ending}{NEXT}"
    message = Message("s", ["a@x.test"], "b", sender="s@x.test")
    match where:
        case "body":
            message.body = text
        case "html":
            message.html = text
        case "alternative":
            message.alts["enriched"] = text
        case "attachment":
            message.attach("a.txt", None, text)
        case _ if "\0" in text:
            return  # refused, which is tested with the parts
        case _:
            message.attach("m.eml", "message/rfc822", f"Subject: x\r\n\r\n{text}")
    content = seal(message, now=0).content
    assert re.fullmatch(rb"(?:[^\r\n\0]{0,998}\r\n)+", content)
    for end in LENIENT:
        assert not re.search(end, stuffed(content))


@pytest.mark.parametrize("ending", ENDINGS)
def test_line_ends_read_back_as_lines(ending):
    from email import message_from_bytes  # noqa: PLC0415  the reader, for this alone
    from email.policy import default  # noqa: PLC0415

    text = f"a{ending}b"
    content = seal(Message("s", ["a@x.test"], text, sender="s@x.test"), now=0).content
    read = message_from_bytes(content, policy=default).get_payload(decode=True).decode()
    assert read.split("\r\n")[: text.count("b") + 3] == [*re.split("\r\n|\r|\n", text), ""][:4]
