"""SendGrid, beside its documentation."""

from pathlib import Path
from typing import ClassVar

import pytest

from contract.http_mails import ADA, BOB, plain, rich, sealed, with_an_empty_attachment
from contract.http_transport_contract import KEY, HttpTransportContract
from flask_outbox.mail.address import Address
from flask_outbox.mail.message import Message
from flask_outbox.transports.sendgrid import SendGrid

TEMPLATE = {
    "template_id": "d-1",
    "dynamic_template_data": {"name": "", "count": 0, "missing": None},
}


def empty(**more):
    return Message("", [ADA], sender="shop@example.com", **more)


class TestSendGrid(HttpTransportContract):
    recorded = Path(__file__).parent / "fixtures" / "sendgrid"
    largest = 30 * 1024 * 1024
    mails: ClassVar = {
        "html alone": lambda: sealed(
            Message("hi", [ADA], html="<p>hello</p>", sender="shop@example.com")
        ),
        "a template": lambda: sealed(empty(provider=TEMPLATE)),
        "a template without data": lambda: sealed(empty(provider={"template_id": "d-1"})),
        "watched": lambda: sealed(plain(track_opens=True, track_clicks=True)),
        "unwatched": lambda: sealed(plain(track_opens=False, track_clicks=False)),
        "an unsubscribe group": lambda: sealed(
            plain(provider={"asm": {"group_id": 7, "groups_to_display": []}})
        ),
        "a test": lambda: sealed(
            plain(
                provider={
                    "mail_settings": {"sandbox_mode": {"enable": True}},
                    "ip_pool_name": "bulk",
                }
            )
        ),
        "somebody named twice": lambda: sealed(
            Message(
                "hi",
                [("Byron; Ada", ADA), ADA],
                "hello",
                sender="shop@example.com",
                cc=[ADA, BOB],
                tags=["a", "a"],
                extra_headers={"X-Wish": "søt"},
            )
        ),
    }
    unsupported: ClassVar = {
        "without a subject": lambda: sealed(empty(body="x")),
        "besides a template": lambda: sealed(plain(provider=TEMPLATE)),
        "of tags": lambda: sealed(plain(tags=[str(at) for at in range(11)])),
        "tags that do not match": lambda: sealed(plain(tags=["x" * 256])),
        "more than 1000 of metadata": lambda: sealed(
            plain(), metadata={str(at): "x" for at in range(1001)}
        ),
        "metadata that do not match": lambda: sealed(plain(metadata={"": "c"})),
        "metadata whose values do not match": lambda: sealed(plain(metadata={"a": ""})),
        "metadata of more than 10000 octets": lambda: sealed(
            plain(metadata={"ü" * 900: "é" * 900, "a": "ß" * 4200})
        ),
        "an attachment that is empty": lambda: sealed(with_an_empty_attachment()),
        "recipients in one message": lambda: sealed(
            plain(), ADA, *(f"r{at}@example.org" for at in range(1000))
        ),
        **{
            f"a header {name}": lambda name=name: sealed(plain(extra_headers={name: "x"}))
            for name in ("X-SG-ID", "x-sg-eid", "Received", "DKIM-Signature")
        },
    }

    def at(self, home, **more):
        return SendGrid(KEY, home, **more)

    def test_a_thousand_recipients_are_no_more_than_it_takes(self, transport):
        many = [f"r{at}@example.org" for at in range(1000)]
        transport.check(sealed(Message("hi", many, "x", sender="s@example.com")))

    def test_metadata_of_as_many_octets_as_it_takes_go_along(self, transport):
        row = len("outbox_id") + 36
        transport.check(sealed(plain(metadata={"a": "x" * (9_999 - row)})))

    @pytest.mark.parametrize("name", ["Ada, née Byron", 'A "B"; C'])
    def test_a_name_that_would_break_the_field_to_goes_in_quotes(self, server, transport, name):
        message = plain()
        message.recipients = [(name, ADA)]
        self.carry(transport.send([sealed(message)]))
        (person,) = server.requests[0].json()["personalizations"][0]["to"]
        assert f"{person['name']} <{ADA}>" == str(Address(name, ADA))
        assert person["name"].startswith('"')

    def test_a_text_of_blanks_is_no_text(self, server, transport):
        message = rich()
        message.body = " \n"
        self.carry(transport.send([sealed(message, ADA)]))
        (content,) = server.requests[0].json()["content"]
        assert content["type"] == "text/html"


def test_by_itself_it_goes_to_sendgrid():
    assert SendGrid(KEY).home == "https://api.sendgrid.com"
    assert repr(SendGrid(KEY)) == "<SendGrid https://api.sendgrid.com>"
