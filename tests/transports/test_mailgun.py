"""Mailgun, beside its documentation."""

from base64 import b64decode, b64encode
from email import message_from_bytes, policy
from pathlib import Path
from typing import ClassVar

import pytest

from contract.http_mails import ADA, BOB, HEX, plain, rich, sealed
from contract.http_transport_contract import KEY, HttpTransportContract
from flask_outbox.mail.errors import ConfigurationError
from flask_outbox.mail.exchange import Tls
from flask_outbox.mail.message import Message
from flask_outbox.transports.mailgun import Mailgun
from flask_outbox.transports.url import transport_from_url
from hostile_http import say

DOMAIN = "mg.example.com"
AS_SEALED = "the mail as it is sealed"
TEMPLATE = {
    "template": "welcome",
    "t:version": "v2",
    "t:text": True,
    "t:variables": {"name": "Ünal", "count": 0},
}


def empty(**more):
    return Message("", [ADA], sender="shop@example.com", **more)


def form(asked):
    """Read a form, by another's reader."""
    head = f"content-type: {asked.headers['content-type']}\r\n\r\n".encode()
    parsed = message_from_bytes(head + asked.body, policy=policy.HTTP)
    assert not parsed.defects
    for part in parsed.iter_parts():
        name = part.get_param("name", header="content-disposition")
        yield name, part


def message_of(asked):
    """Give the bytes of the file, with nothing between."""
    mark = f"--{asked.headers['content-type'].partition('boundary=')[2]}".encode()
    *_, last, end = asked.body.split(mark)
    assert end == b"--\r\n"
    head, _, content = last.partition(b"\r\n\r\n")
    assert b'name="message"; filename=' in head
    return content.removesuffix(b"\r\n")


