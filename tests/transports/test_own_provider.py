"""A provider of an app's own: what it refuses in its request is refused at the call."""

from types import SimpleNamespace

import pytest

from contract.http_mails import plain, rich, sealed
from flask_outbox.mail.errors import UnsupportedFeature
from flask_outbox.mail.exchange import HttpRequest
from flask_outbox.transports.base import Carries, HttpTransport
from flask_outbox.transports.carries import completed, refuse


class Pigeon(HttpTransport):
    name = "pigeon"
    home = "https://api.pigeon.example"
    carries = Carries(raw=False, envelope=False, utf8=False)

    def request(self, submission):
        parts = self.parts(submission)
        if parts.attachments:
            raise UnsupportedFeature("pigeon cannot carry attachments.")
        return HttpRequest.json(self.home, headers={}, body={"text": parts.text})

    def reference(self, response):
        return response.text_at("id")


def test_what_it_refuses_in_its_request_is_refused_at_the_call():
    Pigeon("key").check(sealed(plain()))
    with pytest.raises(UnsupportedFeature, match="attachments"):
        Pigeon("key").check(sealed(rich()))


def test_what_no_parts_have_a_place_for_is_refused_for_it():
    with pytest.raises(UnsupportedFeature, match="pigeon cannot carry text/x-amp-html"):
        Pigeon("key").check(sealed(plain(alts={"x-amp-html": "<html amp4email></html>"})))


def test_what_declares_only_how_much_it_takes_is_otherwise_as_a_relay():
    small = SimpleNamespace(size=10)
    assert completed(small) == Carries(size=10)
    with pytest.raises(UnsupportedFeature, match="pigeon cannot carry a message of more than 10"):
        refuse("pigeon", small, sealed(plain()))


def test_it_may_have_a_mail_without_a_subject():
    message = plain()
    message.subject = ""
    Pigeon("key").check(sealed(message))
