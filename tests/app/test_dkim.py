"""MAIL_DKIM_*: every way of sending signs once, what is stored is not signed, no key is told."""

import asyncio
import json
import logging
import re
import subprocess
import sys
from email import message_from_bytes

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from flask import Flask

from dkim_judges import ED, RSA, dkimpy, header, pem_of, published
from flask_outbox import ConfigurationError, Mail, Message, SendError, State, message_sent
from flask_outbox.outbox.status import submission as stored
from flask_outbox.transports.base import Carries
from flask_outbox.transports.dkim_key import DkimKey
from flask_outbox.transports.local import Memory
from hostile import Hostile, polite, reset, say, take, then

SIGNING = {
    "MAIL_DKIM_DOMAIN": "example.com",
    "MAIL_DKIM_SELECTOR": "r",
    "MAIL_DKIM_KEY": pem_of(RSA),
}
SEVERAL = [
    {"domain": "example.com", "selector": "r", "key": pem_of(RSA)},
    {"domain": "Example.com", "selector": "e", "key": pem_of(ED)},
]
RECORDS = published(RSA, ED)


def note(**fields):
    return Message(**{"subject": "hi", "recipients": ["ada@example.org"], "body": "text", **fields})


@pytest.fixture
def make(tmp_path):
    made = []

    def make(server=None, **config):
        app = Flask("shop", instance_path=str(tmp_path / "instance"))
        config = {"MAIL_WORKER": "process", **SIGNING, **config}
        app.config.update(MAIL_DEFAULT_SENDER="shop@example.com", SECRET_KEY="key")
        app.config.update({key: value for key, value in config.items() if value is not None})
        if server is not None:
            app.config["MAIL_PORT"] = server.port
        Mail(app)
        made.append(app)
        return app

    yield make
    for app in made:
        app.extensions["outbox"].close()


@pytest.fixture
def server():
    with Hostile() as server:
        yield server


def mail_of(app):
    mail = Mail()
    mail.app = app
    return mail


def send(mail, message):
    mail.send(message)


def send_async(mail, message):
    asyncio.run(mail.send_async(message))


def over_a_connection(mail, message):
    with mail.connect() as connection:
        connection.send(message)


def later_and_drained(mail, message):
    mail.send_later(message)
    mail.drain(seconds=20)


def by_the_command(mail, message):
    mail.send_later(message)
    result = mail.app.test_cli_runner().invoke(args=["outbox", "drain"])
    assert result.exit_code == 0, result.output


def embedded(mail, message):
    mail.send_later(message)  # and the app's own thread sends it


WAYS = {
    each: {"MAIL_WORKER": "embedded"} if each is embedded else {}
    for each in (send, send_async, over_a_connection, later_and_drained, by_the_command, embedded)
}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_each_way_of_sending_signs_once_by_each_key(make, server, way):
    app = make(server, **WAYS[way], MAIL_DKIM_KEYS=SEVERAL[1:])
    with app.app_context():
        way(mail_of(app), note(html="<p>text</p>"))
    server.wait_until(lambda server: server.accepted)
    content = server.accepted[0].content
    assert header(content).count(b"DKIM-Signature:") == 2
    assert dkimpy(content, RECORDS) == [True, True]


def test_a_worker_process_signs(make, server, tmp_path):
    app = make(server)
    with app.app_context():
        mail_of(app).send_later(note())
    config = {key: value for key, value in app.config.items() if key.startswith("MAIL_")}
    (tmp_path / "shop.py").write_text(
        "from flask import Flask\nfrom flask_outbox import Mail\n"
        f"app = Flask('shop', instance_path={app.instance_path!r})\n"
        f"app.config.update({config!r})\nMail(app)\n"
    )
    command = [sys.executable, "-m", "flask", "--app", "shop.py", "outbox", "worker"]
    with subprocess.Popen(command, cwd=tmp_path) as process:
        try:
            server.wait_until(lambda server: server.accepted)
        finally:
            process.terminate()
    assert dkimpy(server.accepted[0].content, RECORDS) == [True]


def test_a_big_mail_is_signed_without_holding_up_the_event_loop(make, server):
    app = make(server)
    with app.app_context():
        send_async(mail_of(app), note(body="text\n" * 50_000))
    assert dkimpy(server.accepted[0].content, RECORDS) == [True]