class TestMailgun(HttpTransportContract):
    recorded = Path(__file__).parent / "fixtures" / "mailgun"
    secrets = (KEY, b64encode(f"api:{KEY}".encode()).decode())
    largest = 25 * 1024 * 1024
    mails: ClassVar = {
        "a template": lambda: sealed(empty(provider=TEMPLATE)),
        "watched": lambda: sealed(plain(track_opens=True, track_clicks=True)),
        "unwatched": lambda: sealed(plain(track_opens=False, track_clicks=False)),
        "several tags": lambda: sealed(plain(tags=["welcome", "two words"])),
        "a test": lambda: sealed(plain(provider={"o:testmode": True, "o:require-tls": False})),
        "every option": lambda: sealed(
            plain(
                provider={
                    "o:dkim": True,
                    "o:secondary-dkim": "example.com/s1",
                    "o:secondary-dkim-public": "public.example.com/s1",
                    "o:deliverytime-optimize-period": "24h",
                    "o:time-zone-localize": "08:00",
                    "o:tracking": False,
                    "o:tracking-pixel-location-top": "htmlonly",
                    "o:skip-verification": False,
                    "o:sending-ip": "192.0.2.1",
                    "o:sending-ip-pool": "p-1",
                    "o:archive-to": "https://archive.example.com",
                    "o:deliver-within": "1h30m",
                    "o:suppress-headers": "X-Mailgun-Variables",
                }
            )
        ),
    }
    unsupported: ClassVar = {
        "besides a template": lambda: sealed(plain(provider=TEMPLATE)),
        "return_path": lambda: sealed(plain(), sender="bounces@example.com"),
        "a return_path of its own": lambda: sealed(
            empty(provider=TEMPLATE), sender="bounces@example.com"
        ),
        "mail_options": lambda: sealed(plain(mail_options=["BODY=8BITMIME"])),
        "local part is not ASCII": lambda: sealed(
            Message("hi", ["ünal@example.org"], "hello", sender="shop@example.com")
        ),
        "of tags": lambda: sealed(plain(tags=[str(at) for at in range(11)])),
        "tags that do not match": lambda: sealed(plain(tags=["x" * 129])),
        "tags that do not match [ -~]": lambda: sealed(plain(tags=["é"])),
        "more than 1000 of metadata": lambda: sealed(
            plain(), metadata={str(at): "x" for at in range(1001)}
        ),
        "metadata that do not match": lambda: sealed(plain(metadata={'a"; x="b': "c"})),
        "options of more than 16384 octets": lambda: sealed(plain(metadata={"a": "é" * 8192})),
        "recipients in one message": lambda: sealed(
            plain(), *(f"r{at}@example.org" for at in range(1001))
        ),
        "provider['o:deliverytime']": lambda: sealed(plain(provider={"o:deliverytime": "x"})),
    }

    def at(self, home, **more):
        return Mailgun(KEY, DOMAIN, home, **more)

    def with_key(self, key):
        return Mailgun(key, DOMAIN)

    def read(self, asked):
        return [
            [name, AS_SEALED if name == "message" else part.get_payload(decode=True).decode()]
            for name, part in form(asked)
        ]

    def test_the_mail_goes_as_it_is_sealed(self, server, transport):
        for submission in (sealed(rich()), sealed(plain())):
            server.requests.clear()
            self.carry(transport.send([submission]))
            (asked,) = server.requests
            assert message_of(asked) == submission.content
            (part,) = [part for name, part in form(asked) if name == "message"]
            assert part.get_content_type() == "message/rfc822"

    def test_who_is_still_to_be_reached_is_named_and_nobody_else(self, server, transport):
        self.carry(transport.send([sealed(rich(), BOB, HEX)]))
        assert dict(self.read(server.requests[0]))["to"] == f"{BOB}, {HEX}"

    def test_the_key_is_the_password_of_a_user_named_api(self, server, transport):
        self.carry(transport.send([sealed(plain())]))
        said = server.requests[0].headers["authorization"]
        assert b64decode(said.removeprefix("Basic ")) == f"api:{KEY}".encode()

    def test_the_key_is_not_told_in_any_form(self):
        login = b64encode(f"api:{KEY}".encode()).decode()
        (outcome,) = self.sent({"whole": say(400, {"message": f"{login} api:{KEY}"})})
        assert outcome.text == "400 *** ***"

    def test_no_value_breaks_out_of_its_field(self, server, transport):
        values = ["--x", '"; name="to', "a\tb", "=?utf-8?q?x?="]
        wanted = {f"m{at}": value for at, value in enumerate(values)}
        self.carry(transport.send([sealed(plain(metadata=wanted))]))
        (asked,) = server.requests
        said = self.read(asked)
        assert {f"v:{name}": value for name, value in wanted.items()}.items() <= dict(said).items()
        assert [name for name, _ in said].count("to") == 1

    def test_what_divides_the_form_is_made_of_all_that_it_divides(self, server, transport):
        one = {"a": "x"}
        several = [sealed(plain()), sealed(plain(metadata=one)), sealed(plain(), BOB)]
        self.carry(transport.send([*several, sealed(rich(), ADA, metadata={}, tags=())]))
        assert len({asked.headers["content-type"] for asked in server.requests}) == 4

    def test_as_many_octets_of_options_as_it_takes_go_along(self, transport):
        row = len("v:outbox_id") + 36
        transport.check(sealed(plain(metadata={"a": "x" * (16 * 1024 - row - len("v:a"))})))


def test_by_itself_it_goes_to_mailgun():
    assert Mailgun(KEY, DOMAIN).home == "https://api.mailgun.net"
    assert repr(Mailgun(KEY, DOMAIN)) == "<Mailgun https://api.mailgun.net>"


def test_its_url_names_the_domain():
    url = f"mailgun://{KEY}@{DOMAIN}?home=https://api.eu.mailgun.net&ca_file=a"
    transport = transport_from_url(url)
    assert isinstance(transport, Mailgun)
    assert (transport.token, transport.domain) == (KEY, DOMAIN)
    assert (transport.home, transport.tls) == ("https://api.eu.mailgun.net", Tls(ca_file="a"))


@pytest.mark.parametrize(
    "domain", ["", "example", "a b.com", "a.com/x", "a.com\r\n", "é.com", ".."]
)
def test_what_is_no_domain_is_refused(domain):
    with pytest.raises(ConfigurationError, match="mailgun://KEY@DOMAIN"):
        Mailgun(KEY, domain)
