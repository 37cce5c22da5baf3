"""The outbox fixture, used as a project that has Flask-Outbox installed uses it."""

import pytest

pytest_plugins = ["pytester"]

APP = """
import pytest
from datetime import UTC, datetime, timedelta
from flask import Flask
from flask_outbox import Mail, Message

def note(subject="hi", to="ada@example.org", **fields):
    return Message(subject, [to], "a body with /verify/token", **fields)

@pytest.fixture
def mail():
    app = Flask("shop")  # not even TESTING
    app.config.update(MAIL_DEFAULT_SENDER="shop@example.com", MAIL_PORT=9)
    mail = Mail(app)
    with app.app_context():
        yield mail
"""


@pytest.fixture
def project(pytester):
    def run(code, *arguments, **outcomes):
        pytester.makepyfile(APP + code)
        # Not in this process: what was first imported within would be dropped and imported again
        # afterwards, and two copies of SQLAlchemy do not go together.
        result = pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider", *arguments)
        result.assert_outcomes(**outcomes)
        return result.stdout.str()

    return run


def test_what_was_sent_and_queued_can_be_asked_for(project):
    project(
        """
def test_it(mail, outbox):
    mail.send(note("now"))
    row = mail.send_later(note("later", cc=["Bob <bob@EXAMPLE.org>"]))
    assert [each.subject for each in outbox.sent] == ["now"]
    assert [each.subject for each in outbox.queued] == ["later"]
    assert [each.subject for each in outbox.to("bob@example.org")] == ["later"]
    assert outbox.assert_sent(to="ada@example.org", subject="now").body.startswith("a body")
    outbox.assert_queued(containing="/verify/")
    outbox.assert_nothing_else()
    assert outbox.drain() == 1
    assert mail.status(row).state.value == "accepted"
    assert outbox.queued == []
    assert outbox.assert_sent(subject="later").cc == ["Bob <bob@EXAMPLE.org>"]
    assert outbox.drain() == 0
    outbox.clear()
    assert outbox.sent == []
""",
        passed=1,
    )


def test_drain_lets_time_pass(project):
    project(
        """
def test_it(mail, outbox):
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    mail.send_later(note("tomorrow"), at=tomorrow)
    mail.send_later(note("soon"), delay=60)
    gone = mail.send_later(note("never"), delay=60)
    assert mail.cancel(gone)
    assert [each.subject for each in outbox.queued] == ["soon", "tomorrow"]
    assert abs(outbox.due_at(outbox.queued[1]) - tomorrow.timestamp()) < 1
    assert outbox.drain() == 0
    assert outbox.drain(at=datetime.now(UTC) + timedelta(hours=1)) == 1
    outbox.assert_sent(subject="soon")
    assert outbox.drain(at=tomorrow.timestamp()) == 1
    assert [each.subject for each in outbox.sent] == ["soon", "tomorrow"]
""",
        passed=1,
    )


def test_what_expired_before_it_was_due_is_not_sent(project):
    project(
        """
def test_it(mail, outbox):
    row = mail.send_later(note(), expires=datetime.now(UTC) - timedelta(seconds=1))
    assert outbox.drain() == 0
    assert mail.status(row).state.value == "expired"
""",
        passed=1,
    )


def test_all_that_a_test_queues_is_kept_however_much_it_is(project):
    project(
        """
def test_it(mail, outbox):
    rows = [mail.send_later(note(str(number))) for number in range(1500)]
    assert [each.subject for each in outbox.queued] == [str(number) for number in range(1500)]
    assert outbox.drain() == len(outbox.sent) == 1500
    assert mail.status(rows[0]).state.value == "accepted"
""",
        passed=1,
    )


def test_what_was_kept_for_a_test_does_not_pile_up_behind_it(project):
    project(
        """
from flask_outbox.app.recorder import Recorder
from flask_outbox.app.rehearsal import MOST

def test_it(mail):
    for _ in range(3):
        with Recorder() as outbox, Recorder():
            rows = [mail.send_later(note()) for _ in range(MOST + 100)]
        kept = [row for row in rows if mail.status(row) is not None]
        assert kept == rows[-MOST:]
""",
        passed=1,
    )


