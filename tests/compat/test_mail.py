"""Mail, its state, the connection, the signal, and the errors of sending."""

import copy
import socket
import subprocess
import sys
import threading
from unittest import mock

import pytest
from flask import Flask, current_app

from flask_outbox import BadHeaderError, Mail, Message, MessageError, email_dispatched
from flask_outbox.app.flask_mail import Connection, _Mail

LIVE = {
    "server": "mail.example.com",
    "username": "ada",
    "password": "s3cret",
    "port": 2525,
    "use_tls": True,
    "use_ssl": True,
    "default_sender": "new@example.com",
    "debug": 1,
    "max_emails": 3,
    "suppress": False,
    "ascii_attachments": True,
}


def note(**fields):
    return Message(**{"subject": "hi", "recipients": ["ada@example.org"], "body": "text", **fields})


def test_mail_has_its_app_and_state(app):
    mail = Mail(app)
    assert mail.app is app
    assert mail.state is app.extensions["mail"]
    assert isinstance(mail.state, _Mail)


def test_init_app_returns_the_state(app):
    mail = Mail()
    assert mail.app is None
    assert mail.state is None
    assert mail.init_app(app) is app.extensions["mail"]


def test_init_mail_gives_equal_states_for_equal_configurations(app):
    mail = Mail(app)
    other = mail.init_mail(app.config, app.debug, app.testing)
    assert vars(mail.state) == vars(other)
    different = mail.init_mail({**app.config, "MAIL_PORT": 26}, app.debug, app.testing)
    assert vars(mail.state) != vars(different)


def test_the_state_sends_and_connects_itself(app, mail):
    state = app.extensions["mail"]
    with mail.record_messages() as outbox:
        state.send(note())
        state.send_message("hi", ["ada@example.org"], "text")
        with state.connect() as connection:
            connection.send(note())
            connection.send_message("hi", ["ada@example.org"], "text")
    assert len(outbox) == 4


@pytest.mark.parametrize(("field", "value"), LIVE.items())
def test_a_state_field_can_be_set_live(app, mail, field, value):
    setattr(app.extensions["mail"], field, value)
    assert getattr(app.extensions["mail"], field) == value
    assert getattr(mail, field) == value


@pytest.mark.parametrize(("field", "value"), LIVE.items())
def test_a_field_set_on_mail_is_set_on_the_state(app, mail, field, value):
    setattr(mail, field, value)
    assert getattr(app.extensions["mail"], field) == value


def test_the_defaults_are_flask_mails():
    app = Flask("shop")
    state = Mail(app).state
    assert (state.server, state.port) == ("127.0.0.1", 25)
    assert (state.use_tls, state.use_ssl) == (False, False)
    assert (state.username, state.password) == (None, None)
    assert state.debug == app.debug
    assert state.default_sender is None
    assert state.max_emails is None
    assert state.suppress is app.testing is False
    assert state.ascii_attachments is False


@pytest.mark.parametrize("sender", ["a@example.com", "A <a@example.com>", ("A", "a@example.com")])
def test_the_default_sender_is_a_text_or_a_tuple(app, sender):
    app.config["MAIL_DEFAULT_SENDER"] = sender
    assert Mail(app).state.default_sender == sender


def test_debug_follows_the_app():
    app = Flask("shop")
    app.debug = True
    assert Mail(app).state.debug == 1


def test_the_signal_is_sent_after_the_server_took_it(live, server):
    heard = []

    def hear(app, message):
        heard.append((app, message, len(server.taken)))

    message = note()
    with email_dispatched.connected_to(hear):
        live.extensions["mail"].send(message)
    assert heard == [(live, message, 1)]
    assert email_dispatched.name == "email-dispatched"


def test_the_signal_is_sent_when_suppressed_too(app, mail):
    with mail.record_messages() as outbox:
        message = note()
        mail.send(message)
    assert outbox == [message]


def test_the_signal_is_never_sent_on_an_error(live, server):
    server.handler.answers["DATA"] = "554 no"
    mail = live.extensions["mail"]
    with mail.record_messages() as outbox:
        with pytest.raises(OSError, match="554"):
            mail.send(note())
        with pytest.raises(BadHeaderError):
            mail.send(note(subject="a\nb"))
    assert outbox == []


