"""What a reply means, and the id that servers give a message."""

import pytest

from flask_outbox.mail.exchange import SmtpReply
from flask_outbox.mail.outcome import Accepted
from flask_outbox.transports.smtp_replies import accepted, enhanced, too_many


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2.0.0 Ok: queued as 4WxyZ12", "4WxyZ12"),
        ("Ok: queued as QZ-7_a.", "QZ-7_a"),
        ("OK id=1rAbCd-0003Xy-2Z", "1rAbCd-0003Xy-2Z"),
        ("2.0.0 3ANBcdEf012345 Message accepted for delivery", "3ANBcdEf012345"),
        ("ok 1700000000 qp 12345", "12345"),
        ("2.6.0 <a@b> [InternalId=7, Hostname=h] Queued mail for delivery", "7"),
        ("2.0.0 OK  1700000000 d9443c01a7336-1cc5 - gsmtp", "1700000000 d9443c01a7336-1cc5"),
        ("Ok 0100018bc1-6e5b2d5e-000000", "0100018bc1-6e5b2d5e-000000"),
        (
            "Message Queued (5E1A2B3C-0000-4000-8000-000000000000)",
            "5E1A2B3C-0000-4000-8000-000000000000",
        ),
        ("ok", ""),
        ("", ""),
        ("2.0.0 OK", ""),
    ],
)
def test_the_reference_of_known_servers_is_found(text, found):
    assert accepted(SmtpReply(250, (text,))) == Accepted(f"250 {text}".rstrip(), found)


def test_all_lines_of_a_reply_are_kept():
    assert accepted(SmtpReply(250, ("fine", "queued as 7"))) == Accepted(
        "250 fine queued as 7", "7"
    )


def test_an_enhanced_code_stands_at_the_beginning_or_there_is_none():
    assert enhanced(SmtpReply(550, ("5.1.1 no",))) == "5.1.1"
    assert enhanced(SmtpReply(550, ("5.1.1",))) == "5.1.1"
    assert enhanced(SmtpReply(550, ("no 5.1.1",))) == ""
    assert enhanced(SmtpReply(550, ("5.1.1.1 no",))) == ""
    assert enhanced(SmtpReply(550)) == ""


def test_too_many_recipients_is_told_from_a_full_disk():
    assert too_many(SmtpReply(452, ("4.5.3 too many",)))
    assert too_many(SmtpReply(452, ("too many",)))
    assert not too_many(SmtpReply(452, ("4.3.1 disk full",)))
    assert not too_many(SmtpReply(450, ("4.5.3 odd",)))
