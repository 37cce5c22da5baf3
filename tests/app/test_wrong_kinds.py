"""What an app hands to Mail and is of a wrong kind: an error at the call, which names it."""

import asyncio

import pytest
from flask import Flask

from flask_outbox import Mail, Message, MessageError


def note(**fields):
    return Message(**{"subject": "hi", "recipients": ["ada@example.org"], "body": "text", **fields})


@pytest.fixture
def make_app(tmp_path):
    made = []

    def make(**config):
        app = Flask("shop", instance_path=str(tmp_path / "instance"))
        app.config.update(MAIL_PORT=9, MAIL_DEFAULT_SENDER="shop@example.com", **config)
        made.append(app)
        return app

    yield make
    for app in made:
        app.extensions["outbox"].close()


@pytest.mark.parametrize("testing", [False, True])
@pytest.mark.parametrize(
    "wrong",
    [None, 5, 10**400, b"x", object(), [], ["x"], ("a",), {"a"}, {"a": 5}],
    ids=lambda wrong: type(wrong).__name__,  # the same in each process of the suite
)
def test_what_is_no_id_is_answered_at_the_call(make_app, wrong, testing):
    app = make_app(MAIL_WORKER="process", TESTING=testing)
    mail = Mail(app)
    with app.app_context():
        mail.send_later(note())
        for ask in (mail.status, mail.cancel):
            with pytest.raises(MessageError, match="id must be the text that send_later returned"):
                ask(wrong)


@pytest.mark.parametrize("testing", [False, True])
@pytest.mark.parametrize("unknown", ["", "x", "\ud800", "a\0b", "ü", "x" * 100_000], ids=len)
def test_an_id_that_can_be_nobodys_is_one_that_does_not_exist(make_app, unknown, testing):
    app = make_app(MAIL_WORKER="process", TESTING=testing)
    mail = Mail(app)
    with app.app_context():
        mail.send_later(note())
        assert mail.status(unknown) is None
        assert not mail.cancel(unknown)


@pytest.mark.parametrize(
    "wrong", [5, object(), ["x"], {5: 5}], ids=["int", "object", "list", "dict"]
)
@pytest.mark.parametrize(
    "field", ["recipients", "cc", "bcc", "alts", "extra_headers", "attachments"]
)
def test_a_field_of_a_wrong_kind_is_named_by_send_async_too(make_app, field, wrong):
    mail = Mail(app := make_app(TESTING=True))
    message = note()
    setattr(message, field, wrong)
    with app.app_context(), pytest.raises(MessageError, match=f"{field}|html"):
        asyncio.run(mail.send_async(message))