def test_a_message_that_is_changed_and_sent_again_is_shown_as_it_was_each_time(project):
    project(
        """
@pytest.mark.parametrize("later", [True, False])
def test_it(mail, outbox, later):
    message = note("one")
    message.attach("one.txt", data="one")
    for word in ("one", "two"):
        message.subject = message.body = message.html = word
        message.recipients[:] = [word + "@example.org"]
        message.attachments[0].filename = word + ".txt"
        (mail.send_later if later else mail.send)(message)
    message.subject = "three"
    seen = outbox.queued if later else outbox.sent
    assert [each.subject for each in seen] == ["one", "two"]
    assert [each.body for each in seen] == ["one", "two"]
    assert [each.html for each in seen] == ["one", "two"]
    assert [each.recipients for each in seen] == [["one@example.org"], ["two@example.org"]]
    assert [each.attachments[0].filename for each in seen] == ["one.txt", "two.txt"]
    if later:
        assert outbox.drain() == 2
        assert outbox.sent == seen
        assert outbox.assert_sent(to="one@example.org").subject == "one"


def test_when_the_message_that_was_given_is_due_can_be_asked(mail, outbox):
    message = note()
    at = datetime.now(UTC).timestamp()
    for delay in (60, 120):
        mail.send_later(message, delay=delay)
    first, second = outbox.queued
    assert outbox.due_at(message) == outbox.due_at(first)
    assert outbox.due_at(first) < at + 90 < outbox.due_at(second)
    with pytest.raises(AssertionError, match="not queued"):
        outbox.due_at(note())
""",
        passed=3,
    )


def test_a_failed_assertion_prints_what_went_out(project):
    text = project(
        """
def test_none(mail, outbox):
    mail.send(note("one"))
    mail.send(note("secret", to="eve@example.org", sensitive=True, ))
    outbox.assert_sent(subject="two")

def test_nothing(outbox):
    outbox.assert_queued(to="ada@example.org")

def test_else(mail, outbox):
    mail.send(note("one"))
    mail.send_later(note("three"))
    outbox.assert_sent(subject="one")
    outbox.assert_nothing_else()

def test_several(mail, outbox):
    mail.send(note("one"))
    mail.send(note("one"))
    outbox.assert_sent(subject="one")
""",
        failed=4,
    )
    assert "0 messages were sent, not one, with subject='two'" in text
    assert "sent to ada@example.org: 'one' 'a body with /verify/token'" in text
    assert "sent to eve@example.org: 'secret' '…'" in text
    assert "0 messages were queued, not one, with to='ada@example.org'" in text
    assert "Nothing went out." in text
    assert "1 more than was asserted" in text
    assert "queued to ada@example.org: 'three'" in text
    assert "2 messages were sent, not one" in text


def test_nothing_goes_out_and_after_it_everything_is_as_before(project):
    project(
        """
def test_in_it(mail, outbox):
    mail.state.suppress = False
    mail.send(note())
    assert len(outbox.sent) == 1

def test_after_it(mail):
    with pytest.raises(ConnectionRefusedError):
        mail.send(note())
""",
        passed=2,
    )


def test_several_apps_are_heard(project):
    project(
        """
def test_it(mail, outbox):
    other = Flask("other")
    other.config.update(MAIL_DEFAULT_SENDER="other@example.com")
    second = Mail(other)
    mail.send_later(note("one"))
    with other.app_context():
        second.send_later(note("two"))
    assert outbox.drain() == 2
""",
        passed=1,
    )


def test_it_is_safe_under_xdist(project):
    project(
        """
@pytest.mark.parametrize("number", range(20))
def test_it(mail, outbox, number):
    mail.send_later(note(str(number)))
    outbox.assert_queued(subject=str(number))
    outbox.assert_nothing_else()
""",
        "-n",
        "2",
        passed=20,
    )


def test_a_test_that_fails_with_an_assertion_of_its_own_prints_what_went_out_too(project):
    for arguments in ([], ["-n", "2"]):
        text = project(
            """
def test_own(mail, outbox):
    mail.send_later(note("one"))
    mail.send(note("two"))
    assert outbox.sent == []

def test_without_mail():
    assert not 1
""",
            *arguments,
            failed=2,
        )
        assert text.count("Mail of this test") == 1
        assert "queued to ada@example.org: 'one' 'a body with /verify/token'" in text
        assert "sent to ada@example.org: 'two'" in text
        assert "<outbox: 1 queued, 1 sent>" in text