def test_celery_and_whoever_else_drains_work_by_the_same_plan(make):
    runtime = make(MAIL_TRANSPORT="memory:").extensions["outbox"]
    assert runtime.plan().sign == runtime.sign


def test_what_is_stored_stays_unsigned_before_and_after(make, server):
    app = make(server)
    runtime = app.extensions["outbox"]
    with app.app_context():
        mail = mail_of(app)
        row = mail.send_later(note())
        before = stored(runtime.outbox, row).content
        mail.drain(seconds=20)
        assert mail.status(row).state is State.ACCEPTED
        assert stored(runtime.outbox, row).content == before
    assert b"DKIM-Signature" not in before
    assert server.accepted[0].content.endswith(before)


def test_a_repeat_by_an_app_that_was_started_anew_is_the_same_bytes(make):
    with Hostile({"dot": [then(take, reset), polite]}) as server:
        app = make(server, MAIL_MAX_UNCLEAR=0)
        with app.app_context():
            row = mail_of(app).send_later(note())
            mail_of(app).drain(seconds=20)
            assert mail_of(app).status(row).state is State.UNKNOWN
        again = make(server)
        assert again.test_cli_runner().invoke(args=["outbox", "retry", row]).exit_code == 0
        with again.app_context():
            mail_of(again).drain(seconds=20)
        first, second = server.accepted
    assert header(first.content).count(b"DKIM-Signature:") == 1
    assert first.content == second.content


def test_the_signature_is_over_what_before_send_and_the_sandbox_made_of_the_mail(make, server):
    app = make(server, MAIL_REDIRECT_TO="me@example.net")
    mail = Mail(app)
    mail.before_send(lambda message: setattr(message, "subject", "changed"))
    with app.app_context():
        mail.send(note())
    parsed = message_from_bytes(server.accepted[0].content)
    assert (parsed["Subject"], parsed["To"]) == ("changed", "me@example.net")
    assert dkimpy(server.accepted[0].content, RECORDS) == [True]


class Provider(Memory):
    """A way out that signs by itself."""

    carries = Carries(signature=False)


@pytest.mark.parametrize("way", [send, send_async, later_and_drained], ids=lambda way: way.__name__)
def test_a_way_out_that_signs_by_itself_gets_the_mail_as_it_is(make, way):
    provider = Provider()
    app = make(MAIL_TRANSPORT=provider)
    with app.app_context():
        way(mail_of(app), note())
    assert b"DKIM-Signature" not in provider.sent[0].content


def test_a_sender_of_another_domain_is_sent_unsigned(make, server):
    app = make(server)
    with app.app_context():
        mail_of(app).send(note(sender="shop@other.test"))
    assert b"DKIM-Signature" not in server.accepted[0].content


def test_a_signature_that_the_app_set_stays_below_ours(make, server):
    app = make(server)
    with app.app_context():
        mail_of(app).send(note(extra_headers={"DKIM-Signature": "v=1; a=rsa-sha256; d=x.test"}))
    content = server.accepted[0].content
    assert header(content).count(b"DKIM-Signature:") == 2
    assert dkimpy(content, RECORDS) == [True, False]


def test_octets_handed_to_the_host_leave_as_they_are(make, server):
    app = make(server)
    content = b"From: shop@example.com\r\n\r\nx\r\n"
    with app.app_context(), mail_of(app).connect() as connection:
        connection.host.sendmail("shop@example.com", ["ada@example.org"], content)
    assert server.accepted[0].content == content


def test_listeners_get_a_message_without_the_signature_that_it_left_with(make, server):
    app = make(server)
    heard = []

    def listen(sender, message, **facts):
        heard.append(message)

    with app.app_context(), message_sent.connected_to(listen):
        mail_of(app).send_later(note(extra_headers={"X-A": "b"}))
        mail_of(app).drain(seconds=20)
    assert heard[0].extra_headers == {"X-A": "b"}


def test_under_testing_nothing_is_signed_and_no_key_is_loaded():
    app = Flask("shop")
    app.config.update(TESTING=True, MAIL_DEFAULT_SENDER="shop@example.com", **SIGNING)
    mail = Mail(app)
    with app.app_context(), mail.record_messages() as outbox:
        mail.send(note())
    assert len(outbox) == 1


