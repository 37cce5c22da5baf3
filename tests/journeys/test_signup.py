"""The example, whatever becomes of its mail: what its user is told; the account is kept."""

import os
import sys
import threading
from contextlib import ExitStack, contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from flask_outbox import message_deferred, message_failed, message_sent
from hostile import Hostile, reset, say

SIGNUP = Path(__file__).parents[2] / "examples" / "signup" / "app.py"
ADA = "ada@example.org"

ON_ITS_WAY = "Your mail is on its way."
SENT = "Your mail has been sent."
PERHAPS = "Your mail may have been sent."
NOT_SENT = "Your mail could not be sent. Your account is safe"


class Shop:
    """The example with its pages, its accounts, and what its outbox tells."""

    def __init__(self, example, told):
        self.app = example.create_app()
        self._example = example
        self._told = told

    def sign_up(self, email):
        client = self.app.test_client()
        data = {} if email is None else {"email": email}
        return client, client.post("/signup", data=data)

    def wait(self):
        """Wait until something became of the mail."""
        assert self._told.wait(30)

    def accounts(self):
        db, user = self._example.db, self._example.User
        with self.app.app_context():
            return [each.email for each in db.session.scalars(db.select(user))]

    def close(self):
        self.app.extensions["outbox"].close()
        with self.app.app_context():
            self._example.db.engine.dispose()


@pytest.fixture
def open_shop(tmp_path, monkeypatch):
    """Make the example as a user would start it, with its settings in the environment."""
    for key in os.environ:
        if key.startswith(("FLASK_", "MAIL_", "SIGNUP_")):
            monkeypatch.delenv(key)
    told = threading.Event()

    def tell(_app, **_named):
        told.set()

    @contextmanager
    def opened(port, **settings):
        given = {
            "FLASK_SKIP_DOTENV": "1",
            "FLASK_SECRET_KEY": "of this test",
            "SIGNUP_INSTANCE": str(tmp_path),
            "MAIL_SERVER": "127.0.0.1",
            "MAIL_PORT": str(port),
            "MAIL_DEFAULT_SENDER": "hello@example.com",
            "MAIL_BASE_URL": "http://localhost",
            "MAIL_MAX_UNCLEAR": "0",
            **settings,
        }
        for key, value in given.items():
            monkeypatch.setenv(key, value)
        spec = spec_from_file_location("signup_example", SIGNUP)
        example = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, example)  # where Flask looks for its templates
        spec.loader.exec_module(example)
        with ExitStack() as stack:
            for signal in (message_sent, message_deferred, message_failed):
                stack.enter_context(signal.connected_to(tell))
            shop = Shop(example, told)
            stack.callback(shop.close)
            yield shop

    return opened


def told_after_sign_up(shop):
    client, answer = shop.sign_up(ADA)
    assert (answer.status_code, answer.location) == (302, "/waiting")
    shop.wait()
    page = client.get("/waiting")
    assert page.status_code == 200
    assert shop.accounts() == [ADA]
    return page.text


OUTCOMES = {
    "accepted": ({}, SENT),
    "put off": ({"RCPT": say(b"451 4.2.1 later")}, ON_ITS_WAY),
    "turned away at the door": ({"greet": say(b"554 5.3.2 not now")}, ON_ITS_WAY),
    "refused": ({"RCPT": say(b"550 5.1.1 no such user")}, NOT_SENT),
    "unclear": ({"dot": reset}, PERHAPS),
}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_the_user_is_told_in_plain_words_and_the_account_is_kept(open_shop, outcome):
    script, words = OUTCOMES[outcome]
    with Hostile(script) as server, open_shop(server.port) as shop:
        assert words in told_after_sign_up(shop)


def test_with_a_relay_that_is_away_the_mail_is_on_its_way(open_shop):
    with Hostile() as server:
        nobody_is_at = server.port
    with open_shop(nobody_is_at) as shop:
        assert ON_ITS_WAY in told_after_sign_up(shop)


def test_with_an_outbox_that_is_broken_the_account_is_kept_and_another_mail_can_be_had(
    open_shop, tmp_path, caplog
):
    outbox = tmp_path / "outbox.sqlite3"
    outbox.write_bytes(b"x" * 9000)
    with Hostile() as server, open_shop(server.port) as shop:
        client, answer = shop.sign_up(ADA)
        assert answer.status_code == 302
        assert NOT_SENT in client.get("/waiting").text
        assert shop.accounts() == [ADA]
        assert "could not be queued" in caplog.text
        outbox.unlink()
        assert client.post("/again").status_code == 302
        shop.wait()
        assert SENT in client.get("/waiting").text
        assert len(server.accepted) == 1


BAD = (
    *(None, "", " ", "x", "@", "a@b,c@d", "a@b@c", "\0@example.org", "a\r\nBcc: b@example.org"),
    *("a@-", f"a@{'x' * 300}", f"{'x' * 100_000}@example.org", "Ada <ada@example.org>, b@c"),
)
OTHER_SCRIPTS = ("ü@example.org", "ada@münchen.example", "用户@例子.example")


@pytest.mark.parametrize("number", range(len(BAD)))
def test_what_is_no_address_is_said_to_be_none_and_makes_no_account(open_shop, number):
    with Hostile() as server, open_shop(server.port) as shop:
        _, answer = shop.sign_up(BAD[number])
        assert answer.status_code == 400
        assert "That is not an address." in answer.text
        assert shop.accounts() == []
        assert server.connections == 0


@pytest.mark.parametrize("email", OTHER_SCRIPTS)
def test_an_address_in_any_script_may_sign_up(open_shop, email):
    with Hostile() as server, open_shop(server.port) as shop:
        client, answer = shop.sign_up(email)
        assert answer.status_code == 302
        shop.wait()
        assert client.get("/waiting").status_code == 200
        assert len(shop.accounts()) == 1


def test_bytes_that_are_no_text_break_nothing(open_shop):
    with Hostile() as server, open_shop(server.port) as shop:
        _, answer = shop.sign_up(b"\xff@example.org")
        assert answer.status_code in {302, 400}