@pytest.mark.parametrize("fields", [{"sender": None}, {"recipients": []}])
def test_no_sender_and_no_recipients_are_two_errors_at_once(app, mail, fields):
    app.extensions["mail"].default_sender = None
    message = note(**{"sender": "a@example.com", **fields})
    with pytest.raises(AssertionError) as caught:
        mail.send(message)
    assert isinstance(caught.value, MessageError)
    assert isinstance(caught.value, ValueError)


WITHOUT_ASSERTIONS = """
import asyncio
from flask import Flask
from flask_outbox import Mail, Message, MessageError
app = Flask("shop")
app.testing = True
mail = Mail(app)
raised = 0
with app.app_context():
    for fields in ({"recipients": ["a@example.org"]}, {"sender": "a@example.com"}):
        for way in (mail.send, mail.send_later, lambda m: asyncio.run(mail.send_async(m))):
            try:
                way(Message("hi", **fields))
            except AssertionError as error:
                raised += isinstance(error, MessageError)
print(raised, __debug__)
"""


def test_the_errors_of_a_missing_sender_or_recipient_survive_optimised_python():
    done = subprocess.run(
        [sys.executable, "-O", "-c", WITHOUT_ASSERTIONS],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["6", "False"]


@pytest.mark.parametrize(
    "fields",
    [
        {"subject": "a\r\n"},
        {"sender": "a@example.com\r\n"},
        {"reply_to": "a@example.com\r"},
        {"recipients": ["a\r\n@example.org"]},
    ],
)
def test_bad_headers_are_refused_when_sent(mail, fields):
    with pytest.raises(BadHeaderError):
        mail.send(note(**fields))


def test_sendmail_is_called_positionally_with_the_bytes_of_the_message(mail):
    message = note(sender=("Shop", "shop@example.com"), body="Öö", mail_options=["BODY=8BITMIME"])
    with mail.connect() as connection, mock.patch.object(connection, "host") as host:
        connection.send(message)
        host.sendmail.assert_called_once_with(
            "shop@example.com",
            ["ada@example.org"],
            message.as_bytes(),
            message.mail_options,
            message.rcpt_options,
        )


def test_envelope_from_is_the_senders_place_on_the_envelope_alone(mail, live, server):
    with live.extensions["mail"].connect() as connection:
        connection.send(note(), envelope_from="bounces@example.com")
        connection.send(note(), "positional@example.com")
    assert [each.sender for each in server.taken] == [
        "bounces@example.com",
        "positional@example.com",
    ]
    assert b"From: shop@example.com" in server.taken[0].content


@pytest.mark.parametrize(
    "break_",
    [
        *("\r", "\n", "\r\n", "\r\n ", "\n ", "\0", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85"),
        *("\u2028", "\u2029", "\x7f", "\ud800", "> ", "=?utf-8?q?=0A?="),
    ],
    ids=ascii,
)
@pytest.mark.parametrize("end", ["RCPT TO:<e@x.test>", "@x.test"])
def test_envelope_from_is_no_way_into_the_dialogue(live, server, break_, end):
    with live.extensions["mail"].connect() as connection:
        for given in (f"a@x.test{break_}{end}", ("Bounces", f"a{break_}{end}")):
            with pytest.raises(MessageError, match=r"^envelope_from ") as caught:
                connection.send(note(), envelope_from=given)
            assert "e@x.test" not in str(caught.value)
    assert server.taken == []


def test_host_is_none_when_suppressed(mail):
    with mail.connect() as connection:
        assert connection.host is None


def test_host_is_there_when_not_suppressed(live):
    with live.extensions["mail"].connect() as connection:
        assert connection.host is not None


def test_a_hundred_messages_go_over_one_connection(live, server):
    with live.extensions["mail"].connect() as connection:
        for _ in range(100):
            connection.send(note())
    assert len(server.taken) == 100
    assert len({each.peer for each in server.taken}) == 1


def test_mail_max_emails_reconnects(live, server):
    live.extensions["mail"].max_emails = 2
    with live.extensions["mail"].connect() as connection:
        for _ in range(5):
            connection.send(note())
        assert connection.num_emails == 1
    assert len({each.peer for each in server.taken}) == 3


def test_without_an_app_context_connect_says_what_to_do():
    with pytest.raises(RuntimeError, match="app_context"):
        Mail().connect()


def test_an_app_without_mail_says_what_to_do():
    with Flask("bare").app_context(), pytest.raises(RuntimeError, match="init_app"):
        Mail().connect()


def test_current_app_goes_before_the_app_of_mail(app, server):
    other = Flask("other")
    other.config.update(MAIL_PORT=server.port, MAIL_DEFAULT_SENDER="other@example.com")
    mail = Mail(app)
    Mail(other)
    with other.app_context():
        mail.send(note())
    assert [each.sender for each in server.taken] == ["other@example.com"]


def test_without_a_context_the_app_of_mail_is_used(tmp_path, server):
    app = Flask("shop")
    app.config.update(MAIL_PORT=server.port, MAIL_DEFAULT_SENDER="shop@example.com")
    mail = Mail(app)
    heard = []

    def hear(app, message):
        heard.append((app, current_app.name))

    with email_dispatched.connected_to(hear):
        mail.send(note())
    assert heard == [(app, "shop")]
    assert len(server.taken) == 1


def test_suppress_is_as_set_live_then_as_configured_then_as_app_testing_is(app):
    app.testing = False
    mail = Mail(app)
    state = app.extensions["mail"]
    assert state.suppress is False
    app.testing = True
    assert state.suppress is True
    state.suppress = False
    assert state.suppress is False
    app.config["MAIL_SUPPRESS_SEND"] = False
    mail.init_app(app)
    assert app.extensions["mail"].suppress is False
    app.extensions["mail"].suppress = True
    assert app.extensions["mail"].suppress is True


def test_testing_set_after_init_app_is_read_when_sending(live, server):
    live.config["TESTING"] = True
    live.extensions["mail"].send(note())
    assert server.taken == []


def test_live_fields_decide_where_mail_goes(app, server):
    mail = Mail(app)
    state = app.extensions["mail"]
    state.suppress = False
    state.port = server.port
    mail.send(note())
    assert len(server.taken) == 1


def test_sending_from_a_thread_with_the_apps_context_works(live, server):
    def work():
        with live.app_context():
            live.extensions["mail"].send(note())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.taken) == 4


def test_sending_in_an_async_view_works(live, server):
    @live.get("/")
    async def view():
        live.extensions["mail"].send(note())
        return "sent"

    assert live.test_client().get("/").text == "sent"
    assert len(server.taken) == 1


def test_a_connection_refused_is_caught_as_before(app):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        app.config.update(TESTING=False, MAIL_PORT=unused.getsockname()[1])
        mail = Mail(app)
        with pytest.raises(ConnectionRefusedError):
            mail.send(note())


def test_a_connection_can_be_made_of_mail_itself(app, mail):
    with Connection(mail) as connection, mail.record_messages() as outbox:
        connection.send(note())
    assert len(outbox) == 1


def test_mail_can_be_copied_and_a_typo_is_an_attribute_error(app, mail):
    twin = copy.copy(mail)
    with twin.record_messages() as outbox:
        twin.send(note())
    assert len(outbox) == 1
    with pytest.raises(AttributeError, match="servre"):
        _ = mail.servre


def test_the_tutorials_task_runs_unchanged(app, mail):
    data = {"subject": "hi", "recipients": ["ada@example.org"], "body": "text"}

    def task(msg_data):
        with app.app_context():
            mail.send(Message(**msg_data))

    with mail.record_messages() as outbox:
        task(data)
    assert outbox[0].subject == "hi"


def test_an_app_of_the_documentation_behaves_the_same(tmp_path, server):
    app = Flask(__name__)
    app.config.update(MAIL_PORT=server.port, MAIL_DEFAULT_SENDER="from@example.com")
    mail = Mail(app)

    @app.route("/")
    def index():
        msg = Message("Hello", sender=("Me", "me@example.com"), recipients=["to@example.com"])
        msg.add_recipient("somebodyelse@example.com")
        msg.body = "testing"
        msg.html = "<b>testing</b>"
        msg.attach("image.png", "image/png", b"\x89PNG")
        mail.send(msg)
        with mail.connect() as conn:
            for user in ["one@example.com", "two@example.com"]:
                conn.send(Message(recipients=[user], body="...", subject=f"hello, {user}"))
        return "ok"

    assert app.test_client().get("/").text == "ok"
    assert [each.recipients for each in server.taken] == [
        ["to@example.com", "somebodyelse@example.com"],
        ["one@example.com"],
        ["two@example.com"],
    ]