def test_with_a_key_that_cannot_be_used_no_worker_begins_and_nothing_is_sent(make, server):
    app = make(server, MAIL_SUPPRESS_SEND=True, MAIL_DKIM_KEY="none")
    app.extensions["mail"].suppress = False  # as tests do, after the keys would have been looked at
    with app.app_context():
        mail = mail_of(app)
        mail.send_later(note())
        for way in (lambda: mail.drain(seconds=20), lambda: mail.send(note())):
            with pytest.raises(ConfigurationError, match="MAIL_DKIM_KEY must be"):
                way()
    assert server.heard == []


def test_what_cannot_be_signed_is_poison_and_is_never_sent_unsigned(
    make, server, place, monkeypatch, caplog
):
    app = make(server, MAIL_OUTBOX_URL=place)
    runtime = app.extensions["outbox"]
    with app.app_context():
        mail = mail_of(app)
        bad, good = mail.send_later(note(sender="x@bad.test")), mail.send_later(note())
        broken = DkimKey("bad.test", "x", None)
        monkeypatch.setitem(runtime.dkim_keys, "bad.test", [broken])
        mail.drain(seconds=20)
        assert mail.status(bad).state is State.QUEUED
        assert "poison" in mail.status(bad).recipients[0].reply
        assert mail.status(good).state is State.ACCEPTED
        with pytest.raises(AttributeError):
            mail.send(note(sender="x@bad.test"))
    assert len(server.accepted) == 1
    assert "cannot be signed" in caplog.text


# --- settings ---


def test_keys_are_read_from_files_and_from_the_environments_json(make, tmp_path):
    (tmp_path / "r.pem").write_text(pem_of(RSA))
    (tmp_path / "e.pem").write_text(pem_of(ED))
    one = make(
        MAIL_TRANSPORT="memory:",
        MAIL_DKIM_KEY=None,
        MAIL_DKIM_KEY_FILE=str(tmp_path / "r.pem"),
        MAIL_DKIM_KEYS=json.dumps(
            [{"domain": "example.com", "selector": "e", "key_file": str(tmp_path / "e.pem")}]
        ),
    )
    other = make(
        MAIL_TRANSPORT="memory:", **dict.fromkeys(SIGNING), MAIL_DKIM_KEYS=json.dumps(SEVERAL)
    )
    for app in (one, other):
        keys = app.extensions["outbox"].dkim_keys
        assert {key.name: key.record for key in keys["example.com"]} == RECORDS


