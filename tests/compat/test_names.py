"""What can be imported, and the stand-in for extensions that import flask_mail by name."""

import importlib
import os
import subprocess
import sys
import textwrap

import pytest

import flask_outbox

NAMES = [
    *("Mail", "Message", "Attachment", "Connection", "BadHeaderError"),
    *("FlaskMailUnicodeDecodeError", "email_dispatched", "signals", "force_text"),
    *("sanitize_subject", "sanitize_address", "sanitize_addresses"),
    *("_Mail", "_MailMixin", "_has_newline"),
]


def run(code, *blocked):
    """Run it in an interpreter in which the blocked modules are not installed."""
    block = "".join(
        f"""
class Block:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Block())
"""
        for name in blocked
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys\n{block}\n{textwrap.dedent(code)}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "FLASK_APP": ""},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_each_name_of_flask_mail_can_be_imported(name):
    assert hasattr(flask_outbox, name)
    assert name in dir(flask_outbox)


def test_every_public_name_is_there():
    for name in flask_outbox.__all__:
        if name != "OutboxMailUtil":  # has a test of its own
            assert getattr(flask_outbox, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Mial"):
        _ = flask_outbox.Mial


def test_installing_leaves_an_installed_flask_mail_alone():
    assert flask_outbox.install_as_flask_mail() is False
    assert importlib.import_module("flask_mail").Mail is not flask_outbox.Mail


def test_force_puts_it_in_the_place_of_an_installed_flask_mail():
    run("""
        import flask_mail as theirs
        import flask_outbox
        assert flask_outbox.install_as_flask_mail(force=True)
        import flask_mail
        assert flask_mail is not theirs
        assert flask_mail.Mail is flask_outbox.Mail
    """)


def test_importing_flask_mail_gives_this_package_and_find_spec_works():
    run("""
        import importlib.machinery, importlib.util, sys
        import flask_outbox
        real = importlib.machinery.PathFinder.find_spec
        def hidden(name, path=None, target=None):
            return None if name == "flask_mail" else real(name, path, target)
        importlib.machinery.PathFinder.find_spec = hidden
        assert importlib.util.find_spec("flask_mail") is None
        assert flask_outbox.install_as_flask_mail() is True
        assert flask_outbox.install_as_flask_mail() is True
        import flask_mail
        from flask_mail import Mail, Message, email_dispatched
        assert Mail is flask_outbox.Mail and Message is flask_outbox.Message
        spec = importlib.util.find_spec("flask_mail")
        assert spec is flask_mail.__spec__ and spec.name == "flask_mail"
    """)


def test_every_name_of_flask_mail_is_in_the_stand_in():
    names = ", ".join(NAMES)
    run(f"""
        import flask_outbox
        flask_outbox.install_as_flask_mail(force=True)
        from flask_mail import {names}
        import flask_mail
        assert flask_mail.__version__
    """)


def test_flask_security_sends_by_way_of_the_outbox():
    out = run("""
        from flask import Flask
        from flask_outbox import Mail, OutboxMailUtil, message_queued
        app = Flask("shop")
        app.config.update(TESTING=True, MAIL_DEFAULT_SENDER="shop@example.com")
        mail = Mail(app)
        util = OutboxMailUtil(app)
        with app.app_context(), mail.record_messages() as outbox:
            heard = []
            def hear(app, **named):
                heard.append(named["id"])
            with message_queued.connected_to(hear):
                util.send_mail("reset", "Reset it", "ada@example.org", ("Shop", "s@example.com"),
                    "text", "<p>html</p>", user=object())
            (message,) = outbox
            assert mail.status(heard[0]).state.value == "queued"
        print(message.subject, message.sender, message.recipients, message.body, message.html)
    """)
    assert out == "Reset it Shop <s@example.com> ['ada@example.org'] text <p>html</p>\n"


def test_flask_security_itself_takes_the_stand_in():
    run("""
        import flask_outbox
        flask_outbox.install_as_flask_mail(force=True)
        from flask import Flask
        from flask_security import MailUtil
        app = Flask("shop")
        app.config.update(TESTING=True, MAIL_DEFAULT_SENDER="shop@example.com")
        mail = flask_outbox.Mail(app)
        with app.app_context(), mail.record_messages() as outbox:
            MailUtil(app).send_mail("reset", "Reset it", "a@example.org", "s@b.de", "t", None)
            assert outbox[0].subject == "Reset it"
    """)


def test_without_flask_security_its_mail_util_says_what_to_install():
    run(
        """
        import flask_outbox
        try:
            flask_outbox.OutboxMailUtil
        except ImportError as error:
            assert "pip install Flask-Security" in str(error)
        else:
            raise SystemExit(1)
        """,
        "flask_security",
    )


def test_force_text_resolves_bytes_and_names_the_type_of_what_it_cannot_read():
    assert flask_outbox.force_text("é") == "é"
    assert flask_outbox.force_text("é".encode()) == "é"
    assert flask_outbox.force_text(7) == "7"
    with pytest.raises(flask_outbox.FlaskMailUnicodeDecodeError, match="bytes"):
        flask_outbox.force_text(b"\xff")


def test_sanitize_functions_write_what_may_stand_in_a_header():
    assert flask_outbox.sanitize_subject("plain") == "plain"
    assert flask_outbox.sanitize_subject("sübject") == "=?utf-8?q?s=C3=BCbject?="
    assert (
        flask_outbox.sanitize_address(("Ä", "a@example.org")) == "=?utf-8?b?w4Q=?= <a@example.org>"
    )
    assert flask_outbox.sanitize_address("Ä <a@example.org>", "latin-1") == (
        "=?iso-8859-1?q?=C4?= <a@example.org>"
    )
    assert flask_outbox.sanitize_addresses(["a@exämple.org"]) == ["a@xn--exmple-cua.org"]
    assert flask_outbox._has_newline("a\nb")
    assert not flask_outbox._has_newline("ab")


def test_everything_can_be_imported_and_looked_through_without_flask_security():
    run(
        """
        from inspect import getmembers
        import flask_outbox
        exec("from flask_outbox import *")
        assert Mail is flask_outbox.Mail
        assert "Message" in dict(getmembers(flask_outbox))
        """,
        "flask_security",
    )
