"""The reference says what the code says, and what the code does."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from contract.http_mails import ADA, UNSUPPORTED, plain, sealed, with_an_empty_attachment
from flask_outbox.mail.errors import UnsupportedFeature
from flask_outbox.mail.message import Message
from flask_outbox.transports.base import HttpTransport
from flask_outbox.transports.carries import refuse
from flask_outbox.transports.smtp import Smtp
from flask_outbox.transports.url import transport_from_url

TOP = Path(__file__).parents[2]
FEATURES = runpy.run_path(str(TOP / "tools" / "write_reference.py"))["FEATURES"]
WAYS_OUT = [
    *("resend://key@", "postmark://token@", "sendgrid://key@", "mailgun://key@mg.example.com"),
    *("ses://AKIDEXAMPLE:secret@?region=eu-west-1", "smtp://relay.example.com"),
]
PARTS = "`invitation`, `alts` besides text and HTML, headers of an attachment"
# A row of the page, and a mail that has what it is about and nothing else of note.
MAILS = [
    ("an attachment that is empty", lambda: sealed(with_an_empty_attachment())),
    (PARTS, UNSUPPORTED["text/calendar"]),
    (PARTS, UNSUPPORTED["text/x-amp-html"]),
    (PARTS, UNSUPPORTED["headers of an attachment"]),
    ("a return path of its own", UNSUPPORTED["return_path"]),
    ("`mail_options`, `rcpt_options`", UNSUPPORTED["mail_options"]),
    ("`mail_options`, `rcpt_options`", UNSUPPORTED["rcpt_options"]),
    ("`dsn`", UNSUPPORTED["dsn"]),
    (
        "addresses with a local part that is not ASCII",
        UNSUPPORTED["local part is not ASCII"],
    ),
    (
        "a mail without a subject",
        lambda: sealed(Message("", [ADA], "hello", sender="shop@example.com")),
    ),
    (
        "a tag named like one of the metadata",
        lambda: sealed(plain(tags=["a"], metadata={"a": "b"})),
    ),
    ("`track_opens`", lambda: sealed(plain(track_opens=False))),
    ("`track_clicks`", lambda: sealed(plain(track_clicks=False))),
]
# Rows on provider={…}, which refuses what it does not know.
OF_PROVIDER = {
    "`provider={…}`",
    "of these, a template in place of a text",
    "attachments besides a template",
}


def test_the_reference_pages_are_what_the_code_would_write_now():
    command = [sys.executable, "tools/write_reference.py", "--check"]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def is_taken(transport, submission):
    try:
        if isinstance(transport, HttpTransport):
            transport.check(submission)
        else:
            refuse(transport.name, transport.carries, submission)
    except UnsupportedFeature:
        return False
    return True


@pytest.mark.parametrize("url", WAYS_OUT)
def test_what_a_provider_is_said_to_carry_is_what_it_takes(url):
    transport = transport_from_url(url)
    said = [FEATURES[row](transport.carries) for row, _ in MAILS]
    assert set(said) <= {"yes", "-"}
    assert [(row, cell == "yes") for (row, _), cell in zip(MAILS, said, strict=True)] == [
        (row, is_taken(transport, make())) for row, make in MAILS
    ]


@pytest.mark.parametrize("url", WAYS_OUT)
def test_what_no_mail_asks_for_is_not_said_to_be_refused(url):
    carries = transport_from_url(url).carries
    told = {row: tell(carries) for row, tell in FEATURES.items()}
    compared = {row for row, _ in MAILS} | OF_PROVIDER
    assert {row for row, cell in told.items() if cell == "-"} <= compared


def test_each_provider_is_compared():
    kinds = {type(transport_from_url(url)) for url in WAYS_OUT}
    ours = {each for each in HttpTransport.__subclasses__() if "flask_outbox" in each.__module__}
    assert kinds == {*ours, Smtp}