def test_without_settings_nothing_is_signed_and_cryptography_is_not_loaded(tmp_path):
    code = """
import sys
from flask import Flask
from flask_outbox import Mail, Message
app = Flask("shop")
app.config.update(MAIL_TRANSPORT="null:", MAIL_DEFAULT_SENDER="shop@example.com")
mail = Mail(app)
with app.app_context():
    mail.send(Message("hi", ["ada@example.org"], "text"))
assert not {"cryptography", "flask_outbox.transports.dkim"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=tmp_path)


ANY = [{"domain": "example.com", "selector": "e", "key": pem_of(ED)}]
WRONG = {
    "two of three": ({"MAIL_DKIM_SELECTOR": None}, "MAIL_DKIM_DOMAIN, MAIL_DKIM_SELECTOR and"),
    "the domain alone": (
        {"MAIL_DKIM_SELECTOR": None, "MAIL_DKIM_KEY": None},
        "MAIL_DKIM_DOMAIN, MAIL_DKIM_SELECTOR and",
    ),
    "no domain": ({"MAIL_DKIM_DOMAIN": "a b"}, "MAIL_DKIM_DOMAIN must be a domain"),
    "no text": ({"MAIL_DKIM_DOMAIN": 7}, "MAIL_DKIM_DOMAIN must be a text"),
    "no selector": ({"MAIL_DKIM_SELECTOR": "a_b"}, "MAIL_DKIM_SELECTOR must be letters"),
    "a tag in it": ({"MAIL_DKIM_SELECTOR": "a;d=evil"}, "MAIL_DKIM_SELECTOR must be letters"),
    "no key": ({"MAIL_DKIM_KEY": "c4n4ry"}, "MAIL_DKIM_KEY must be the private key itself"),
    "the same twice": (
        {"MAIL_DKIM_KEYS": [{**ANY[0], "selector": "r"}]},
        r"MAIL_DKIM_KEYS\[0\]\['key'\] has the domain and the selector of another",
    ),
    "no list": ({"MAIL_DKIM_KEYS": {"c4n4ry": 1}}, "MAIL_DKIM_KEYS must be a list of mappings"),
    "no JSON": ({"MAIL_DKIM_KEYS": "c4n4ry"}, "MAIL_DKIM_KEYS must be well-formed"),
    "no mapping": ({"MAIL_DKIM_KEYS": [*ANY, "c4n4ry"]}, r"MAIL_DKIM_KEYS\[1\] must be a mapping"),
    "a misspelt name": (
        {"MAIL_DKIM_KEYS": [{**ANY[0], "c4n4ry": 1}]},
        r"MAIL_DKIM_KEYS\[0\] must be a mapping with 'domain', 'selector', and 'key'",
    ),
    "a key and a file": (
        {"MAIL_DKIM_KEYS": [{**ANY[0], "key_file": "c4n4ry"}]},
        r"MAIL_DKIM_KEYS\[0\] must be a mapping",
    ),
    "no file": (
        {"MAIL_DKIM_KEYS": [{"domain": "a.test", "selector": "e", "key_file": "c4n4ry"}]},
        r"MAIL_DKIM_KEYS\[0\]\['key_file'\] must name a file that can be read: FileNotFound",
    ),
    "half of one": (
        {"MAIL_DKIM_KEYS": [{"domain": "", "selector": "e", "key": "c4n4ry"}]},
        r"MAIL_DKIM_KEYS\[0\] must be a mapping",
    ),
    "no key among several": (
        {"MAIL_DKIM_KEYS": [{**ANY[0], "key": "c4n4ry"}]},
        r"MAIL_DKIM_KEYS\[0\]\['key'\] must be the private key",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_work_stops_the_app_by_its_name_and_is_not_repeated(make, name):
    config, why = WRONG[name]
    with pytest.raises(ConfigurationError, match=f"^{why}") as caught:
        make(MAIL_TRANSPORT="memory:", **config)
    assert "c4n4ry" not in f"{caught.value}{caught.value!r}{caught.value.__cause__!r}"
    assert not [line for line in pem_of(RSA).splitlines()[1:-1] if line in str(caught.value)]


def test_a_weak_rsa_key_is_warned_of(make, caplog):
    weak = DkimKey("example.com", "weak", generate_private_key(65537, 1024))  # noqa: S505  on purpose
    make(MAIL_TRANSPORT="memory:", MAIL_DKIM_KEY=pem_of(weak))
    [record] = [each for each in caplog.records if "weak" in each.message]
    assert record.levelno == logging.WARNING
    assert "MAIL_DKIM_KEY is an RSA key of 1024 bits" in record.message
    assert "dkim-keygen" in record.message


def test_without_the_package_the_error_names_the_command_that_installs_it(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "flask_outbox.transports.dkim", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'flask-outbox\[crypto\]'"):
        make(MAIL_TRANSPORT="memory:")


def test_workers_with_another_key_are_told_apart(make):
    badges = [
        make(MAIL_TRANSPORT="memory:", **config).extensions["outbox"].badge()
        for config in ({}, {"MAIL_DKIM_SELECTOR": "s"}, {"MAIL_DKIM_KEYS": ANY})
    ]
    assert len({badge.settings for badge in badges}) == 3


def test_no_key_is_told_by_anything(make, caplog, capfd):
    caplog.set_level("DEBUG")
    told = []
    with Hostile({"dot": say(b"554 5.6.0 no")}) as server:
        app = make(server, MAIL_DKIM_KEYS=SEVERAL[1:], MAIL_DEBUG=True)
        runtime = app.extensions["outbox"]
        with app.app_context():
            mail = mail_of(app)
            for way in (send, send_async):
                with pytest.raises(SendError) as caught:
                    way(mail, note())
                told += [repr(caught.value), repr(vars(caught.value))]
            row = mail.send_later(note())
            mail.drain(seconds=20)
            told.append(repr(mail.status(row)))
        told += [repr(each) for each in (mail, runtime, runtime.settings, runtime.plan())]
        told += [repr(runtime.dkim_keys), repr(runtime.badge()), repr(runtime.sign)]
    told += [caplog.text, *capfd.readouterr()]
    secrets = re.findall(r"^[^-\n]{20,}$", pem_of(RSA) + pem_of(ED), re.MULTILINE)
    assert len(secrets) > 10
    for secret in secrets:
        assert not [text for text in told if secret in text]
