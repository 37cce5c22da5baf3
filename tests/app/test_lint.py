"""mail.lint and flask outbox lint: what goes out is looked at, and nothing is sent or changed."""

import json
import os
import shutil
import subprocess
from copy import deepcopy
from pathlib import Path

import pytest
from flask import Flask, current_app

from flask_outbox import Finding, Mail, Message, MessageCancelled, MessageError, Severity
from flask_outbox.app import linting, spam
from flask_outbox.app.cli import outbox
from flask_outbox.transports.mailgun import Mailgun
from flask_outbox.transports.postmark import Postmark
from flask_outbox.transports.resend import Resend
from flask_outbox.transports.sendgrid import SendGrid
from flask_outbox.transports.ses import Ses

WORDS = "Your order of two books is on its way to you. " * 3
# What SpamAssassin takes for spam whatever else is said; put together, so that this file is none.
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-" + "UBE-TEST-EMAIL*C.34X"


def note(**fields):
    return Message(**{"subject": "Your order", "recipients": ["a@x.test"], "body": WORDS, **fields})


def rules(findings):
    return [each.rule for each in findings if each.severity is not Severity.INFO]


@pytest.fixture
def no_spamassassin(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")


class TestMailLint:
    def test_says_what_is_found_and_sends_nothing(self, mail, outbox):
        assert rules(mail.lint(note(subject=""))) == ["subject"]
        assert mail.lint(note(), spam=False) == []
        assert outbox.sent == []

    def test_leaves_the_message_as_it_is(self, mail):
        @mail.before_send
        def add(message):
            message.extra_headers = {"X-Added": "1"}
            message.recipients.append("b@x.test")

        message = note(sender=None, html="<p>hi</p>")
        before = deepcopy(message.__dict__)
        mail.lint(message, spam=False)
        assert message.__dict__ == before

    def test_looks_at_what_before_send_makes_of_it(self, mail, app):
        @mail.before_send
        def add(message):
            assert current_app.name == app.name
            message.list_id = "news.x.test"

        assert rules(mail.lint(note())) == ["list-unsubscribe"]

    def test_of_a_cancelled_message_is_the_cancellation(self, mail):
        @mail.before_send
        def refuse(message):
            raise MessageCancelled("no")

        with pytest.raises(MessageCancelled):
            mail.lint(note())

    def test_looks_at_what_a_sandbox_would_hold_back(self, app):
        app.config["MAIL_ALLOW_ONLY"] = ["y.test"]
        assert rules(Mail(app).lint(note(subject=""))) == ["subject"]

    def test_makes_text_from_html_as_sending_does(self, app):
        html = f"<p>{WORDS}</p>"
        assert rules(Mail(app).lint(note(body=None, html=html))) == ["no-text"]
        app.config["MAIL_TEXT_FROM_HTML"] = True
        assert rules(Mail(app).lint(note(body=None, html=html))) == []

    @pytest.mark.parametrize("name", sorted(linting.TEMPLATES))
    def test_asks_for_no_text_of_its_own_beside_a_template(self, mail, name):
        message = note(subject="", body=None, provider={name: "welcome"}, list_id="news.x.test")
        assert [each.rule for each in mail.lint(message)] == ["list-unsubscribe"]

    def test_asks_for_a_text_beside_what_else_a_provider_is_told(self, mail):
        message = note(subject="", body=None, provider={"TemplateModel": {}})
        assert rules(mail.lint(message, spam=False)) == ["subject", "no-text"]

    def test_knows_what_names_a_template_with_each_provider(self):
        ours = (Mailgun, Postmark, Resend, SendGrid, Ses)
        assert {name for each in ours for name in each.carries.template} == linting.TEMPLATES

    def test_of_what_cannot_be_sent_is_the_error_of_sending(self, mail):
        with pytest.raises(MessageError, match="recipients"):
            mail.lint(note(recipients=["nobody"]))
        with pytest.raises(MessageError, match="must be a flask_outbox"):
            mail.lint("a text")

    def test_asks_spamassassin_unless_it_is_told_not_to(self, mail):
        assert [each.rule for each in mail.lint(note())] == ["spam"]
        assert mail.lint(note(), spam=False) == []


class TestSpam:
    def test_a_mail_that_is_spam_is_an_error_with_the_reasons(self, mail):
        (finding,) = mail.lint(note(body=GTUBE))
        assert (finding.rule, finding.severity) == ("spam", Severity.ERROR)
        assert "GTUBE (1000)" in finding.text
        assert "calls 5.0 spam" in finding.text

    def test_of_another_the_points_are_told(self, mail):
        (finding,) = mail.lint(note())
        assert (finding.rule, finding.severity) == ("spam", Severity.INFO)
        assert "GTUBE" not in finding.text

    def test_a_score_that_the_mail_brings_along_counts_nothing(self):
        forged = b"X-Spam-Lint: -100.0 5.0 FORGED=1\n"
        mail = forged + b"From: a@x.test\nSubject: s\n" + forged + b"\n" + forged + GTUBE.encode()
        for content in (mail, mail.replace(b"\n", b"\r\n")):
            (finding,) = spam.score(content)
            assert "1000" in finding.text
            assert "FORGED" not in finding.text

    def test_nothing_is_said_where_it_is_not_installed(self, mail, no_spamassassin):
        assert mail.lint(note(body=GTUBE)) == []

    def test_one_that_hangs_is_given_up(self):
        (finding,) = spam.score(b"From: a@x.test\n\n", seconds=0.0)
        assert finding == Finding("spam", Severity.WARNING, finding.text)
        assert "did not answer within" in finding.text

    @pytest.mark.parametrize(
        ("program", "told"),
        [
            ("#!/bin/sh\ncat\n", "gave no score"),
            ("#!/bin/sh\necho 'X-Spam-Lint: 1.0 5.0 A=1'\nexit 1\n", "gave no score"),
            ("#!/bin/sh\necho 'A: b'; echo; echo 'X-Spam-Lint: 1.0 5.0 A=1'\n", "gave no score"),
            ("#!/nonexistent\n", "could not be started"),
            ("#!/bin/sh\necho 'X-Spam-Lint: 1.0 5.0 none'\n", "calls 5.0 spam."),
            ("#!/bin/sh\necho 'X-Spam-Lint: 1.0 5.0 A=0.1,B=0.09'\n", "spam: A (0.1)."),
            ("#!/bin/sh\necho 'X-Spam-Lint: 5.0 5.0 A=4.95,B=0.05'\n", "A (4.95); write"),
        ],
    )
    def test_one_that_is_broken_is_told(self, tmp_path, monkeypatch, program, told):
        script = tmp_path / "spamassassin"
        script.write_text(program)
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        (finding,) = spam.score(b"From: a@x.test\n\n")
        assert told in finding.text

    def test_a_large_mail_is_not_given_to_it(self):
        (finding,) = spam.score(b"From: a@x.test\n\n" + b"x\n" * (spam.LARGEST // 2))
        assert "Larger than 500 KB" in finding.text

    def test_it_is_told_nothing_but_the_mail_and_leaves_nothing_behind(self, tmp_path, monkeypatch):
        script = tmp_path / "spamassassin"
        script.write_text(f'#!/bin/sh\nenv >{tmp_path}/env\necho "$@" >{tmp_path}/arguments\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.setenv("MAIL_PASSWORD", "canary")
        spam.score(b"From: a@x.test\n\n")
        assert "canary" not in (tmp_path / "env").read_text()
        assert "--local --nocreate-prefs" in (tmp_path / "arguments").read_text()

    def test_the_real_one_makes_no_files(self, tmp_path, monkeypatch):
        assert shutil.which("spamassassin")
        before = set(Path("~").expanduser().glob(".spamassassin*"))
        spam.score(b"From: a@x.test\n\n")
        assert set(Path("~").expanduser().glob(".spamassassin*")) == before


@pytest.fixture
def lint(tmp_path):
    """The command, in an app that has no outbox, and cannot have one."""
    (tmp_path / "instance").touch()
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    Mail(app)

    def run(*arguments, status=0, stdin=None):
        result = app.test_cli_runner().invoke(outbox, args=["lint", *arguments], input=stdin)
        assert result.exit_code == status, (result.output, result.exception)
        return result

    return run


@pytest.fixture
def files(tmp_path):
    """A file of each kind, by name."""
    head = "From: a@x.test\r\nSubject: s\r\n\r\n"
    contents = {
        "good.eml": head + "Your order.\r\n",
        "bad.eml": head + "Your password: canary2\r\n",
        "spam.eml": f"{head}{GTUBE}\r\n",
        "none.txt": "Dear diary: today nothing\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content, newline="")
    return {name: str(tmp_path / name) for name in contents}


class TestCommand:
    def test_with_nothing_found_has_status_0(self, lint, files):
        assert (
            lint("--no-spam", files["good.eml"]).output == f"{files['good.eml']}: nothing found\n"
        )
        assert "info" in lint(files["good.eml"]).output

    def test_with_something_found_is_a_table_and_has_status_1(self, lint, files):
        name, head, row = lint("--no-spam", files["bad.eml"], status=1).output.splitlines()
        assert name == f"{files['bad.eml']}:"
        assert head.split() == ["SEVERITY", "RULE", "FINDING"]
        assert row.split()[:2] == ["error", "password"]
        assert "canary" not in row

    def test_of_a_file_that_an_editor_began_with_a_mark_is_of_the_mail(self, lint, files):
        content = b"\xef\xbb\xbf" + Path(files["good.eml"]).read_bytes()
        assert lint("--no-spam", "-", stdin=content).output == "-: nothing found\n"
        Path(files["good.eml"]).write_bytes(content)
        assert "nothing found" in lint("--no-spam", files["good.eml"]).output

    def test_of_spam_has_status_1(self, lint, files):
        assert "GTUBE" in lint(files["spam.eml"], status=1).output
        lint(files["spam.eml"], "--no-spam")

    def test_of_no_mail_has_status_2_and_goes_on_with_the_others(self, lint, files):
        result = lint("--no-spam", files["none.txt"], files["bad.eml"], status=2)
        assert result.stderr == f"{files['none.txt']}: {SAID}\n"
        assert "password" in result.stdout

    @pytest.mark.parametrize("name", ["missing.eml", ""])
    def test_of_no_file_has_status_2(self, lint, tmp_path, name):
        assert "Usage:" in lint(str(tmp_path / name), status=2).output

    def test_of_nothing_has_status_2(self, lint):
        lint(status=2)

    def test_of_what_cannot_be_read_has_status_2(self, lint):
        assert "/proc/self/mem: " in lint("/proc/self/mem", status=2).stderr

    def test_of_what_does_not_end_has_status_2(self, lint):
        assert "more than 64 MB" in lint("/dev/zero", status=2).stderr

    def test_reads_stdin(self, lint, files):
        content = Path(files["bad.eml"]).read_bytes()
        assert lint("--no-spam", "-", stdin=content, status=1).output.startswith("-:\n")

    def test_as_json_is_one_document(self, lint, files):
        names = [files[name] for name in ("good.eml", "bad.eml", "none.txt")]
        good, bad, none = json.loads(lint("--json", "--no-spam", *names, status=2).stdout)
        assert good == {"file": names[0], "findings": []}
        assert bad["findings"][0] == {
            "rule": "password",
            "severity": "error",
            "text": bad["findings"][0]["text"],
        }
        assert none == {"file": names[2], "error": SAID}

    def test_runs_as_a_program(self, files, tmp_path):
        (tmp_path / "shop.py").write_text(
            "from flask import Flask\nfrom flask_outbox import Mail\nMail(app := Flask('shop'))\n"
        )
        command = ["-m", "flask", "--app", "shop.py", "outbox", "lint", "--no-spam"]
        done = subprocess.run(
            [os.sys.executable, *command, files["bad.eml"]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (1, "")
        assert not (tmp_path / "instance").exists()


SAID = "this is no mail: it has neither From nor To, Subject nor Date"
